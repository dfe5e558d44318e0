"""Batch normalisation over several ranks: the statistics, gradients and loss curve of the whole batch on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from curves import curve, leave_curve, needs_horovod
from torch import nn
from toy_mocks import toy_trainer
from toy_ranks import Meeting, Thread, double_source, on_threads

from lensscan.errors import OutputError
from lensscan.nets import architecture
from lensscan.nets.classic.body import Body
from lensscan.nets.classic.registry import CLASSIFIERS, PUBLISHED
from lensscan.train.batchnorm import RankedBatchNorm, synchronise
from lensscan.train.distributed import Engine, Serial
from lensscan.train.loop import Trainer

SHARES = (slice(0, 3), slice(3, 7), slice(7, 12))
MAPPING = {
    "name": "toy",
    "recipe": "toy",
    "steps": 50,
    "batch": 12,
    "validate_every": 1000,
    "validation": 64,
    "network": {"kind": "toy-norm"},
    "stream": {"chunk": 48, "window": 2, "reuse": 2.0},
    "optimiser": {"warmup": 2, "ema": 0.9, "lr": 1e-3},
}


class ToyNorm(Body):
    """A residual block between batch normalisations, as DeepLens has dozens of."""

    def __init__(self, n_bands: int, size: int) -> None:
        super().__init__(n_bands, size)
        self.stem = nn.Sequential(nn.Conv2d(n_bands, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ELU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, 1e-3), nn.ELU())
        self.output = nn.Linear(8, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        active = self.stem(images)
        return self.output((active + self.inner(active)).mean(dim=(2, 3)))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for known in (PUBLISHED, CLASSIFIERS):
        monkeypatch.setitem(known, "toy-norm", ToyNorm)
    monkeypatch.setattr(architecture, "TRAINABLE", (*architecture.TRAINABLE, "toy-norm"))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_weights_of_normalisations_do_not_decay(tmp_path):
    trainer = toy_trainer(tmp_path, MAPPING)
    trainer.stream.close()
    names = {parameter: name for name, parameter in trainer.network.named_parameters()}
    decayed, plain = ({names[p] for p in group["params"]} for group in trainer.optimiser.param_groups)
    assert decayed == {"body.stem.0.weight", "body.inner.0.weight", "body.output.weight"}
    assert {"body.stem.1.weight", "body.stem.1.bias", "body.inner.1.weight", "body.output.bias"} <= plain


def test_a_checkpoint_that_let_them_decay_is_one_line(tmp_path):
    old = toy_trainer(tmp_path, MAPPING)
    decayed, plain = old.optimiser.param_groups
    decayed["params"].append(plain["params"].pop())
    old.save()
    old.stream.close()
    new = toy_trainer(tmp_path, MAPPING)
    new.stream.close()
    with pytest.raises(OutputError, match=r"^checkpoint [^\n]* is of another version of lensscan; remove it"):
        new.resume()


class OneLayer:
    """A rank that normalises its share, and whose loss is the mean over its rows."""

    def __init__(self, engine: Engine, layer: nn.BatchNorm2d, images: torch.Tensor) -> None:
        self.engine, self.layer = engine, RankedBatchNorm.of(layer, engine)
        self.images = images.clone().requires_grad_()

    def work(self) -> torch.Tensor:
        shown = self.layer(self.images)
        shown.sin().sum().backward()
        return shown.detach()


def test_unequal_shares_have_statistics_and_gradients_of_the_whole(double):
    generator = torch.Generator().manual_seed(1)
    images = 3 + 2 * torch.randn(12, 4, 5, 6, generator=generator)
    layer = nn.BatchNorm2d(4)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, generator=generator))
    meeting = Meeting(3)
    ranks = []
    for rank, share in enumerate(SHARES):
        own = nn.BatchNorm2d(4)
        own.load_state_dict(layer.state_dict())
        ranks.append(OneLayer(Thread(rank, meeting), own, images[share]))
    found = on_threads(ranks, lambda rank: rank.work())
    whole = images.clone().requires_grad_()
    wanted = layer(whole)
    wanted.sin().sum().backward()
    torch.testing.assert_close(torch.cat(found), wanted.detach(), rtol=0, atol=1e-12)
    gradient = torch.cat([rank.images.grad for rank in ranks])
    # a mean over three ranks backwards, of losses that were not divided by three
    torch.testing.assert_close(gradient, whole.grad, rtol=0, atol=1e-12)
    for name in ("weight", "bias"):
        joined = sum(getattr(rank.layer, name).grad for rank in ranks)
        torch.testing.assert_close(joined, getattr(layer, name).grad, rtol=0, atol=1e-11)
    for rank in ranks:
        for name, value in layer.named_buffers():
            torch.testing.assert_close(rank.layer.get_buffer(name), value, rtol=0, atol=1e-12)
        rank.layer.eval()
        torch.testing.assert_close(rank.layer(images), layer.eval()(images), rtol=0, atol=1e-12)  # exchanges nothing


def test_one_rank_keeps_torchs_own_layers_and_names_stay():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()))
    names, parameters = list(network.state_dict()), list(network.parameters())
    synchronise(network, Serial())
    assert type(network[1][0]) is nn.BatchNorm2d
    synchronise(network, Thread(0, Meeting(2)))
    assert type(network[1][0]) is RankedBatchNorm
    assert list(network.state_dict()) == names
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))


@pytest.mark.parametrize("kind", sorted(kind for kind, body in PUBLISHED.items() if body.batch_statistics))
def test_no_published_network_keeps_statistics_of_a_share(kind):
    body = PUBLISHED[kind](1, max(32, PUBLISHED[kind].smallest))
    layers = [layer for layer in body.modules() if isinstance(layer, nn.BatchNorm2d)]
    synchronise(body, Thread(0, Meeting(2)))
    found = [layer for layer in body.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert len(found) == len(layers) > 0
    assert all(isinstance(layer, RankedBatchNorm) for layer in found)


def training(folder: Path, engine: Engine, double: bool = True, **changes) -> Trainer:
    trainer = toy_trainer(folder, {**MAPPING, **changes}, engine)
    if double:
        trainer.stream.source = double_source
    return trainer


def steps(trainer: Trainer) -> list[float]:
    losses = [float(trainer.train_step()[0]) for _ in range(trainer.settings.steps)]
    trainer.stream.close()
    return losses


def test_a_network_with_batch_statistics_has_the_curve_of_one_rank(tmp_path, double):
    """Shares of 13 stamps among two ranks differ; both end with the running statistics of one rank."""
    alone = training(tmp_path, Serial(), steps=2, batch=13)
    wanted = steps(alone)
    meeting = Meeting(2)
    trainers = [training(tmp_path, Thread(rank, meeting), steps=2, batch=13) for rank in range(2)]
    for found in on_threads(trainers, steps):
        assert found == pytest.approx(wanted, abs=1e-9)
    for trainer in trainers:
        for name, value in alone.average.named_buffers():
            torch.testing.assert_close(trainer.average.get_buffer(name), value, rtol=1e-9, atol=1e-9)


def test_the_running_width_of_a_regressor_is_that_of_all_lenses(tmp_path, double):
    changes = {"network": {"kind": "holismokes-cnn"}, "steps": 2, "batch": 13}
    changes["optimiser"] = MAPPING["optimiser"] | {"regression": 1.0}
    alone = training(tmp_path, Serial(), **changes)
    wanted = steps(alone)
    meeting = Meeting(2)
    trainers = [training(tmp_path, Thread(rank, meeting), **changes) for rank in range(2)]
    for found in on_threads(trainers, steps):
        assert found == pytest.approx(wanted, abs=1e-9)
    assert (alone.network.square < 1).any()
    for trainer in trainers:
        torch.testing.assert_close(trainer.network.square, alone.network.square, rtol=1e-9, atol=1e-9)


def curve_of_engine(backend: str, folder: str, precision: str) -> None:
    """Train with an engine, in a process of its own; leaves the loss curve of rank 0."""
    PUBLISHED["toy-norm"] = CLASSIFIERS["toy-norm"] = ToyNorm
    architecture.TRAINABLE += ("toy-norm",)
    leave_curve(lambda engine, place: training(place, engine, precision == "float64"), backend, folder, precision)


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-6), ("float32", 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("backend", ["torch", pytest.param("horovod", marks=needs_horovod)])
def test_fifty_steps_on_two_ranks(tmp_path, backend, precision, bound):
    alone = curve("train.test_batchnorm", tmp_path / "one", "none", 1, precision)
    found = curve("train.test_batchnorm", tmp_path / "two", backend, 2, precision)
    assert found == pytest.approx(alone, abs=bound)
