"""Detection: what two Gaussians must give, what a set cannot show, what counts as a false positive."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from synthetic_scores import scored

from lensscan.evaluate.detection import BINS, _fitted, _noise, detect
from lensscan.evaluate.rates import completeness_table, false_positives, rate
from lensscan.evaluate.report import clusters
from lensscan.metrics.bootstrap import Bootstrap
from lensscan.metrics.calibration import binned, class_weights
from lensscan.metrics.detection import wilson
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.recipes import CLASSES


@pytest.fixture(scope="module")
def found():
    sample = scored(30_000)
    return detect(sample.models[0].logit, sample.truth["is_lens"], Bootstrap(sample.rows, 60))


def test_figures_of_two_gaussians(found):
    value = {name: estimate.value for name, estimate in found.figures.items()}
    assert value["auroc"] == pytest.approx(stats.norm.cdf(np.sqrt(2)), abs=0.005)
    for fpr in (1e-2, 1e-3):
        exact = stats.norm.sf(stats.norm.isf(fpr, -1), 1)
        inside = found.figures[f"tpr_at_fpr_{fpr:g}"]
        assert inside.low - 0.02 < exact < inside.high + 0.02
    assert value["accuracy"] == pytest.approx(stats.norm.cdf(1), abs=0.01)
    assert value["kappa"] == pytest.approx(2 * value["accuracy"] - 1)
    assert value["ece_prevalence_0.5"] < found.ece_noise * 1.5
    assert value["isotonic_largest"] < found.isotonic_noise * 1.5
    tpr = value["tpr_at_fpr_0.01"]
    assert value["purity_at_fpr_0.01_prevalence_0.001"] == pytest.approx(tpr * 1e-3 / (tpr * 1e-3 + 0.01 * 0.999))


def test_stated_purity_is_the_true_one_for_calibrated_logits():
    """Unit Gaussians at +-1.85: enough non-lenses pass p_lens = 1/2 at a prevalence of 1e-3 to see them."""
    rng = np.random.default_rng(7)
    lens = np.arange(160_000) < 10_000
    logit = 3.7 * rng.normal(np.where(lens, 1.85, -1.85))
    found = detect(logit, lens, Bootstrap(np.arange(len(lens)), 20))
    stated, true = (found.figures[f"{kind}_purity_prevalence_0.001"] for kind in ("stated", "true"))
    tpr, fpr = (stats.norm.sf(np.log(999) / 3.7 + side * 1.85) for side in (-1, 1))
    exact = 1e-3 * tpr / (1e-3 * tpr + 0.999 * fpr)
    assert stated.value == pytest.approx(exact, abs=0.02)
    assert abs(true.value - exact) < 3 * (true.high - true.low) / 3.92
    assert true.high - true.low < 0.25
    assert "true_purity_prevalence_0.0001" in found.omitted


def honest(n, share, seed):
    """Return calibrated logits of two Gaussians, a `share` of lenses, and labels."""
    rng = np.random.default_rng(seed)
    lens = np.arange(n) < share * n
    return 2 * rng.normal(np.where(lens, 1.0, -1.0)), lens


def test_noise_of_the_calibration_error_is_what_honest_models_stay_below():
    """Sets of one lens in ten: nine or more of ten honest models, and by no more than a little."""
    limits = _noise(*honest(1000, 0.1, 1), np.arange(1000), seed=2)
    errors = []
    for seed in range(3, 63):
        logit, lens = honest(1000, 0.1, seed)
        errors.append((_even_error(logit, lens), _fitted(logit, lens, 0.5).largest()))
    for limit, found in zip(limits, np.transpose(errors), strict=True):
        assert (found < limit).mean() >= 0.85
        assert limit < 1.2 * found.max()


def test_noise_of_the_calibration_error_is_that_of_the_galaxies():
    """Each row nine times: nothing more is known of a model, and the limits are those of one row each."""
    logit, lens = honest(1000, 0.5, 1)
    once = _noise(logit, lens, np.arange(1000), seed=2)
    many = [np.repeat(each, 9) for each in (logit, lens, np.arange(1000))]
    np.testing.assert_allclose(_noise(*many, seed=2), once, rtol=0.1)
    assert _noise(*many[:2], np.arange(9000), seed=2)[0] < 0.5 * once[0], "nine times as many galaxies"


def _even_error(logit, lens):
    order = np.argsort(logit)
    p = 1 / (1 + np.exp(-logit[order]))
    return binned(p, lens[order].astype(float), class_weights(lens, 0.5)[order], BINS).error()


def test_intervals_of_the_threshold_widen_towards_rare_false_positives(found):
    wide, narrow = found.figures["tpr_at_fpr_0.001"], found.figures["tpr_at_fpr_0.01"]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    fixed = 3.92 * np.sqrt(wide.value * (1 - wide.value) / 15_000)
    assert wide.high - wide.low > 1.5 * fixed, "the threshold itself is uncertain"


def test_what_the_set_cannot_show_is_left_out_with_a_reason(found):
    assert "tpr_at_fpr_0.0001" not in found.figures
    assert "100000 are needed" in found.omitted["tpr_at_fpr_0.0001"]
    assert "tpr0" not in found.figures
    assert "100000 objects" in found.omitted["tpr0"]
    shown = {name for name in found.figures if name.startswith("purity_top")}
    missing = {name for name in found.omitted if name.startswith("purity_top")}
    assert len(shown) + len(missing) == 6
    assert "purity_top_10000_prevalence_0.001" in shown
    assert "purity_top_100_prevalence_0.0001" in missing


def test_challenge_figures_on_100_000_objects():
    rng = np.random.default_rng(3)
    lens = np.arange(100_000) < 50_000
    logit = rng.normal(np.where(lens, 2.0, 0.0))
    found = detect(logit, lens, Bootstrap(np.arange(100_000), 3)).figures
    others = np.sort(logit[~lens])[::-1]
    assert found["tpr0"].value == (logit[lens] > others[0]).mean()
    assert found["tpr10"].value == (logit[lens] > others[9]).mean()
    assert found["tpr0"].value <= found["tpr10"].value <= found["tpr_at_fpr_0.001"].value


def test_the_interval_of_tpr0_goes_beyond_the_highest_non_lens(monkeypatch):
    """A bootstrap of TPR0 begins at its value; rows of one galaxy are one highest score, not many."""
    monkeypatch.setattr("lensscan.evaluate.detection.LARGE", 2000)
    rng = np.random.default_rng(5)
    lens = np.arange(2000) < 1000
    logit = rng.normal(np.where(lens, 3.0, 0.0))
    found = detect(logit, lens, Bootstrap(np.arange(2000), 400)).figures["tpr0"]
    threshold = logit[~lens].max()
    assert found.value == (logit[lens] > threshold).mean()
    assert found.low < found.value - 0.1
    assert found.value < found.high < (logit[lens] > np.sort(logit[~lens])[-8]).mean() + 0.03
    exact = stats.norm.sf(stats.norm.isf(np.log(2) / 1000) - 3)
    assert found.low < exact < found.high
    twice = np.flatnonzero(~lens)[np.argsort(logit[~lens])[-40:]]
    rows = np.append(np.arange(2000), np.tile(twice, 3))
    again = detect(logit[rows], lens[rows], Bootstrap(rows, 400)).figures["tpr0"]
    assert (again.low, again.high) == pytest.approx((found.low, found.high), abs=0.05)


def test_no_lens_before_the_first_false_positive_may_be_chance(monkeypatch):
    monkeypatch.setattr("lensscan.evaluate.detection.LARGE", 2000)
    rng = np.random.default_rng(6)
    lens = np.arange(2000) < 1000
    logit = rng.normal(size=2000)
    logit[~lens] = np.minimum(logit[~lens], 1.0)
    logit[lens] = np.minimum(logit[lens], 2.4)
    logit[1000] = 2.5
    found = detect(logit, lens, Bootstrap(np.arange(2000), 200)).figures["tpr0"]
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high > 0.05 > wilson(0, 1000)[1], "the second non-lens would have left many"


def test_what_is_never_wrong_is_not_certain():
    """Lenses and others far apart: all resamples are alike, and say nothing."""
    lens = np.arange(3000) < 1000
    logit = np.where(lens, 6.0, -6.0) + 0.1 * np.random.default_rng(1).normal(size=3000)
    figures = detect(logit, lens, Bootstrap(np.arange(3000), 30)).figures
    recall, wrong = wilson(1000, 1000)[0], wilson(0, 2000)[1]
    expected = {
        "recall": recall,
        "auroc": recall,
        "accuracy": (recall + 1 - wrong) / 2,
        "precision": recall / (recall + wrong),
        "f1": 2 * recall / (1 + recall + wrong),
        "kappa": recall - wrong,
        "purity_at_fpr_0.01_prevalence_0.001": 0.001 * recall / (0.001 * recall + 0.01 * 0.999),
    }
    for name, low in expected.items():
        assert figures[name].low == pytest.approx(low), name
        assert figures[name].low < figures[name].value <= figures[name].high, name
    assert (
        figures["inspected_per_lens_at_fpr_0.01_prevalence_0.001"].high
        > 1 / figures["purity_at_fpr_0.01_prevalence_0.001"].value
    )
    twins = detect(logit, lens, Bootstrap(np.arange(3000) // 10, 30)).figures
    assert twins["precision"].low < figures["precision"].low, "300 galaxies"
    none = detect(-logit, lens, Bootstrap(np.arange(3000), 30)).figures["tpr_at_fpr_0.01"]
    assert (none.value, none.high) == (0.0, wilson(0, 1000)[1])


def test_precision_of_a_model_that_calls_no_other_a_lens():
    lens = np.arange(600) < 300
    logit = np.where(lens, np.where(np.arange(600) % 2, 3.0, -3.0), -5.0)
    figures = detect(logit, lens, Bootstrap(np.arange(600), 40)).figures
    assert figures["precision"].value == 1.0
    assert figures["precision"].low == pytest.approx(
        figures["recall"].low / (figures["recall"].low + wilson(0, 300)[1])
    )
    assert figures["recall"].low < 0.5 < figures["recall"].high


def test_systems_below_the_label_rule_are_neither(found):
    sample = scored(4000, vague=0.3)
    vague = ambiguous(sample.truth)
    assert vague.sum() > 300
    table = false_positives(np.ones(4000, bool), sample.truth)
    assert table["undetectable"]["value"] == 1.0
    assert "share" not in table["undetectable"]
    shares = [row["share"] for name, row in table.items() if name != "undetectable"]
    assert sum(share["value"] for share in shares) == pytest.approx(1.0)
    others = int((~sample.truth["is_lens"] & ~vague).sum())
    for share in shares:
        assert share["n"] == others
        assert (share["low"], share["high"]) == wilson(round(share["value"] * others), others)
    assert "lens" not in table
    assert not ambiguous({"is_lens": sample.truth["is_lens"]}).any()


def test_completeness_counts_every_lensed_system():
    sample = scored(4000, vague=0.3)
    above = sample.models[0].logit > 0
    table = completeness_table(above, sample.truth, sample.models[0].fwhm)
    lensed = np.isfinite(sample.truth["theta_E"])
    assert sum(cell["n"] for row in table["cells"] for cell in row) == lensed.sum(), "however small or large"
    assert len(table["cells"]) == len(table["theta_E_edges"]) == 8
    large = lensed & (sample.truth["theta_E"] >= 2.0)
    assert sum(cell["n"] for row in table["cells"][-2:] for cell in row) == large.sum() > 0
    chosen = lensed & (sample.truth["theta_E"] > 1.4) & (sample.truth["snr_arc"] > 20)
    assert table["cmu"]["value"] == pytest.approx(above[chosen].mean())
    assert table["cmu"]["low"] < table["cmu"]["value"] < table["cmu"]["high"]
    assert sum(cell["n"] for cell in table["by_seeing"]) == lensed.sum()


def test_completeness_by_seeing_takes_the_median_band():
    """One arcsec in three bands of 0.5, 0.8 and 4 arcsec, one of them unknown, or all."""
    fwhm = np.array([[0.5, 0.8, 4.0], [np.nan, 0.5, 0.5], [np.nan] * 3])
    truth = {"is_lens": np.ones(3, bool), "theta_E": np.ones(3), "snr_arc": np.full(3, 30.0)}
    cells = completeness_table(np.array([True, False, True]), truth, fwhm)["by_seeing"]
    assert [cell["n"] for cell in cells] == [0, 0, 0, 1, 0, 1], "1 / 0.8 and 1 / 0.5"
    assert (cells[3]["value"], cells[5]["value"]) == (1.0, 0.0)


def test_twins_share_a_cluster():
    sample = scored(2000)
    logit, lens = sample.models[0].logit, sample.truth["is_lens"]
    alone = detect(logit, lens, Bootstrap(np.arange(2000), 150)).figures["auroc"]
    double = detect(np.tile(logit, 2), np.tile(lens, 2), Bootstrap(np.tile(np.arange(2000), 2), 150)).figures["auroc"]
    assert double.high - double.low == pytest.approx(alone.high - alone.low, rel=0.3)


def test_rates_of_few_galaxies_have_wide_intervals():
    """Three in four of 400 rows on ten galaxies: as many trials as galaxies."""
    hits, galaxy = np.arange(400) % 4 > 0, np.arange(400) // 40
    found, rows = rate(hits, galaxy), rate(hits)
    assert (found["n"], found["value"]) == (400, 0.75) == (rows["n"], rows["value"])
    assert (found["low"], found["high"]) == wilson(7.5, 10)
    assert (rows["low"], rows["high"]) == wilson(300, 400)
    assert rate(hits[:0], galaxy[:0])["high"] == 1.0
    sample = scored(400, seed=2)
    above, fwhm = sample.models[0].logit > 0, sample.models[0].fwhm
    alone, together = (
        (completeness_table(above, sample.truth, fwhm, each)["cmu"], false_positives(above, sample.truth, each)["ring"])
        for each in (None, galaxy % 5)
    )
    for narrow, wide in zip(alone, together, strict=True):
        assert wide["value"] == narrow["value"]
        assert wide["high"] - wide["low"] > 1.4 * (narrow["high"] - narrow["low"])
    for narrow, wide in ((alone[1]["share"], together[1]["share"]),):
        assert wide["high"] - wide["low"] > 1.4 * (narrow["high"] - narrow["low"])


def test_rows_of_few_galaxies_show_no_rare_false_positives():
    """20,000 rows of 1,500 galaxies can show a rate of 0.01, and none of 0.001."""
    rng = np.random.default_rng(2)
    galaxy = rng.permutation(20_000) % 1500
    lens = np.arange(20_000) < 4000
    logit = 2 * rng.normal(np.where(lens, 1.0, -1.0))
    rows, few = (detect(logit, lens, Bootstrap(each, 3)) for each in (np.arange(20_000), galaxy))
    assert "tpr_at_fpr_0.001" in rows.figures
    assert "tpr_at_fpr_0.001" not in few.figures
    assert "tpr_at_fpr_0.01" in few.figures
    assert few.omitted["tpr_at_fpr_0.001"].startswith("16000 non-lenses of 1500 galaxies show too few")
    assert "purity_top_1000_prevalence_0.001" in rows.figures
    assert "of 1500 galaxies" in few.omitted["purity_top_1000_prevalence_0.001"]
    assert len(few.figures) < len(rows.figures)


def test_real_stamps_are_the_clusters():
    sample = scored(6)
    assert clusters(sample).tolist() == sample.rows.tolist()
    stamped = dataclasses.replace(sample, truth=sample.truth | {"stamp": np.array([-1, 0, 0, 3, -1, 3])})
    found = clusters(stamped)
    assert found[1] == found[2] != found[3]
    assert found[3] == found[5]
    assert len(set(found.tolist())) == 4


def test_classes_are_those_of_the_recipes():
    sample = scored(500)
    names = set(false_positives(np.zeros(500, bool), sample.truth))
    assert names <= set(CLASSES)
    blank = dataclasses.replace(sample, truth={"is_lens": sample.truth["is_lens"]})
    assert false_positives(np.zeros(500, bool), blank.truth) == {}


def test_stated_lenses_of_the_best_are_those_that_are_there():
    rng = np.random.default_rng(12)
    lens = rng.random(60_000) < 0.5
    logit = 2 * rng.normal(np.where(lens, 1.0, -1.0), 1.0)  # the log likelihood ratio of two Gaussians
    rows = Bootstrap(np.arange(len(lens)), 40)
    name = "stated_over_true_top_10000_prevalence_0.001"
    fair = detect(logit, lens, rows).figures[name]
    assert fair.low < 1 < fair.high
    assert fair.value == pytest.approx(1, abs=0.1)
    assert detect(logit + 1.5, lens, rows).figures[name].low > 1.5, "stated too high"
    held = detect(logit + 1.5, lens, rows, cap=2.0).figures
    assert held[name].high < 0.8, "capped far below the truth"
    assert held["auroc"].value == detect(logit, lens, rows).figures["auroc"].value


def test_probabilities_are_judged_on_the_lenses_of_a_survey():
    """Half of the lenses, the brighter ones, are no part of a survey: what is said of it does not know them."""
    rng = np.random.default_rng(13)
    lens = rng.random(60_000) < 0.5
    extra = lens & (rng.random(60_000) < 0.5)
    logit = 2 * rng.normal(np.where(lens, 1.0, -1.0), 1.0)
    surveyed = ~extra
    brighter = np.where(extra, logit + 3, logit)
    rows = Bootstrap(np.arange(len(lens)), 40)
    part, whole = detect(brighter, lens, rows, surveyed=surveyed), detect(brighter, lens, rows)
    alone = detect(logit[surveyed], lens[surveyed], Bootstrap(np.arange(surveyed.sum()), 40))
    for name in (
        "ece_prevalence_0.5",
        "log_loss",
        "brier",
        "purity_top_10000_prevalence_0.001",
        "stated_over_true_top_10000_prevalence_0.001",
        "isotonic_largest",
    ):
        assert part.figures[name].value == pytest.approx(alone.figures[name].value, rel=1e-9), name
        assert part.figures[name].value != pytest.approx(whole.figures[name].value, rel=1e-3), name
    for name in ("auroc", "tpr_at_fpr_0.01", "recall"):
        assert part.figures[name] == whole.figures[name]
    np.testing.assert_allclose(part.diagrams[0.5].observed, alone.diagrams[0.5].observed)
    assert part.ece_noise == alone.ece_noise
