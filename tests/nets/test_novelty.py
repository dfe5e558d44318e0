"""How unlike training a stamp is: the fit, its scale, its place in the model file and in the scan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scored_stamps import BANDS, BATCH, fill, made_up_stamps, score

from lensscan.errors import ModelError
from lensscan.nets.dihedral import N_VIEWS, transform_images
from lensscan.nets.flags import OOD_LIMIT
from lensscan.nets.model import Card, Model, build_network, load_model, make_trivial
from lensscan.nets.novelty import (
    TAILS,
    FeatureTap,
    Novelty,
    compress,
    feature_layer,
    feature_width,
    fit_novelty,
    scale_distances,
)
from lensscan.nets.scorer import Scorer
from lensscan.survey.stamps import allocate

EDGES = (20.0, 30.0, 40.0, 50.0)


def make_model(seed=1, **changes) -> Model:
    torch.manual_seed(seed)
    network = build_network({"kind": "resnet"}, 4, 64)
    return Model(Card("m", {"kind": "resnet"}, BANDS, 64, 0.263, **changes), network.eval())


@pytest.fixture(scope="module")
def stamps():
    return made_up_stamps()


def with_novelty(seed=1, **changes) -> Model:
    """Return a network whose distances were fitted to made-up features."""
    model = make_model(seed, ood_distances=EDGES, ood_distances_views=EDGES, **changes)
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(0.3, 1.0, (1500, feature_width(model.module))), 0)
    novelty = fit_novelty(features, (np.arange(1500) % 3 == 0).astype(int))
    return Model(model.card, model.module, novelty)


@pytest.fixture(scope="module")
def model():
    return with_novelty()


@pytest.fixture(scope="module")
def reference(model, stamps):
    return score(model, fill(stamps))


def test_fit_finds_the_covariance_and_both_centres():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5)) / 2
    labels = (rng.random(40_000) < 0.3).astype(int)
    compressed = rng.normal(size=(40_000, 5)) @ root.T + np.where(labels[:, None] == 1, 1.5, -1.0)
    features = np.copysign((np.abs(compressed) + 0.1) ** 4 - 1e-4, compressed).astype(np.float32)
    np.testing.assert_allclose(compress(torch.from_numpy(features)).numpy(), compressed, atol=2e-3)
    novelty = fit_novelty(features, labels)
    some = compressed[:50]
    back = np.linalg.inv(root @ root.T)
    exact = [np.einsum("ni,ij,nj->n", some - at, back, some - at) for at in (-1.0, 1.5)]
    np.testing.assert_allclose(novelty.distances(features[:50]), np.sqrt(np.minimum(*exact)), rtol=0.1)
    assert novelty.centres.shape == (2, 5)


def test_ood_is_a_tail_probability():
    d = torch.tensor([0.0, *EDGES, 60.0, 100.0, torch.nan])
    found = scale_distances(d, torch.tensor(EDGES)).numpy()
    np.testing.assert_allclose(found[1:5], -np.log10(TAILS) / 3, rtol=1e-6)
    assert found[0] == 0
    assert found[4] == pytest.approx(OOD_LIMIT), "the flag's limit is one mock in a thousand"
    np.testing.assert_allclose(found[5:7], [1 + 1 / 3, 1 + 5 / 3], rtol=1e-6)
    assert np.isnan(found[7])
    assert (np.diff(found[:7]) > 0).all()


def test_score_equals_the_distances_of_the_features(model, stamps, reference):
    assert feature_layer(model.module) == "logit"
    scorer = Scorer([model], "cpu", BATCH)
    tap = FeatureTap(scorer.networks[0].module, "logit")
    scorer.submit(fill(stamps)).result()
    features = tap.take()[0].numpy()
    assert features.shape == (BATCH, feature_width(model.module))
    exact = scale_distances(torch.from_numpy(model.novelty.distances(features)), torch.tensor(EDGES))
    np.testing.assert_allclose(reference["ood"][:, 0], exact.numpy(), rtol=1e-4)
    assert len(np.unique(reference["ood"])) == BATCH


def test_bits_do_not_depend_on_batch_and_neighbours(model, stamps, reference):
    order = np.random.default_rng(3).permutation(BATCH)
    np.testing.assert_array_equal(score(model, fill(stamps[order]))["ood"], reference["ood"][order])
    for n in (1, 17, 63):
        np.testing.assert_array_equal(score(model, fill(stamps, n))["ood"][:n], reference["ood"][:n])
    broken = stamps.copy()
    broken[1:] = np.nan
    found = score(model, fill(broken))
    np.testing.assert_array_equal(found["ood"][:1], reference["ood"][:1])
    assert np.isnan(found["ood"][1:]).all()


def test_bits_do_not_depend_on_threads(model, stamps, reference):
    before = torch.get_num_threads()
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(score(model, fill(stamps))["ood"], reference["ood"])
    finally:
        torch.set_num_threads(before)


def test_the_other_columns_do_not_notice(model, stamps, reference):
    plain = score(Model(model.card, model.module), fill(stamps))
    assert np.isnan(plain["ood"]).all()
    for name in ("logit", "post_mean", "post_cov", "sigma", "snr", "flags"):
        np.testing.assert_array_equal(plain[name], reference[name], err_msg=name)


def test_eight_views_are_invariant(model, stamps):
    upright = score(model, fill(stamps), views=N_VIEWS)["ood"]
    for view in (3, 6):
        turned = transform_images(torch.from_numpy(stamps), view).contiguous().numpy()
        np.testing.assert_allclose(score(model, fill(turned), views=N_VIEWS)["ood"], upright, rtol=1e-4)
    assert np.abs(score(model, fill(stamps))["ood"] - upright).max() > 1e-3


def test_an_ensemble_has_one_each(model, stamps, reference):
    second = with_novelty(2)
    third = make_model(3)
    found = Scorer([model, second, third], "cpu", BATCH).submit(fill(stamps)).result()["ood"]
    np.testing.assert_array_equal(found[:, 0], reference["ood"][:, 0])
    np.testing.assert_array_equal(found[:, 1], score(second, fill(stamps))["ood"][:, 0])
    assert np.isnan(found[:, 2]).all()


def test_the_model_file_keeps_it(model, stamps, reference, tmp_path):
    first = model.save(tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.save(tmp_path / "n.safetensors") == first
    np.testing.assert_array_equal(score(again, fill(stamps))["ood"], reference["ood"])


def test_files_without_it_still_load(model, stamps, tmp_path):
    plain = dataclasses.replace(model.card, ood_distances=(), ood_distances_views=())
    Model(plain, model.module).save(tmp_path / "old.safetensors")
    old = load_model(tmp_path / "old.safetensors")
    assert old.novelty is None
    found = score(old, fill(stamps))
    assert np.isnan(found["ood"]).all()
    np.testing.assert_array_equal(found["logit"], score(model, fill(stamps))["logit"])


def test_damaged_files_are_refused(model, tmp_path):
    cut = dataclasses.replace(model.novelty, centres=model.novelty.centres[:, :-1])
    Model(model.card, model.module, cut).save(tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="out-of-distribution"):
        load_model(tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="4 distances"):
        Card.from_mapping(model.card.to_mapping() | {"ood_distances": (1.0, 2.0)}, "n.safetensors")


def test_a_part_of_it_is_a_damaged_file(model, tmp_path, monkeypatch):
    tensors = Novelty.tensors
    monkeypatch.setattr(Novelty, "tensors", lambda self: dict(list(tensors(self).items())[:2]))
    model.save(tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="novelty"):
        load_model(tmp_path / "m.safetensors")


def test_a_batch_that_failed_leaves_nothing_behind(model, stamps, reference, monkeypatch):
    scorer = Scorer([model], "cpu", BATCH)
    with monkeypatch.context() as patch:
        patch.setattr("lensscan.nets.scorer.undo", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.submit(fill(stamps[::-1]))
    found = scorer.submit(fill(stamps)).result()
    np.testing.assert_array_equal(found["ood"], reference["ood"])


def test_networks_without_features_have_none():
    assert feature_width(make_trivial("gr", 32, 0.2).module) == 0
    assert feature_layer(make_trivial("gr", 32, 0.2).module) is None
    model = Model(
        Card("m", {"kind": "trivial"}, ("g",), 32, 0.2, ood_distances=EDGES), make_trivial("g", 32, 0.2).module
    )
    slot = allocate(4, model.frame())
    slot.images[:4] = 1.0
    slot.present[:4] = True
    slot.close(4)
    assert np.isnan(Scorer([model], "cpu", 4).submit(slot).result()["ood"]).all()
