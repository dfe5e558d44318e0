"""Published trainings: as published, from a seed, on a fixed set with a part held back."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from toy_mocks import toy_source

from lensscan.errors import PlanMismatch
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.classic.classifier import scaled
from lensscan.nets.model import Card, Model
from lensscan.train.published import ARGONNE2017, fit_published

FEW = dataclasses.replace(ARGONNE2017, epochs=3)


@pytest.fixture(scope="module")
def toys():
    sample = toy_source(0, 320)
    return sample.images.numpy(), sample.is_lens.numpy()


@pytest.fixture(scope="module")
def fitted(toys):
    return fit_published(*toys, FEW, seed=2)


def test_it_learns(fitted, toys):
    history = fitted.history
    assert [line.epoch for line in history] == [1, 2, 3]
    assert history[-1].loss < history[0].loss
    assert history[-1].validation_accuracy > 0.8, "bright rings against blobs"
    other = toy_source(5000, 200)
    right = (fitted.score(other.images.numpy()) > 0) == other.is_lens.numpy()
    assert right.mean() > 0.8


def test_same_seed_same_weights(fitted, toys):
    again = fit_published(*toys, FEW, seed=2)
    assert again.history == fitted.history
    for key, value in fitted.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key
    other = fit_published(*toys, FEW, seed=3)
    assert other.history != fitted.history


def test_scaling_and_training_know_nothing_of_what_is_held_back(fitted, toys):
    images, labels = (np.copy(part) for part in toys)
    assert len(fitted.held_back) == 64
    assert len(set(fitted.held_back)) == 64
    images[fitted.held_back] = 1e6
    changed = fit_published(images, labels, FEW, seed=2)
    used = np.setdiff1d(np.arange(320), fitted.held_back)
    assert changed.config == fitted.config
    shown = scaled(torch.from_numpy(toys[0][used]), FEW.scaling).double()
    assert fitted.config.mean == pytest.approx(shown.mean(dim=(0, 2, 3)).tolist())
    for key, value in fitted.network.state_dict().items():
        assert torch.equal(value, changed.network.state_dict()[key]), key


def test_labels_follow_their_images(toys):
    """With labels drawn anew nothing can be learnt, so accuracy on the rest shows that the pairs were kept."""
    images, labels = toys
    order = np.random.default_rng(4).permutation(len(labels))
    together = fit_published(images[order], labels[order], FEW, seed=2)
    apart = fit_published(images, labels[order], FEW, seed=2)
    assert together.history[-1].validation_accuracy > 0.8
    assert apart.history[-1].validation_accuracy < 0.7


def test_last_batch_of_an_odd_set_is_scored_once(fitted, toys):
    images = toys[0][:259]
    scores = fitted.score(images)
    assert scores.shape == (259,)
    singly = np.concatenate([fitted.score(images[row : row + 1]) for row in (0, 255, 256, 258)])
    np.testing.assert_allclose(scores[[0, 255, 256, 258]], singly, rtol=1e-4, atol=1e-5)


def test_learning_rate_falls_as_published(toys):
    slow = dataclasses.replace(FEW, epochs=1, decay=1e9)
    fast = dataclasses.replace(FEW, epochs=1)
    first = fit_published(*toys, slow, seed=2)
    torch.manual_seed(2)
    fresh = build_network(architecture(first.config), 2, 16)
    moved = [(a - b).abs().max().item() for a, b in zip(first.network.parameters(), fresh.parameters(), strict=True)]
    assert max(moved) == pytest.approx(slow.lr, rel=0.01), "after the first step the rate is nil"
    assert fit_published(*toys, fast, seed=2).history != first.history


def test_pixels_that_are_not_finite_are_refused(toys):
    images, labels = (np.copy(part) for part in toys)
    images[7, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_published(images, labels, FEW)
    with pytest.raises(ValueError, match="do not fit"):
        fit_published(images, labels[1:], FEW)


def test_fitted_network_is_a_model_that_scores(fitted, toys, tmp_path):
    card = Card("argonne2017", architecture(fitted.config), ("g", "r"), 16, 0.3, label="toy")
    Model(card, fitted.network).save(tmp_path / "a.safetensors")
    loaded = Model.load(tmp_path / "a.safetensors")
    table = loaded.score(toys[0][:64])
    np.testing.assert_allclose(table["logit"], fitted.score(toys[0][:64]), rtol=1e-4, atol=1e-5)
    assert np.isnan(table["theta_E"].value).all()
    assert np.isnan(table["cov"]).all()


def test_pictures_have_256_steps_between_faintest_and_brightest(fitted, toys):
    images = torch.as_tensor(toys[0][:4])
    shown = scaled(images, "picture")
    assert torch.equal(shown.amax(dim=(2, 3)), torch.ones(4, 2))
    assert torch.equal(shown.amin(dim=(2, 3)), torch.zeros(4, 2))
    assert torch.equal((shown * 255).round() / 255, shown)
    assert torch.equal(scaled(torch.ones(1, 1, 5, 5), "picture"), torch.zeros(1, 1, 5, 5)), "a flat stamp"
    assert fitted.history[-1].validation_accuracy > 0.8
    assert max(fitted.config.mean) < 1


def test_the_page_of_networks_runs(toys, capsys):
    """The Python shown in docs/networks.md, with three epochs."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    shown = re.findall(r"(?:^    .*\n|^\n)+", page, re.M)
    code = "".join(dedent(block) for block in shown if "import" in block)
    assert "fit_published" in code
    assert "BASELINES" in code
    code = code.replace("ARGONNE2017, seed=1", "dataclasses.replace(ARGONNE2017, epochs=2), seed=1")
    names = {"images": toys[0][:80], "labels": toys[1][:80], "others": toys[0][80:90], "dataclasses": dataclasses}
    exec(compile(code, "docs/networks.md", "exec"), names)
    assert names["logit"].shape == names["log_odds"].shape == (10,)
    assert names["last"].epoch == 2
    assert 0 <= float(capsys.readouterr().out) <= 1


def test_a_training_that_was_broken_off_goes_on_as_if_it_never_had_been(fitted, toys, tmp_path):
    class Killed(Exception):
        pass

    def kill(line):
        if line.epoch == 2:
            raise Killed

    path, seen, stood = tmp_path / "run" / "seed-2.ckpt", [], []
    with pytest.raises(Killed):
        fit_published(*toys, FEW, seed=2, report=kill, checkpoint=path)
    resumed = fit_published(
        *toys, FEW, seed=2, report=lambda line: seen.append(line.epoch), checkpoint=path, restored=stood.append
    )
    assert seen == [1, 2, 3]
    assert stood == [2]
    assert resumed.history == fitted.history
    for key, value in fitted.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key


def test_a_checkpoint_of_another_training_is_refused_and_a_longer_one_goes_on(toys, tmp_path):
    path = tmp_path / "a.ckpt"
    images, labels = toys
    first = fit_published(images, labels, FEW, seed=2, checkpoint=path)
    for others in ((images + 1, labels, FEW, 2), (images, ~labels, FEW, 2), (images, labels, FEW, 3)):
        with pytest.raises(PlanMismatch):
            fit_published(*others, checkpoint=path)
    longer = fit_published(images, labels, dataclasses.replace(FEW, epochs=4), seed=2, checkpoint=path)
    assert longer.history[:3] == first.history
    assert len(longer.history) == 4
    with pytest.raises(PlanMismatch, match="4 epochs, more than 3"):
        fit_published(images, labels, FEW, seed=2, checkpoint=path)
