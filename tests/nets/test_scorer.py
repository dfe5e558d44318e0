"""The scorer: a row's bits depend on nothing but the row; views, ranges, ensembles, regression threshold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scored_stamps import BANDS, BATCH, ODD, fill, made_up_stamps, score

from lensscan.errors import ConfigError, ModelError
from lensscan.nets.dihedral import N_VIEWS, transform_covariance, transform_images, transform_latent
from lensscan.nets.mixture import Pooling
from lensscan.nets.model import Card, Model, build_network, make_trivial
from lensscan.nets.scorer import Scorer
from lensscan.schema import Flag
from lensscan.survey.stamps import allocate

COLUMNS = ("logit", "post_mean", "post_cov", "sigma", "snr", "flags")


def make_model(seed: int = 1, components: int = 1, **changes) -> Model:
    architecture = {"kind": "resnet", "components": components}
    torch.manual_seed(seed)
    network = build_network(architecture, len(BANDS), 64)
    with torch.no_grad():
        network.posterior.output.weight.mul_(30)  # so that means and covariances differ between rows
        network.logit.output.weight.mul_(30)
    return Model(Card("m", architecture, BANDS, 64, 0.263, **changes), network.eval())


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def stamps():
    return made_up_stamps()


def assert_same(a, b, rows_a=slice(None), rows_b=slice(None)):
    for name in COLUMNS:
        np.testing.assert_array_equal(a[name][rows_a], b[name][rows_b], err_msg=name)


@pytest.fixture(scope="module")
def reference(model, stamps):
    return score(model, fill(stamps))


def test_shapes(reference):
    assert reference["logit"].shape == (BATCH, 1)
    assert reference["post_mean"].shape == (BATCH, 1, 7)
    assert reference["post_cov"].shape == (BATCH, 1, 28)
    assert reference["ood"].shape == (BATCH, 1)
    assert {reference[name].dtype for name in COLUMNS[:-1]} == {np.dtype(np.float32)}
    assert reference["flags"].dtype == np.uint32
    assert len(np.unique(reference["logit"])) == BATCH, "rows must differ, or these tests prove nothing"


def test_bits_do_not_depend_on_position_and_neighbours(model, stamps, reference):
    order = np.random.default_rng(3).permutation(BATCH)
    assert_same(score(model, fill(stamps[order])), reference, rows_b=order)


@pytest.mark.parametrize("n", [1, 17, 63])
def test_bits_do_not_depend_on_padding(model, stamps, reference, n):
    assert_same(score(model, fill(stamps, n)), reference, slice(0, n), slice(0, n))


def test_bits_do_not_depend_on_broken_neighbours(model, stamps, reference):
    broken = stamps.copy()
    broken[1:] = np.nan
    broken[2:5] = 3e38
    assert_same(score(model, fill(broken)), reference, slice(0, 1), slice(0, 1))


@pytest.mark.parametrize("batch", [ODD, 64])
def test_bits_do_not_depend_on_threads(model, stamps, batch):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            slot = fill(stamps[:batch], rows=batch)
            results.append(Scorer([model], "cpu", batch).submit(slot).result())
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_same(result, results[0])


def test_bits_do_not_depend_on_a_neighbours_mask_or_sigma(model, stamps, reference):
    slot = fill(stamps)
    slot.mask_of(5)[:, 3:9] = True
    slot.images[5, :, 3:9] = 0
    slot.sigma[6] = 9.0
    result = score(model, slot)
    others = [row for row in range(BATCH) if row not in (5, 6)]
    assert_same(result, reference, others, others)
    assert result["logit"][5] != reference["logit"][5], "the mask must be applied"
    assert (result["sigma"][6] == 9.0).all(), "a given sigma must be used"
    assert result["logit"][6] != reference["logit"][6]


def test_masked_pixels_do_not_matter(model, stamps):
    results = []
    for value in (0.0, 1e4):
        slot = fill(stamps)
        slot.mask_of(0)[:, 10:14, 10:14] = True
        slot.images[0, :, 10:14, 10:14] = value
        results.append(score(model, slot))
    assert_same(results[0], results[1])


def test_absent_bands(model, stamps, reference):
    slot = fill(stamps)
    slot.present[0, 3] = False
    slot.images[0, 3] = 0
    slot.present[1] = False
    slot.images[1] = 0
    result = score(model, slot)
    assert np.isnan(result["sigma"][0, 3])
    assert result["logit"][0] != reference["logit"][0]
    assert np.isfinite(result["logit"]).all()
    assert np.isnan(result["snr"][1])


def test_views_are_the_mean_over_the_turned_stamps(model, stamps):
    eight = score(model, fill(stamps), views=N_VIEWS)
    singles = [
        score(model, fill(transform_images(torch.from_numpy(stamps), view).contiguous().numpy()))
        for view in range(N_VIEWS)
    ]
    expected = np.mean([single["logit"] for single in singles], axis=0)
    np.testing.assert_allclose(eight["logit"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("view", range(N_VIEWS))
def test_eight_views_are_equivariant(model, stamps, view):
    upright = score(model, fill(stamps), views=N_VIEWS)
    turned = score(model, fill(transform_images(torch.from_numpy(stamps), view).contiguous().numpy()), views=N_VIEWS)
    np.testing.assert_allclose(turned["logit"], upright["logit"], rtol=1e-4, atol=1e-4)
    mean = transform_latent(torch.from_numpy(upright["post_mean"]), view).numpy()
    np.testing.assert_allclose(turned["post_mean"], mean, atol=1e-4)
    cov = transform_covariance(torch.from_numpy(upright["post_cov"]), view).numpy()
    np.testing.assert_allclose(turned["post_cov"], cov, rtol=1e-3, atol=1e-4)


def test_views_default_to_the_card(stamps):
    eight = score(make_model(views=8), fill(stamps))
    assert_same(eight, score(make_model(), fill(stamps), views=8))


def test_out_of_range(stamps):
    ranges = dict.fromkeys(BANDS, (5.0, 20.0))
    model = make_model(sigma_range=ranges, fwhm_range={"g": (0.5, 1.5)})
    slot = fill(stamps)
    slot.images[1] *= 10
    slot.fwhm[2, 0] = 2.0
    slot.fwhm[3] = np.nan
    slot.flags[4] = Flag.RESAMPLED
    slot.images[5, 0] *= 10
    slot.present[5, 0] = False
    flags = score(model, slot)["flags"]
    assert (flags[[1, 2, 4]] == Flag.OUT_OF_RANGE).all()
    assert (flags[[0, 3, 5]] == 0).all(), "unknown seeing and absent bands are not out of range"


def test_posterior_scale_widens_only_the_covariance(stamps, reference):
    scale = (2.0, 3.0, 3.0, 1.0, 1.0, 0.5, 0.5)
    result = score(make_model(posterior_scale=scale), fill(stamps))
    assert np.array_equal(result["post_mean"], reference["post_mean"])
    np.testing.assert_allclose(result["post_cov"][..., 0], 4 * reference["post_cov"][..., 0], rtol=1e-6)
    np.testing.assert_allclose(result["post_cov"][..., 1], 6 * reference["post_cov"][..., 1], rtol=1e-5)
    np.testing.assert_allclose(result["post_cov"][..., 27], 0.25 * reference["post_cov"][..., 27], rtol=1e-6)


def test_posterior_scale_of_eight_views(stamps):
    plain = score(make_model(posterior_scale=(2.0,) * 7), fill(stamps), views=8)
    own = make_model(posterior_scale=(2.0,) * 7, posterior_scale_views=(0.5,) * 7)
    np.testing.assert_allclose(score(own, fill(stamps), views=8)["post_cov"], plain["post_cov"] / 16, rtol=1e-5)
    assert_same(score(own, fill(stamps)), score(make_model(posterior_scale=(2.0,) * 7), fill(stamps)))


@pytest.fixture(scope="module")
def mixture():
    return make_model(3, components=3)


def columns_of(model, result, views=1):
    pooling = Pooling.of([model.card], views)
    return pooling.columns(result["post_mean"], result["post_cov"], result["post_weight"])


def test_mixture_head_in_a_scan(model, mixture, stamps, reference):
    result = score(mixture, fill(stamps))
    assert result["post_mean"].shape == (BATCH, 3, 7)
    assert result["post_cov"].shape == (BATCH, 3, 28)
    np.testing.assert_allclose(result["post_weight"].sum(axis=1), 1.0, rtol=1e-6)
    assert np.ptp(result["post_weight"]) > 0.05, "weights that never differ test nothing"
    assert "post_weight" not in reference
    both = Scorer([model, mixture], "cpu", BATCH).submit(fill(stamps)).result()
    np.testing.assert_array_equal(both["post_mean"][:, :1], reference["post_mean"])
    np.testing.assert_array_equal(both["post_mean"][:, 1:], result["post_mean"])
    np.testing.assert_array_equal(both["post_weight"][:, 0], 1.0)
    pooling = Pooling.of([model.card, mixture.card])
    assert pooling.counts == (1, 3)
    assert pooling.weighted
    below = score(mixture, fill(stamps), regress_above=float(np.median(result["logit"])))
    assert np.isnan(columns_of(mixture, below)["theta_E"]).sum() == BATCH // 2


@pytest.mark.parametrize("view", [1, 6])
def test_eight_views_of_a_mixture_are_equivariant(mixture, stamps, view):
    """All components of all views are kept; turned stamps give the same ones, turned, in another order."""
    upright = score(mixture, fill(stamps), views=N_VIEWS)
    turned = score(mixture, fill(transform_images(torch.from_numpy(stamps), view).contiguous().numpy()), views=N_VIEWS)
    assert upright["post_mean"].shape == (BATCH, 24, 7)
    np.testing.assert_allclose(upright["post_weight"].sum(axis=1), 1.0, rtol=1e-5)
    expected = dict(upright)
    expected["post_mean"] = transform_latent(torch.from_numpy(upright["post_mean"]), view).numpy()
    expected["post_cov"] = transform_covariance(torch.from_numpy(upright["post_cov"]), view).numpy()
    one, two = (columns_of(mixture, each, N_VIEWS) for each in (turned, expected))
    for name in ("theta_E", "x", "sy", "theta_E_q975", "x_err", "cov"):
        np.testing.assert_allclose(one[name], two[name], rtol=2e-3, atol=2e-3, err_msg=name)


def test_members_are_those_of_single_scans(model, stamps, reference):
    other = make_model(2, softening=3.0)
    both = Scorer([model, other], "cpu", BATCH).submit(fill(stamps)).result()
    alone = score(other, fill(stamps))
    for name in ("logit", "post_mean", "post_cov"):
        np.testing.assert_array_equal(both[name][:, :1], reference[name])
        np.testing.assert_array_equal(both[name][:, 1:], alone[name])


def test_bf16_is_near_and_only_on_request(model, stamps, reference):
    half = score(model, fill(stamps), precision="bf16")
    assert not np.array_equal(half["logit"], reference["logit"])
    off, scatter = np.abs(half["logit"] - reference["logit"]), reference["logit"].std()
    assert np.median(off) < 0.1 * scatter
    assert off.max() < 0.3 * scatter
    assert np.array_equal(half["sigma"], reference["sigma"])


def test_regress_above(model, stamps, reference):
    limit = float(np.median(reference["logit"]))
    result = score(model, fill(stamps), regress_above=limit)
    below = reference["logit"][:, 0] <= limit
    assert 0 < below.sum() < BATCH
    assert np.array_equal(result["logit"], reference["logit"])
    assert np.isnan(result["post_mean"][below]).all()
    assert np.isnan(result["post_cov"][below]).all()
    assert np.array_equal(result["post_mean"][~below], reference["post_mean"][~below])


def test_trivial_model(stamps):
    model = make_trivial(BANDS, 64, 0.263)
    result = score(model, fill(stamps))
    assert np.array_equal(result["logit"][:, 0], stamps[:, 0, 32, 32])
    assert np.isnan(result["post_mean"]).all()
    assert (result["flags"] == 0).all()


def test_pending_can_be_asked_twice(model, stamps):
    pending = Scorer([model], "cpu", BATCH).submit(fill(stamps))
    pending.released()
    assert pending.result() is pending.result()


def test_refusals(model, stamps):
    other = make_model(2)
    other = Model(dataclasses.replace(other.card, name="far", pixel_scale=0.2), other.module)
    with pytest.raises(ModelError, match="m and far differ"):
        Scorer([model, other])
    with pytest.raises(ConfigError, match="precision"):
        Scorer([model], precision="fp8")
    with pytest.raises(ConfigError, match="views"):
        Scorer([model], views=4)
    with pytest.raises(ValueError, match="shape"):
        Scorer([model], batch=32).submit(fill(stamps))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_gpu_agrees_with_cpu_and_with_itself(model, stamps, reference):
    scorer = Scorer([model], "cuda", BATCH)
    slots = [allocate(BATCH, model.frame(), pinned=True) for _ in range(2)]
    for slot in slots:
        slot.images[:], slot.present[:], slot.fwhm[:] = stamps, True, (1.1, 1.0, 0.9, np.nan)
        slot.close(BATCH)
    first, second = (scorer.submit(slot) for slot in slots)
    assert_same(first.result(), second.result())
    np.testing.assert_allclose(first.result()["logit"], reference["logit"], atol=1e-3)
