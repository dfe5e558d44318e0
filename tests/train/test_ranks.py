"""Several ranks as threads of one process: what they report, unequal shares, breaks, checkpoints that differ."""

from __future__ import annotations

import pytest
import torch
from toy_mocks import toy_source, train
from toy_ranks import double_source, on_threads, ranks_of

from lensscan.errors import ConfigError, ExitCode, OutputError
from lensscan.train import loop


@pytest.fixture
def double(monkeypatch):
    """Everything in float64, and losses reported every five steps."""
    monkeypatch.setattr(loop, "REPORT_EVERY", 5)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_same_records(found: list[dict], wanted: list[dict]) -> None:
    assert [(record["kind"], record["step"]) for record in found] == [(r["kind"], r["step"]) for r in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_the_curve_on_disk_is_that_of_the_global_batch(tmp_path, double, size):
    """Three shares of a batch of 32 are unequal: 10, 11 and 11 stamps."""
    (alone,) = ranks_of(tmp_path / "one", 1)
    assert train(alone) == ExitCode.OK
    trainers = ranks_of(tmp_path / "several", size)
    assert on_threads(trainers, train) == [ExitCode.OK] * size
    assert len(alone.history.records) == 4
    assert_same_records(trainers[0].history.records, alone.history.records)
    assert not any(trainer.history.records for trainer in trainers[1:])
    for name, value in alone.network.state_dict().items():
        for trainer in trainers:
            torch.testing.assert_close(trainer.network.state_dict()[name], value, rtol=0, atol=1e-9, msg=name)


def test_a_break_keeps_the_losses_of_all_ranks(tmp_path, double):
    (alone,) = ranks_of(tmp_path / "one", 1)
    train(alone)
    for until in (10, None):
        trainers = ranks_of(tmp_path / "several", 2, steps=20)
        on_threads(trainers, lambda trainer, until=until: train(trainer, until))
    whole = ranks_of(tmp_path / "whole", 2, steps=20)
    on_threads(whole, train)
    assert trainers[0].history.records == whole[0].history.records


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_that_one_rank_hears_stops_all_at_the_same_step(tmp_path, double, rank):
    """They ask one another every ten steps: heard after the third, it ends both at the tenth."""
    trainers = ranks_of(tmp_path, 2, steps=30)

    def work(trainer):
        heard = lambda: ExitCode.INTERRUPTED if trainer.engine.rank == rank and trainer.step >= 3 else None
        try:
            return trainer.fit(heard, lambda line: None), trainer.step
        finally:
            trainer.stream.close()

    assert on_threads(trainers, work) == [(ExitCode.INTERRUPTED, 10)] * 2
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_stop_that_one_rank_hears_while_mocks_are_made_stops_all(tmp_path):
    trainers = ranks_of(tmp_path, 2, stream={"chunk": 64, "window": 4, "epochs": True})
    made = [0, 0]

    def source(rank):
        def make(start, n):
            made[rank] += 1
            return toy_source(start, n)

        return make

    for trainer in trainers:
        trainer.stream.source = source(trainer.engine.rank)
        trainer.step = 3

    def work(trainer):
        heard = lambda: ExitCode.INCOMPLETE if trainer.engine.rank == 1 and made[1] == 2 else None
        try:
            return trainer.fit(heard, lambda line: None), trainer.step
        finally:
            trainer.stream.close()

    assert on_threads(trainers, work) == [(ExitCode.INCOMPLETE, 3)] * 2
    assert made == [2, 2]


def test_weighted_gradients_of_unequal_shares_are_that_of_the_whole_batch(tmp_path, double):
    (alone,) = ranks_of(tmp_path / "one", 1, augmentation={"noise": 0.0})
    whole = double_source(0, 32)
    alone.losses(whole)[0].backward()
    wanted = [parameter.grad.clone() for parameter in alone.parameters]
    alone.optimiser.zero_grad()
    shares = ranks_of(tmp_path / "several", 3)
    assert [trainer.stream.last - trainer.stream.first for trainer in shares] == [10, 11, 11]
    for trainer in shares:
        rows = slice(trainer.stream.first, trainer.stream.last)
        (alone.losses(whole.rows(rows))[0] * trainer.stream.weight / 3).backward()
    for parameter, gradient in zip(alone.parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    for trainer in (alone, *shares):
        trainer.stream.close()


def test_equal_shares_have_a_weight_of_exactly_one(tmp_path):
    for trainer in ranks_of(tmp_path, 4):
        assert trainer.stream.weight == 1.0


def test_more_ranks_than_stamps_of_a_batch_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch = 2 gives 3 ranks less than a stamp each"):
        ranks_of(tmp_path, 3, batch=2)


def test_ranks_that_read_different_checkpoints_stop_alike(tmp_path):
    (alone,) = ranks_of(tmp_path / "new", 1)
    train(alone, 4)
    kept = (tmp_path / "new" / "curves.jsonl").read_bytes()
    trainers = ranks_of(tmp_path / "new", 2)
    trainers[1].folder = tmp_path / "elsewhere"
    found = on_threads(trainers, lambda trainer: trainer.resume())
    assert all(isinstance(error, OutputError) for error in found)
    assert all("the ranks read steps from 0 to 4 in" in str(error) for error in found)
    assert (tmp_path / "new" / "curves.jsonl").read_bytes() == kept
