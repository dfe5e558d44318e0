"""Several ranks as threads of one process: what they report, shares of unequal size, breaks, checkpoints that differ."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_mocks import TRAINING, toy_source, toy_trainer, train

from lensscan.errors import ConfigError, ExitCode, OutputError
from lensscan.train import loop
from lensscan.train.distributed import Serial
from lensscan.train.loop import Trainer

MAPPING = {
    **TRAINING,
    "steps": 10,
    "validate_every": 5,
    "checkpoint_seconds": 1e9,
    "network": {"widths": [8], "depths": [1], "hidden": 8, "squeeze": 4, "condition": 4},
    "optimiser": {"warmup": 2, "ema": 0.9, "lr": 3e-3},
}


class Meeting:
    """Where the threads meet: hands every one what all of them brought, in the order of their ranks."""

    def __init__(self, size: int) -> None:
        self.brought = [torch.zeros(0)] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def exchange(self, rank: int, value: torch.Tensor) -> list[torch.Tensor]:
        self.brought[rank] = value
        self.barrier.wait()
        found = [each.clone() for each in self.brought]
        self.barrier.wait()
        return found


class Thread(Serial):
    """The engine of one thread; weights need no broadcast, they come from the same seed."""

    name = "threads"

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.brought), meeting

    def average(self, flat: torch.Tensor) -> None:
        flat.copy_(torch.stack(self.meeting.exchange(self.rank, flat)).mean(dim=0))

    def any(self, flag: int) -> int:
        return max(int(value) for value in self.meeting.exchange(self.rank, torch.tensor(flag)))


def on_threads(trainers: list[Trainer], work: Callable[[Trainer], object]) -> list[object]:
    """Do the work of all ranks at once; returns what each gave or raised."""
    found: list[object] = [None] * len(trainers)

    def one(trainer: Trainer) -> None:
        try:
            found[trainer.engine.rank] = work(trainer)
        except Exception as error:
            found[trainer.engine.rank] = error

    threads = [threading.Thread(target=one, args=(trainer,)) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def ranks_of(folder: Path, size: int, **changes) -> list[Trainer]:
    meeting = Meeting(size)
    made = [toy_trainer(folder, {**MAPPING, **changes}, Thread(rank, meeting)) for rank in range(size)]
    for trainer in made:
        trainer.stream.source = double_source
        trainer._make_validation = lambda: double_source(10_000, 64)
    return made


def double_source(start, n):
    sample = toy_source(start, n)
    return dataclasses.replace(sample, images=sample.images.double(), latent=sample.latent.double())


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
