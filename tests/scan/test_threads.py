"""The number of network threads of a scan never shows in a score."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import RESNET, save_network

from lensscan.nets.scorer import Scorer
from lensscan.scan.engine import settle_threads
from lensscan.survey.stamps import Frame

ULP = 2.0**-23


class Toy:
    """Gives 1, or the next number for each thread more."""

    def __init__(self, steady: bool, device: str = "cpu") -> None:
        self.frame, self.batch, self.device = Frame(("g",), 16, 0.2, 1), 4, torch.device(device)
        self.steady, self.seen = steady, []

    def submit(self, batch):
        assert batch.n == self.batch
        assert len(np.unique(batch.images)) > 100, "empty stamps would sum to the same whatever the order"
        self.seen.append(torch.get_num_threads())
        logit = np.float32([1 + (0 if self.steady else self.seen[-1] * ULP)])
        return SimpleNamespace(result=lambda: {"logit": logit, "post_mean": np.array([np.nan])})


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("steady", "left"), [((True,), 3), ((True, True), 3), ((True, False), 1), ((False,), 1)])
def test_several_threads_only_where_they_give_the_bits_of_one(steady, left):
    scorers = [Toy(each) for each in steady]
    assert settle_threads(3, scorers) == left == torch.get_num_threads()
    assert all(scorer.seen == [1, 3] for scorer in scorers)


def test_one_thread_or_a_gpu_has_nothing_to_compare():
    for wanted, scorer in ((1, Toy(False)), (3, Toy(False, "meta"))):
        assert settle_threads(wanted, [scorer]) == wanted == torch.get_num_threads()
        assert scorer.seen == [wanted]


@pytest.mark.parametrize("batch", [2, 8, 64])
def test_a_real_network_has_the_bits_of_one_thread(tmp_path, batch):
    """With so narrow a layer the library shares sums among threads in small batches, on some processors."""
    model = save_network(tmp_path / "small.safetensors", architecture=RESNET | {"squeeze": 4})
    frame = model.frame()
    images = np.random.default_rng(3).normal(size=(batch, len(frame.bands), frame.size, frame.size))
    torch.set_num_threads(1)
    alone = model.score(images, batch=batch)["logit"]
    settle_threads(3, [Scorer([model], "cpu", batch)])
    np.testing.assert_array_equal(model.score(images, batch=batch)["logit"], alone)
