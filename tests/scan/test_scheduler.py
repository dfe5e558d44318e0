"""The scheduler under a randomly interleaved transport: every block done, whatever dies."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensscan.errors import ExitCode
from lensscan.scan.protocol import Kind, Message
from lensscan.scan.scheduler import MAX_ATTEMPTS, Scheduler, Send, Warn


def sends(actions):
    return [(a.rank, a.message.kind, a.message.block) for a in actions if isinstance(a, Send)]


class World:
    """Workers that score blocks in random order of events; the ledger is a plain set."""

    def __init__(self, n_blocks, n_workers, seed, done=()):
        self.random = random.Random(seed)
        self.scheduler = Scheduler(
            [self.random.random() for _ in range(n_blocks)], set(done), n_workers, stall_seconds=50
        )
        self.ledger = set(done)
        self.scored = []
        self.now = 0.0
        self.inbox = {rank: deque() for rank in range(n_workers)}
        self.outbox = {rank: deque([Message(Kind.READY, rank, code=2)]) for rank in range(n_workers)}
        self.gone: set[int] = set()
        self.undelivered_deaths: list[int] = []

    def act(self, actions):
        for action in actions:
            if isinstance(action, Send) and action.rank not in self.gone:
                self.inbox[action.rank].append(action.message)

    def deliver(self, rank):
        if self.outbox[rank]:
            self.act(self.scheduler.on_message(self.outbox[rank].popleft(), self.now))

    def work(self, rank, fail):
        if rank in self.gone or not self.inbox[rank]:
            return
        message = self.inbox[rank].popleft()
        if message.kind == Kind.DRAIN:
            self.inbox[rank].clear()
            self.outbox[rank].append(Message(Kind.BYE, rank))
            self.gone.add(rank)
        elif fail:
            self.outbox[rank].append(Message(Kind.FAIL, rank, message.block, code=1))
        else:
            self.ledger.add(message.block)
            self.scored.append(message.block)
            self.outbox[rank].append(Message(Kind.DONE, rank, message.block, rows=1))

    def kill(self, rank):
        """A dead rank's unsent messages are lost; root hears of the death at some later time."""
        if rank in self.gone:
            return
        self.gone.add(rank)
        keep = self.random.randint(0, len(self.outbox[rank]))
        while len(self.outbox[rank]) > keep:
            self.outbox[rank].pop()
        self.undelivered_deaths.append(rank)

    def step(self, kills, fail_rate):
        self.now += self.random.random()
        ranks = list(self.inbox)
        kind = self.random.random()
        if kind < 0.45:
            self.deliver(self.random.choice(ranks))
        elif kind < 0.9:
            self.work(self.random.choice(ranks), self.random.random() < fail_rate)
        elif kind < 0.95:
            self.act(self.scheduler.on_tick(self.now))
        elif self.undelivered_deaths:
            rank = self.undelivered_deaths.pop()
            while self.outbox[rank]:
                self.deliver(rank)
            self.act(self.scheduler.on_dead(rank, self.now))
        elif kills:
            self.kill(kills.pop())

    def run(self, kills=(), fail_rate=0.0, limit=60_000):
        kills = list(kills)
        for _ in range(limit):
            if self.scheduler.finished and not any(self.outbox.values()):
                return
            self.step(kills, fail_rate)
        raise AssertionError("the run never finished")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 6), st.integers(0, 10**6), st.data())
def test_every_block_is_done_whoever_dies(n_blocks, n_workers, seed, data):
    kills = data.draw(st.lists(st.integers(0, n_workers - 1), max_size=n_workers - 1, unique=True))
    world = World(n_blocks, n_workers, seed)
    world.run(kills)
    assert world.ledger == set(range(n_blocks))
    assert world.scheduler.complete
    assert world.scheduler.draining == ExitCode.OK or n_blocks == 0
    assert world.scheduler.rows_done == n_blocks, "each block is counted once, however often it was scored"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 10**6))
def test_without_faults_each_block_is_handed_out_once(n_blocks, n_workers, seed):
    world = World(n_blocks, n_workers, seed)
    world.run()
    assert sorted(world.scored) == list(range(n_blocks))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_failing_blocks_end_the_run_incomplete_not_hanging(n_blocks, n_workers, seed, fail_rate):
    world = World(n_blocks, n_workers, seed)
    world.run(fail_rate=fail_rate)
    left = set(range(n_blocks)) - world.ledger
    assert world.scheduler.abandoned == left
    assert world.scheduler.draining == (ExitCode.INCOMPLETE if left else ExitCode.OK)


def test_a_resumed_run_hands_out_only_what_is_left():
    world = World(10, 2, 1, done={0, 1, 2, 3})
    world.run()
    assert sorted(world.scored) == [4, 5, 6, 7, 8, 9]


def test_dearest_first_and_one_prefetched():
    scheduler = Scheduler([1.0, 9.0, 5.0, 7.0], expected=2)
    assert sends(scheduler.on_message(Message(Kind.READY, 0, code=2), 0.0)) == [
        (0, Kind.BLOCK, 1),
        (0, Kind.BLOCK, 3),
    ]
    assert sends(scheduler.on_message(Message(Kind.READY, 1, code=2), 0.0)) == [(1, Kind.BLOCK, 2)]
    assert sends(scheduler.on_message(Message(Kind.DONE, 1, 2, rows=1), 0.0)) == [(1, Kind.BLOCK, 0)], "the last one"


def test_more_workers_than_blocks():
    world = World(2, 6, 3)
    world.run()
    assert sorted(world.scored) == [0, 1]


def test_disk_full_drains_everyone_with_74():
    scheduler = Scheduler([1.0] * 5, expected=2)
    for rank in (0, 1):
        scheduler.on_message(Message(Kind.READY, rank, code=2), 0.0)
    actions = scheduler.on_message(Message(Kind.FAIL, 0, 0, code=ExitCode.DISK), 1.0)
    assert [(rank, kind) for rank, kind, _ in sends(actions)] == [(0, Kind.DRAIN), (1, Kind.DRAIN)]
    assert scheduler.draining == ExitCode.DISK


def test_a_block_is_abandoned_after_three_failures():
    scheduler = Scheduler([1.0], expected=1)
    actions = scheduler.on_message(Message(Kind.READY, 0, code=2), 0.0)
    for attempt in range(MAX_ATTEMPTS):
        assert sends(actions)[-1][1:] == (Kind.BLOCK, 0), f"attempt {attempt}"
        actions = scheduler.on_message(Message(Kind.FAIL, 0, 0, code=1), 1.0)
    assert sends(actions) == [(0, Kind.DRAIN, -1)]
    assert scheduler.abandoned == {0}


def test_blocks_of_a_stalled_worker_go_to_another():
    scheduler = Scheduler([1.0], expected=2, stall_seconds=10)
    scheduler.on_message(Message(Kind.READY, 0, code=2), 0.0)
    scheduler.on_message(Message(Kind.READY, 1, code=2), 0.0)
    scheduler.on_message(Message(Kind.BEAT, 0, rows=5), 8.0)
    assert scheduler.on_tick(15.0) == []
    actions = scheduler.on_tick(19.0)
    assert sends(actions) == [(1, Kind.BLOCK, 0)]
    assert any(isinstance(a, Warn) for a in actions)
    scheduler.on_message(Message(Kind.DONE, 1, 0, rows=3), 20.0)
    assert scheduler.complete
    scheduler.on_message(Message(Kind.DONE, 0, 0, rows=3), 21.0)
    assert scheduler.rows_done == 3


def test_a_block_given_up_on_one_worker_counts_when_a_stalled_one_brings_it_after_all():
    scheduler = Scheduler([1.0], expected=2, stall_seconds=10)
    for rank in (0, 1):
        scheduler.on_message(Message(Kind.READY, rank, code=2), 0.0)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert sends(scheduler.on_tick(20.0 * attempt)) == [(1, Kind.BLOCK, 0)]
        assert sends(scheduler.on_message(Message(Kind.FAIL, 1, 0, code=1), 20.0 * attempt)) == []
    assert scheduler.abandoned == {0}
    scheduler.on_message(Message(Kind.DONE, 0, 0, rows=3), 100.0)
    assert scheduler.abandoned == set()
    assert scheduler.complete
    assert scheduler.draining == ExitCode.OK


def test_protocol_round_trip_and_size():
    message = Message(Kind.DONE, 3, 2**40, 17, 2, 75, 1.5, tuple(range(16)))
    assert Message.unpack(message.pack()) == message
    assert len(message.pack()) == 80
    with pytest.raises(ValueError, match="bytes"):
        Message.unpack(b"short")
