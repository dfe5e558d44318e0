"""Regression: exact posteriors are found calibrated, wrong ones are not; conventions; likelihoods by numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from synthetic_scores import posteriors, scored

from lensscan.evaluate.posteriors import (
    PARAMETERS,
    _reduce,
    likelihoods,
    log_jacobian,
    reduce_posteriors,
    truth_table,
)
from lensscan.evaluate.regression import (
    CONVENTIONS,
    FEWER,
    KEPT,
    TARP_LEVELS,
    _indicators,
    _surest,
    convert,
    groups_of,
    regress,
)
from lensscan.lens.conventions import from_axis_ratio
from lensscan.metrics.bootstrap import Bootstrap
from lensscan.metrics.detection import wilson
from lensscan.metrics.deviations import Deviations
from lensscan.metrics.sampled import central_coverage, expected_coverage
from lensscan.nets.latent import from_latent, to_latent
from lensscan.nets.mixture import Mixture


def measured(width=1.0, n=2500, replicates=6):
    sample = scored(2 * n, widths=(width,))
    lens = sample.truth["is_lens"]
    truth = truth_table(sample.truth, lens)
    reduced = reduce_posteriors(sample.models[0].posterior[lens], truth)
    groups = groups_of(sample.truth, lens, {"selected": sample.models[0].logit > 1})
    bootstrap = Bootstrap(np.arange(len(truth)), replicates)
    return regress(reduced, truth, groups, 0.263, sample.features[lens], bootstrap), truth, reduced


@pytest.fixture(scope="module")
def exact():
    return measured()


@pytest.fixture(scope="module")
def narrow():
    return measured(width=0.6)


def test_exact_posteriors_cover(exact):
    figures = exact[0].figures
    for level in (0.5, 0.68, 0.95):
        for name in (*PARAMETERS, "joint_5", "joint_7", "holismokes_theta_E", "holismokes_ex", "one_minus_q_ey"):
            assert figures[f"coverage.{level:g}.{name}"].value == pytest.approx(level, abs=0.033), name
    ceiling = 1.9 / np.sqrt(len(exact[1]))
    assert max(figures[f"pit_ks.{name}"].value for name in PARAMETERS) < ceiling
    assert max(figures[f"tarp.joint_{k}.largest"].value for k in (5, 7)) < ceiling


def test_overconfident_posteriors_do_not(narrow):
    figures = narrow[0].figures
    expected = 2 * stats.norm.cdf(0.6 * stats.norm.ppf(0.975)) - 1
    assert figures["coverage.0.95.x"].value == pytest.approx(expected, abs=0.03)
    limit = 0.36 * stats.chi2.ppf(0.68, 7)
    assert figures["coverage.0.68.joint_7"].value == pytest.approx(stats.chi2.cdf(limit, 7), abs=0.03)
    assert figures["tarp.joint_7.largest"].value > 0.06


def test_the_right_width_has_the_best_scores(exact, narrow):
    for name in ("nll.joint_5", "nll.joint_7", "nll.theta_E", "nll.e1_e2", "crps.x", "crps.theta_E"):
        assert exact[0].figures[name].value < narrow[0].figures[name].value, name


def test_errors_are_those_of_the_posterior(exact):
    figures, truth, reduced = exact[0].figures, exact[1], exact[2]
    assert figures["errors.x.half_width_68"].value == pytest.approx(0.0447 * stats.norm.ppf(0.84), rel=0.05)
    assert figures["sharpness.x"].value == pytest.approx(0.0447, rel=0.02)
    assert figures["outliers.theta_E"].value == pytest.approx(
        (np.abs(reduced.median[:, 0] - truth[:, 0]) > 0.15 * truth[:, 0]).mean()
    )
    assert figures["prior.x.half_width_68"].value == pytest.approx(0.1 * stats.norm.ppf(0.84), rel=0.05)
    assert figures["light.x.half_width_68"].value < 0.3 * figures["prior.x.half_width_68"].value
    assert figures["light.sx.half_width_68"].value > 0.9 * figures["prior.sx.half_width_68"].value


def test_groups(exact):
    counts = exact[0].counts
    assert counts["quad"] + counts[FEWER] == counts["all"]
    assert counts["S/N 20-40"] > 20
    assert counts["selected"] < counts["all"]
    assert exact[0].figures["group.quad.coverage.0.68.joint_7"].value == pytest.approx(0.68, abs=0.05)
    assert exact[0].figures["group.theta_E > 0.8.errors.x.half_width_68"].low > 0


def test_galaxies_of_groups_are_counted_beside_their_lenses():
    sample = scored(400)
    lens = sample.truth["is_lens"]
    truth, galaxy = truth_table(sample.truth, lens), np.arange(lens.sum()) // 5
    reduced = reduce_posteriors(sample.models[0].posterior[lens], truth)
    groups = {"first": np.arange(len(truth)) < 50}
    found = regress(reduced, truth, groups, 0.263, sample.features[lens], Bootstrap(galaxy, 4))
    assert found.counts == {"all": len(truth), "first": 50}
    assert found.galaxies == {"all": galaxy.max() + 1, "first": 10}


def test_groups_have_ranks_and_sharpness_of_their_own(exact):
    figures, reduced = exact[0].figures, exact[2]
    sample = scored(2 * 2500)
    quad = sample.truth["n_images"][sample.truth["is_lens"]] >= 4
    found = figures["group.quad.pit_ks.x"]
    assert found.value == pytest.approx(stats.kstest(reduced.ranks["x"][quad], "uniform").statistic)
    assert np.isfinite(found.replicates).all()
    assert figures["group.quad.sharpness.x"].value == pytest.approx(reduced.sigma[quad, 3].mean(), rel=1e-5)


def test_lenses_of_every_size_are_in_a_group():
    theta_E = np.repeat([0.3, 0.7, 2.5, 3.5, 5.0, 9.0], 20)
    groups = groups_of({"theta_E": theta_E}, np.ones(len(theta_E), bool), {})
    assert theta_E[groups["theta_E 0-0.5"]].tolist() == [0.3] * 20
    assert set(theta_E[groups["theta_E > 3"]]) == {3.5, 5.0, 9.0}
    bins = [rows for name, rows in groups.items() if name != "theta_E > 0.8"]
    assert (np.sum(bins, axis=0) == 1).all()


def test_what_is_no_quad_is_not_called_a_double():
    images = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 20)
    groups = groups_of({"theta_E": np.ones(100), "n_images": images}, np.ones(100, bool), {})
    assert set(images[groups["quad"]]) == {4, 5}
    assert set(images[groups["fewer than 4 images"]]) == {1, 2, 3}
    assert "double" not in groups


def repeated(mean, packed, n):
    return Mixture.single(np.repeat(mean, n, axis=0), np.repeat(packed, n, axis=0))


def test_likelihood_in_physical_units_by_numbers():
    """The density of theta_E, and of (e1, e2), integrates to one over physical values."""
    _, mean, packed = posteriors(1, np.random.default_rng(2))
    grid = np.linspace(0.2, 4, 1001)
    truth = np.tile(from_latent(mean), (len(grid), 1))
    truth[:, 0] = grid
    nll = likelihoods(to_latent(truth), truth, repeated(mean, packed, len(truth)))["theta_E"]
    assert np.trapezoid(np.exp(-nll), grid) == pytest.approx(1.0, abs=1e-3)
    axis = np.linspace(-0.99, 0.99, 160)
    e1, e2 = (part.ravel() for part in np.meshgrid(axis, axis))
    inside = np.hypot(e1, e2) < 0.995
    truth = np.tile(from_latent(mean), (inside.sum(), 1))
    truth[:, 1], truth[:, 2] = e1[inside], e2[inside]
    nll = likelihoods(to_latent(truth), truth, repeated(mean, packed, len(truth)))["e1_e2"]
    assert np.exp(-nll).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=0.01)


def test_joint_likelihoods_of_what_is_independent_are_sums():
    latent, mean, packed = posteriors(50, np.random.default_rng(6))
    nll = likelihoods(latent, from_latent(latent), Mixture.single(mean, packed))
    five = nll["theta_E"] + nll["e1_e2"] + nll["x"] + nll["y"]
    np.testing.assert_allclose(nll["joint_5"], five)
    np.testing.assert_allclose(nll["joint_7"], five + nll["sx"] + nll["sy"])


def test_regions_do_not_depend_on_the_unit():
    """Positions in units ten times as small: the same samples lie nearer to the same references."""
    rng = np.random.default_rng(3)
    truth = from_latent(0.2 * rng.normal(size=(200, 7)))
    samples = from_latent(to_latent(truth)[:, None] + 0.1 * rng.normal(size=(200, 40, 7)))
    unit = np.array([1, 1, 1, 10, 10, 10, 10])
    scale, box = truth.std(axis=0), np.quantile(truth, [0.01, 0.99], axis=0)
    found, other = (
        _reduce(samples * u, truth * u, scale * u, (box[0] * u, box[1] * u), np.random.default_rng(1))
        for u in (np.ones(7), unit)
    )
    for name in ("tarp.joint_5", "tarp.joint_7"):
        np.testing.assert_allclose(found[name], other[name])


def test_what_holds_for_all_lenses_is_not_certain():
    found, truth, _ = measured(width=4.0, n=150, replicates=4)
    figures = found.figures
    covered = figures["coverage.0.997.x"]
    assert covered.value == 1.0
    assert (covered.low, covered.high) == pytest.approx(wilson(len(truth), len(truth)))
    of_group = figures["group.theta_E > 0.8.coverage.0.95.x"]
    assert of_group.value == 1.0
    assert of_group.low < covered.low, "fewer lenses"


def test_outliers_are_counted_in_the_unit_of_each_parameter(exact):
    _, truth, reduced = exact
    table, names = _indicators(reduced, truth, 0.05)
    shares = dict(zip(names, table.mean(axis=0), strict=True))
    off = np.abs(reduced.median - truth)
    for k, name, most in ((0, "theta_E", 0.15 * truth[:, 0]), (1, "e1", 0.2), (2, "e2", 0.2), (3, "x", 0.05)):
        assert shares[f"outliers.{name}"] == pytest.approx((off[:, k] > most).mean()), name
    assert shares["outliers.x"] > 0.2 > shares["outliers.e1"]


def test_twins_do_not_predict_each_other_from_their_light(monkeypatch):
    given = []
    monkeypatch.setattr(
        "lensscan.evaluate.regression.linear_values",
        lambda features, truth, galaxy=None: given.append(galaxy) or np.zeros_like(truth),
    )
    sample = scored(400)
    lens = sample.truth["is_lens"]
    truth = truth_table(sample.truth, lens)
    galaxy = np.arange(len(truth)) // 2
    reduced = reduce_posteriors(sample.models[0].posterior[lens], truth)
    regress(reduced, truth, {}, 0.263, sample.features[lens], Bootstrap(galaxy, 1))
    assert given[0] is galaxy


def test_latent_and_back():
    latent = np.random.default_rng(3).normal(0, 0.4, (200, 7))
    np.testing.assert_allclose(to_latent(from_latent(latent)), latent, atol=1e-9)
    round_lens = np.array([[1.0, 0, 0, 0, 0, 0, 0]])
    assert to_latent(round_lens)[0, 0] == 0
    np.testing.assert_allclose(log_jacobian(round_lens), [[0.0], [0.0]], atol=1e-12)


def test_conventions():
    q, phi = np.array([0.5, 0.8]), np.array([0.3, 1.2])
    e1, e2 = from_axis_ratio(q, phi)
    truth = np.column_stack([np.ones(2), e1, e2, *np.zeros((4, 2))])
    turned = truth.copy()
    turned[:, 1], turned[:, 2] = from_axis_ratio(q, phi + np.pi)
    for name in ("hezaveh2017", "one_minus_q", "holismokes4"):
        ours, true = convert(name, turned, truth)
        np.testing.assert_allclose(ours, true, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(np.hypot(*convert("hezaveh2017", truth, truth)[1][:, 1:].T), 1 - q)
    np.testing.assert_allclose(np.hypot(*convert("one_minus_q", truth, truth)[1].T), 1 - q)
    np.testing.assert_allclose(np.hypot(*convert("holismokes4", truth, truth)[1][:, 1:].T), (1 - q**2) / (1 + q**2))
    np.testing.assert_allclose(convert("holismokes4", truth, truth)[1][:, 0], (1 + q) / (2 * np.sqrt(q)))


def test_an_ellipse_turned_by_ninety_degrees_gets_no_sign_from_the_truth_but_in_hezaveh():
    """A spin-2 pair of the wrong sign: errors are twice the truth.  Hezaveh's turns by 90 degrees: sqrt(2) times."""
    sample = scored(400)
    lens = sample.truth["is_lens"]
    truth = truth_table(sample.truth, lens)
    truth[:, 1], truth[:, 2] = 0.3, -0.1
    reduced = reduce_posteriors(sample.models[0].posterior[lens], truth)
    turned = _with(reduced, truth * [1, -1, -1, 1, 1, 1, 1])
    figures = regress(turned, truth, {}, 0.263, sample.features[lens], Bootstrap(np.arange(len(truth)), 2)).figures
    size = np.hypot(0.3, 0.1)
    q = (1 - size) / (1 + size)
    cosine, sine = 0.3 / size, -0.1 / size
    expected = {
        "errors": (2 * size, "e1", "e2"),
        "one_minus_q": (2 * (1 - q), "ex", "ey"),
        "holismokes4": (2 * (1 - q**2) / (1 + q**2), "ex", "ey"),
    }
    for convention, (error, *names) in expected.items():
        for name, part in zip(names, (cosine, sine), strict=True):
            for figure in ("abs_68", "rms"):
                found = figures[f"{convention}.{name}.{figure}"].value
                assert found == pytest.approx(abs(error * part), abs=1e-9), (convention, name, figure)
    pair = [figures[f"hezaveh2017.{name}.rms"].value for name in ("ex", "ey")]
    assert np.hypot(*pair) == pytest.approx(np.sqrt(2) * (1 - q))
    same = regress(_with(reduced, truth), truth, {}, 0.263, sample.features[lens], Bootstrap(np.arange(len(truth)), 2))
    for name in ("hezaveh2017.ex", "hezaveh2017.ey", "errors.e1", "one_minus_q.ex", "holismokes4.ey"):
        assert same.figures[f"{name}.rms"].value == pytest.approx(0.0, abs=1e-12), name


def _with(found, median):
    """Posteriors of other medians."""
    return dataclasses.replace(found, median=median.copy())


def test_help_from_the_truth_makes_errors_smaller():
    """No information: the pair's error falls from the prior's to about 0.8 of it, as for Hezaveh+2017's prior."""
    rng = np.random.default_rng(4)
    q = 1 - rng.uniform(0, 0.9, 20_000)
    e1, e2 = from_axis_ratio(q, rng.uniform(0, np.pi, len(q)))
    truth = np.column_stack([np.ones(len(q)), e1, e2, *np.zeros((4, len(q)))])
    ours, true = convert("hezaveh2017", rng.permutation(truth), truth)
    helped = np.quantile(np.abs(ours[:, 1] - true[:, 1]), 0.68)
    sign = rng.choice([-1, 1], len(q))
    blind = np.quantile(np.abs(ours[:, 1] * sign - true[:, 1]), 0.68)
    assert helped < 0.8 * blind
    assert np.quantile(np.abs(true[:, 1]), 0.68) == pytest.approx(0.378, abs=0.01), "what the paper's prior gives"


def test_rejecting_the_uncertain_helps_where_widths_differ():
    rng = np.random.default_rng(5)
    sigma = rng.uniform(0.1, 2.0, 20_000)
    error = Deviations(sigma * rng.normal(size=len(sigma)), np.zeros(len(sigma)))
    kept = {share: _surest(sigma, share) for share in (1.0, *KEPT)}
    assert [rows.sum() for rows in kept.values()] == [int(share * len(sigma)) for share in kept]
    widths = np.array([error.widths(rows.astype(int))["half_width_68"] for rows in kept.values()])
    assert (np.diff(widths) < 0).all()
    assert widths[-1] < 0.5 * widths[0]


def test_every_point_of_the_selective_curve_has_an_interval(exact):
    figures, curves = exact[0].figures, exact[0].curves
    assert curves["kept"].tolist() == [1.0, *KEPT]
    for name in PARAMETERS:
        points = [figures[f"selective.{share:g}.{name}"] for share in KEPT]
        assert curves[f"selective.{name}"][1:].tolist() == [point.value for point in points]
        assert all(point.low < point.high for point in points)


def test_a_group_that_no_row_was_drawn_of_is_unknown_not_zero():
    """Two stamps, one of them under every row of the group: a quarter of the resamples draw the other one only."""
    sample = scored(800)
    lens = sample.truth["is_lens"]
    truth = truth_table(sample.truth, lens)
    reduced = reduce_posteriors(sample.models[0].posterior[lens], truth)
    inside = central_coverage(reduced.ranks["x"], 0.95)
    bootstrap = Bootstrap(inside.astype(int), 40)
    found = regress(reduced, truth, {"inside": inside}, 0.263, sample.features[lens], bootstrap).figures
    covered = found["group.inside.coverage.0.95.x"]
    assert np.isnan(covered.replicates).any()
    assert (np.isnan(found["group.inside.pit_ks.x"].replicates) == np.isnan(covered.replicates)).all()
    assert np.nanmin(covered.replicates) == covered.value == 1.0
    assert (covered.low, covered.high) == wilson(1, 1), "one stamp is under all rows of the group"


def test_distances_of_tarp_are_resampled(exact):
    reduced = exact[2]
    figure = exact[0].figures
    for name, fraction in reduced.tarp.items():
        for number, counts in enumerate(Bootstrap(np.arange(len(fraction)), 6).counts()):
            gap = expected_coverage(np.repeat(fraction, counts), TARP_LEVELS) - TARP_LEVELS
            assert figure[f"tarp.{name}.largest"].replicates[number] == pytest.approx(np.abs(gap).max())
            assert figure[f"tarp.{name}.mean"].replicates[number] == pytest.approx(gap.mean())


def test_gain_over_the_light_is_the_known_one(exact):
    """x from the light to 0.01, sx not at all (0.3, the prior); the posterior knows them to 0.0447 and 0.166."""
    figures = exact[0].figures
    for name in ("x", "sx", "hezaveh2017.ex", "holismokes4.theta_E", "one_minus_q.ey"):
        ours = figures[f"errors.{name}.half_width_68" if "." not in name else f"{name}.half_width_68"]
        light = figures[f"light.{name}.half_width_68"]
        gain = figures[f"gain_over_light.{name}"]
        assert gain.value == pytest.approx(1 - ours.value / light.value), name
        np.testing.assert_allclose(gain.replicates, 1 - ours.replicates / light.replicates)
        assert gain.low <= gain.high
    assert figures["gain_over_light.x"].value == pytest.approx(1 - 0.0447 / 0.01, rel=0.08)
    assert figures["gain_over_light.sx"].value == pytest.approx(1 - 0.1664 / 0.3, abs=0.04)


def test_ellipticities_of_a_fit_to_the_light_stay_those_of_ellipses():
    from lensscan.evaluate.regression import _possible

    values = np.zeros((3, 7))
    values[:, 1], values[:, 2] = (3.0, 0.3, 0.0), (-4.0, 0.4, 0.0)
    found = _possible(values)
    np.testing.assert_allclose(np.hypot(found[:, 1], found[:, 2]), (0.95, 0.5, 0.0))
    np.testing.assert_allclose(found[0, 2] / found[0, 1], -4 / 3)
    for convention in CONVENTIONS:
        assert np.isfinite(convert(convention, found, found)[0]).all()
