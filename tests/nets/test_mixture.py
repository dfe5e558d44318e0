"""Mixtures in latent space: pooled networks with tails, a model's posteriors, cards that state them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lensscan.errors import ModelError
from lensscan.metrics.scalemixture import GAUSSIAN, ScaleMixture
from lensscan.nets.card import CLASSIFY_ONLY, Card
from lensscan.nets.classic.registry import CLASSIFIERS
from lensscan.nets.latent import N_COV, TRIANGLE
from lensscan.nets.mixture import Mixture, Pooling, widen
from lensscan.nets.model import Model, make_trivial
from lensscan.nets.posterior import COLUMNS, posterior_columns

HEAVY = ScaleMixture((0.7, 0.3), (0.5, 2.1667))
WIDER = ScaleMixture((0.5, 0.5), (0.5, 1.5))


def components(n, k, seed=1):
    rng = np.random.default_rng(seed)
    mean, cov = rng.normal(0, 0.2, (n, k, 7)), np.zeros((n, k, N_COV))
    for i in range(7):
        cov[..., TRIANGLE.index((i, i))] = rng.uniform(0.01, 0.04, (n, k))
    return mean, cov, rng.dirichlet(np.ones(k), n)


def card(**changes):
    return dataclasses.replace(make_trivial("gr", 32, 0.2).card, **changes)


def test_pooling_of_plain_networks_is_the_equal_mixture():
    mean, cov, _ = components(20, 3)
    pooling = Pooling.of([card()] * 3)
    assert not pooling.weighted
    assert pooling.total == 3
    found, expected = pooling.columns(mean, cov), posterior_columns(mean, cov)
    for name in COLUMNS:
        assert np.array_equal(found[name], expected[name]), name


def test_networks_without_a_posterior_are_left_out():
    mean, cov, weight = components(20, 3)
    cards = [card(architecture={"kind": kind}) for kind in ("resnet", "argonne", "resnet")]
    pooling = Pooling.of(cards)
    mean[:, 1] = cov[:, 1] = weight[:, 1] = np.nan
    mean[7, 2, 3] = np.nan
    assert pooling.complete(mean, cov).tolist() == [row != 7 for row in range(20)]
    both = [0, 2]
    for name, expected in posterior_columns(mean[:, both], cov[:, both]).items():
        np.testing.assert_array_equal(pooling.columns(mean, cov)[name], expected, err_msg=name)
    for name, expected in posterior_columns(mean[:, both], cov[:, both], weight[:, both]).items():
        np.testing.assert_array_equal(pooling.columns(mean, cov, weight)[name], expected, err_msg=name)
    assert pooling.total == 3, "shards hold the components of all"
    assert not Pooling.of([cards[1]]).silent


def test_cards_know_which_networks_have_a_posterior():
    assert set(CLASSIFY_ONLY) == {"trivial", *CLASSIFIERS}
    taught = card(architecture={"kind": "resnet"})
    assert taught.regresses
    assert not dataclasses.replace(taught, evaluation={"posterior": "none"}).regresses


def test_pooling_gives_each_network_its_tail():
    mean, cov, _ = components(20, 2)
    pooling = Pooling.of([card(posterior_tail=HEAVY), card()])
    found, expected = pooling.columns(mean, cov), posterior_columns(mean, cov, None, (HEAVY, GAUSSIAN))
    for name in COLUMNS:
        assert np.array_equal(found[name], expected[name]), name


def test_eight_views_have_a_tail_of_their_own():
    own = card(posterior_tail=HEAVY, posterior_scale_views=(1.0,) * 7, posterior_tail_views=WIDER)
    assert Pooling.of([own]).tails == (HEAVY,)
    assert Pooling.of([own], 8).tails == (WIDER,)
    assert Pooling.of([dataclasses.replace(own, views=8)]).tails == (WIDER,)
    assert Pooling.of([card(posterior_tail=HEAVY)], 8).tails == (HEAVY,)


def test_mixture_rows_centre_and_columns():
    mean, cov, weight = components(30, 2)
    mean[4, 1, 2] = np.nan
    mixture = Mixture(mean, cov, weight, HEAVY)
    assert mixture.finite.sum() == 29
    part = mixture[mixture.finite]
    assert len(part) == 29
    assert part.tail == HEAVY
    np.testing.assert_allclose(part.centre[0], weight[0] @ mean[0])
    expected = posterior_columns(mean, cov, weight, (HEAVY, HEAVY))
    np.testing.assert_array_equal(mixture.columns()["e1"], expected["e1"])


def test_a_tail_written_out_is_the_same_posterior():
    mean, cov, weight = components(40, 2)
    tailed = Mixture(mean, cov, weight, HEAVY)
    plain = tailed.plain()
    assert plain.tail.gaussian
    assert plain.mean.shape == (40, 4, 7)
    found, expected = plain.columns(), tailed.columns()
    for name in ("theta_E", "theta_E_q025", "x_err", "sy_err"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    linear = [k for k, (_, j) in enumerate(TRIANGLE) if j > 2]
    np.testing.assert_allclose(found["cov"][:, linear], expected["cov"][:, linear], rtol=1e-4, atol=1e-6)
    gaussian = Mixture(mean, cov, weight)
    assert gaussian.plain() is gaussian


def test_factors_act_on_standard_deviations():
    cov = np.arange(1.0, 1 + N_COV)
    found = widen(cov, (2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 5.0))
    assert found[TRIANGLE.index((0, 0))] == 4 * cov[TRIANGLE.index((0, 0))]
    assert found[TRIANGLE.index((1, 0))] == 6 * cov[TRIANGLE.index((1, 0))]
    assert found[TRIANGLE.index((6, 0))] == 10 * cov[TRIANGLE.index((6, 0))]
    assert found[TRIANGLE.index((4, 3))] == cov[TRIANGLE.index((4, 3))]


def test_card_keeps_the_tail(tmp_path):
    model = make_trivial("gr", 32, 0.2)
    tailed = Model(dataclasses.replace(model.card, posterior_tail=HEAVY), model.module)
    tailed.save(tmp_path / "tailed.safetensors")
    assert Model.load(str(tmp_path / "tailed.safetensors")).card.posterior_tail == HEAVY


def test_card_of_older_files_has_no_tail():
    older = make_trivial("gr", 32, 0.2).card.to_mapping()
    del older["posterior_tail"], older["posterior_tail_views"]
    assert Card.from_mapping(json.loads(json.dumps(older)), "old").tail_of(1).gaussian


def test_card_refuses_what_is_no_tail():
    with pytest.raises(ModelError, match="posterior_tail"):
        card(posterior_tail=ScaleMixture((0.5, 0.6), (1.0, 2.0))).checked("here")
