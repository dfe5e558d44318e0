"""One step of the loop against numbers by hand: learning rate, clipping, moving average, what validations measure."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from toy_mocks import TRAINING, toy_source, toy_trainer

from lensscan.train.loop import Trainer, evaluate, learning_rate
from lensscan.train.settings import TrainSettings

NETWORK = {"widths": [4], "depths": [0], "hidden": 4, "squeeze": 2, "condition": 2}


def settings_of(**optimiser) -> TrainSettings:
    return TrainSettings.from_mapping({**TRAINING, "network": NETWORK, "optimiser": optimiser}, "toy")


@pytest.fixture
def trainers(tmp_path):
    opened = []

    def make(place: Path = tmp_path, **optimiser) -> Trainer:
        opened.append(toy_trainer(place, settings_of(**optimiser)))
        return opened[-1]

    yield make
    for trainer in opened:
        trainer.stream.close()


def rates(trainer: Trainer, steps: int) -> list[float]:
    """Return the optimiser's own learning rate at each step; all its groups have the same."""
    found = []
    for _ in range(steps):
        trainer.train_step()
        assert len({group["lr"] for group in trainer.optimiser.param_groups}) == 1
        found.append(trainer.optimiser.param_groups[0]["lr"])
    return found


def test_the_optimiser_warms_up_and_then_follows_half_a_cosine(trainers):
    """Of 24 steps four are the warm-up; the step 14 lies in the middle between the peak and a tenth of it."""
    found = rates(trainers(lr=0.01, warmup=4, final=0.1), 24)
    assert found[:5] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert found[9] == pytest.approx(0.001 + 0.009 * 0.5 * (1 + math.cos(math.pi * 5 / 20)))
    assert found[14] == pytest.approx(0.0055)
    assert found[23] == pytest.approx(0.001 + 0.009 * 0.5 * (1 + math.cos(math.pi * 19 / 20)))


def test_a_decay_divides_the_learning_rate_after_the_warm_up(trainers):
    found = rates(trainers(lr=0.01, warmup=2, decay=0.5), 6)
    assert found == pytest.approx([0.005, 0.01, 0.01 / 2, 0.01 / 2.5, 0.01 / 3, 0.01 / 3.5])
    assert learning_rate(settings_of(lr=0.01, warmup=0, decay=0.5), 0) == 0.01


def test_the_average_moves_by_hand(trainers):
    """By 1 - (1 + step) / (10 + step) at the start, by 1 - ema when that is less."""
    trainer = trainers(lr=0.05, warmup=0, ema=0.25)
    expected = [value.detach().clone().double() for value in trainer.average.parameters()]
    for step, kept in ((1, 2 / 11), (2, 3 / 12), (3, 0.25)):
        trainer.train_step()
        assert trainer.step == step
        fast = [value.detach().double() for value in trainer.network.parameters()]
        expected = [kept * slow + (1 - kept) * value for slow, value in zip(expected, fast, strict=True)]
        for slow, value, moving in zip(trainer.average.parameters(), expected, fast, strict=True):
            torch.testing.assert_close(slow.double(), value, rtol=1e-5, atol=1e-7)
            assert not torch.equal(slow.double(), moving)


@pytest.mark.parametrize("clip", [1e-3, 1e9])
def test_the_gradient_is_no_longer_than_the_clip(trainers, clip):
    """As the optimiser sees it; of a shorter one nothing is taken away."""
    trainer, seen = trainers(clip=clip), []

    def norm(*_arguments: object) -> None:
        seen.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in trainer.parameters)))

    trainer.optimiser.register_step_pre_hook(norm)
    trainer.train_step()
    if clip < 1:
        assert seen == pytest.approx([clip], rel=1e-2)
    else:
        assert 1e-2 < seen[0] < 1e4


def test_a_validation_measures_the_average_and_not_the_weights_of_the_last_step(trainers):
    trainer = trainers(lr=0.05, warmup=0, ema=0.999)
    for _ in range(6):
        trainer.train_step()
    sample = toy_source(500, 64)
    trainer._validation = sample
    found = trainer.validate(lambda line: None)
    with torch.no_grad():
        wanted, raw = (
            evaluate(network.eval(), sample, trainer.settings, trainer.pixel_scale)
            for network in (trainer.average, trainer.network)
        )
    assert found == wanted
    assert found["bce"] != pytest.approx(raw["bce"], rel=1e-3)
