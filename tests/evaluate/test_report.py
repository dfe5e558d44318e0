"""What is measured of a scored set: which rows, which galaxies together, and what a set cannot show."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy.special import expit
from synthetic_scores import scored

from lensscan.errors import ConfigError
from lensscan.evaluate.detection import cut_words, detect
from lensscan.evaluate.galleries import class_name
from lensscan.evaluate.markup import figure, number
from lensscan.evaluate.report import LIKELY, NATURAL, assess, clusters, compare, trivial_scores
from lensscan.evaluate.written import plain
from lensscan.metrics.bootstrap import Bootstrap, Estimate, difference
from lensscan.metrics.detection import auroc, wilson
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.recipes import CLASSES
from lensscan.nets.card import ThetaPrior
from lensscan.nets.prior import natural_rows


def of_lenses(sample):
    """The same with its lenses alone."""
    kept = np.flatnonzero(sample.truth["is_lens"])
    models = [
        dataclasses.replace(
            each, logit=each.logit[kept], posterior=each.posterior[kept], flags=each.flags[kept], fwhm=each.fwhm[kept]
        )
        for each in sample.models
    ]
    truth = {key: column[kept] for key, column in sample.truth.items()}
    return dataclasses.replace(
        sample, rows=sample.rows[kept], truth=truth, features=sample.features[kept], models=models
    )


def without_posteriors(sample, number, rows=slice(None)):
    models = list(sample.models)
    posterior = models[number].posterior
    mean = posterior.mean.copy()
    mean[rows] = np.nan
    models[number] = dataclasses.replace(models[number], posterior=dataclasses.replace(posterior, mean=mean))
    return dataclasses.replace(sample, models=models)


def test_lenses_alone_are_regressed_but_not_ranked():
    (outcome,) = assess(of_lenses(scored(200)), 0.26, 4).outcomes
    assert outcome.detection is None
    assert outcome.regression is not None


def test_scores_without_anything_to_rank_say_so():
    sample = without_posteriors(of_lenses(scored(200)), 0)
    with pytest.raises(ConfigError, match="lenses only; take a set with non-lenses"):
        assess(sample, 0.26, 4)


def test_models_are_compared_on_the_lenses_that_all_of_them_regress():
    """A posterior that one model lacks must not shift the other's resamples: the differences would not be paired."""
    sample = without_posteriors(scored(600, widths=(1.0, 1.0)), 1, slice(0, 40))
    assessment = assess(sample, 0.26, 20)
    ours, theirs = assessment.outcomes
    assert ours.regressed.sum() == theirs.regressed.sum() == sample.truth["is_lens"][40:].sum()
    gaps = [row for row in compare(assessment, 0) if row["figure"].startswith("regression:errors")]
    assert gaps
    assert all(row["value"] == row["low"] == row["high"] == 0 for row in gaps), "the same posteriors twice"


def test_a_set_of_few_lenses_has_no_intervals_but_those_of_counts():
    """With three lenses one resample in twenty draws none, and the others differ in nothing."""
    sample = scored(60, seed=3)
    keep = np.flatnonzero(sample.truth["is_lens"])[:3]
    sample.truth["is_lens"] = np.isin(np.arange(60), keep)
    sample.models[0].logit[keep] = 50.0
    assessment = assess(sample, 0.26, 300)
    (outcome,) = assessment.outcomes
    area, recall, accuracy = (outcome.detection.figures[name] for name in ("auroc", "recall", "accuracy"))
    assert (area.value, area.low, area.high) == (1.0, *wilson(3, 3)) == (recall.value, recall.low, recall.high)
    assert np.isnan(area.replicates).any(), "some resamples hold no lens"
    assert 0.4 < accuracy.value < 1
    assert np.isnan([accuracy.low, accuracy.high]).all()
    assert "3 galaxies with a lens and 57 galaxies without" in outcome.detection.omitted["intervals"]
    assert np.isnan(difference(accuracy, accuracy).low)
    for name, found in outcome.regression.figures.items():
        if not name.startswith(("coverage", "outliers")):
            assert np.isnan([found.low, found.high]).all(), name
    covered = outcome.regression.figures["coverage.0.997.x"]
    assert (covered.value, covered.low) == (1.0, wilson(3, 3)[0]), "all of three"
    assert all(value["low"] is None for value in trivial_scores(sample, 2, outcome.bootstrap).values())


def test_one_lens_tells_no_width():
    sample = scored(60, seed=3)
    lens = np.flatnonzero(sample.truth["is_lens"])
    sample.truth["is_lens"] = np.arange(60) == lens[0]
    (outcome,) = assess(sample, 0.26, 20).outcomes
    width = outcome.regression.figures["errors.theta_E.half_width_68"]
    assert width.value == 0
    assert np.isnan([width.low, width.high]).all()


def test_groups_of_few_galaxies_have_no_intervals():
    """Forty lenses of S/N above 40 on three galaxies, and the others on their own."""
    sample = scored(400, seed=5)
    bright = sample.truth["is_lens"] & (sample.truth["snr_arc"] >= 40)
    stamps = np.where(bright, np.arange(400) % 3, -1)
    (outcome,) = assess(repeated(sample, np.arange(400), stamps), 0.26, 30).outcomes
    figures = outcome.regression.figures
    for name in ("errors.x.rms", "pit_ks.x", "sharpness.theta_E"):
        assert np.isnan(figures[f"group.S/N > 40.{name}"].low), name
        assert figures[f"group.S/N 20-40.{name}"].low > 0, name
    assert figures["errors.x.rms"].low > 0


@pytest.mark.slow
def test_challenge_figures_count_the_systems_below_the_label_rule(monkeypatch):
    monkeypatch.setattr("lensscan.evaluate.detection.LARGE", 2000)
    sample = scored(2000, vague=0.2)
    (outcome,) = assess(sample, 0.26, 3).outcomes
    assert "tpr10" in outcome.detection.figures, "the set has 2,000 objects, lensed but hidden ones among them"
    kept = scored(1999, vague=0.2)
    assert "1999" in assess(kept, 0.26, 3).outcomes[0].detection.omitted["tpr10"]


def repeated(sample, rows, stamps):
    """The rows of a sample again and again, with the real stamp under each."""
    models = [
        dataclasses.replace(
            each, logit=each.logit[rows], posterior=each.posterior[rows], flags=each.flags[rows], fwhm=each.fwhm[rows]
        )
        for each in sample.models
    ]
    truth = {key: column[rows] for key, column in sample.truth.items()} | {"stamp": stamps}
    return dataclasses.replace(
        sample, rows=np.arange(len(rows)), truth=truth, features=sample.features[rows], models=models
    )


def test_intervals_of_everything_are_by_galaxy():
    """Each row four times, as four galaxies or as one: half the interval, or the whole."""
    rows = np.tile(np.arange(160), 4)
    sample = scored(160, seed=4)
    alone, together = (
        assess(repeated(sample, rows, stamps), 0.26, 120).outcomes[0] for stamps in (np.full(640, -1), rows)
    )
    figures = {
        "detection": ("auroc", "brier", "recall"),
        "regression": (
            "errors.x.rms",
            "coverage.0.68.x",
            "crps.theta_E",
            "tarp.joint_7.mean",
            "selective.0.8.x",
            "group.quad.errors.x.rms",
        ),
        "images": ("true_source.all.dx.half_width_68", "posterior.all.right_number", "posterior.all.delay.inside_68"),
    }
    for part, names in figures.items():
        for name in names:
            narrow, wide = (getattr(outcome, part).figures[name] for outcome in (alone, together))
            assert wide.high - wide.low > 1.4 * (narrow.high - narrow.low) > 0, (part, name)


def test_objects_that_could_not_be_scored_are_objects(monkeypatch):
    monkeypatch.setattr("lensscan.evaluate.detection.LARGE", 1000)
    sample = without_posteriors(scored(400), 0)
    assert "1000 objects, this one has 400" in assess(sample, 0.26, 2).outcomes[0].detection.omitted["tpr0"]
    failed = dataclasses.replace(sample, failed=600)
    assert "tpr0" in assess(failed, 0.26, 2).outcomes[0].detection.figures


def test_the_light_of_a_galaxy_is_not_predicted_by_its_twin(monkeypatch):
    given = []
    monkeypatch.setattr(
        "lensscan.evaluate.report.linear_scores",
        lambda features, lens, galaxy=None: given.append(galaxy) or features[:, 0],
    )
    sample = without_posteriors(scored(300, vague=0.3), 0)
    sample.truth["stamp"] = np.arange(300) // 2
    (outcome,) = assess(sample, 0.26, 2).outcomes
    trivial_scores(sample, 2, outcome.bootstrap)
    clear = ~ambiguous(sample.truth)
    assert not clear.all()
    assert all(np.array_equal(galaxy, clusters(sample)[clear]) for galaxy in given)
    assert len(given) == 5


def test_figures_are_those_of_the_plain_functions():
    sample = scored(500)
    (outcome,) = assess(sample, 0.26, 3).outcomes
    assert outcome.detection.figures["auroc"].value == auroc(sample.models[0].logit, sample.truth["is_lens"])


def test_an_upper_limit_that_is_infinite_is_shown_as_above_the_lower_one():
    values = np.r_[np.arange(10.0, 970.0), [np.inf] * 40]
    shown = plain(Estimate.of(500.0, values))
    assert shown == {"value": 500.0, "low": 35.0, "high": None}
    assert figure(shown) == "500 <small>&gt;&thinsp;35</small>"
    assert figure({"value": None, "low": 35.0, "high": None}) == "&gt;&thinsp;35"
    assert figure({"value": 2.0, "low": None, "high": None}) == "2"
    assert figure({"value": None, "low": None, "high": None}) == figure(None) == "&ndash;"


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.25, 0.1, 1.0, "0.25 0.10 1.00"),
        (0.05, 0.01, 0.6, "0.050 0.010 0.600"),
        (0.0003, -0.02, 0.02, "0.000 -0.020 0.020"),
        (0.9123, 0.9, 0.92, "0.912 0.900 0.920"),
        (0.5, 0.5, 0.5, "0.500 0.500 0.500"),
        (512.3, 400.0, 600.0, "512 400 600"),
        (-3.1, -14239000000000000919552095420416.0, 0.9, "-3.1 -1.4e+31 0.9"),
        (1.5e-7, 1e-7, 2e-7, "1.5e-07 1e-07 2e-07"),
    ],
)
def test_figures_have_the_digits_that_mean_something(value, low, high, text):
    shown = figure({"value": value, "low": low, "high": high})
    assert re.sub("<.*?>|&thinsp;", "", shown).replace("&hellip;", " ") == text


def test_large_numbers_are_short():
    assert [number(value) for value in (0.25, 123456, -1.4239e31)] == ["0.25", "123,456", "-1.42e+31"]


def test_a_class_that_is_not_known_has_no_name():
    assert class_name({"klass": np.array([3, -1])}, 0) == CLASSES[3].replace("_", " ")
    assert class_name({"klass": np.array([3, -1])}, 1) == ""
    assert class_name({}, 0) == ""


def test_pictures_galleries_and_selected_lenses_share_one_threshold():
    sample = scored(6000)
    (outcome,) = assess(sample, 0.26, 2).outcomes
    cuts = outcome.detection.cuts()
    assert list(cuts) == ["0.01", "even odds"]
    assert cuts["0.01"] == outcome.detection.thresholds[1e-2]
    lens = sample.truth["is_lens"]
    assert outcome.regression.counts["selected"] == (sample.models[0].logit[lens] >= cuts["0.01"]).sum()
    assert LIKELY == "p_lens > 0.5 at even odds"
    likely = expit(sample.models[0].logit[lens]) > 0.5
    assert outcome.regression.counts[LIKELY] == likely.sum() > outcome.regression.counts["selected"]
    covered = outcome.posteriors.ranks["x"][likely]
    share = (np.abs(covered - 0.5) < 0.34).mean()
    assert outcome.regression.figures[f"group.{LIKELY}.coverage.0.68.x"].value == pytest.approx(share, abs=1e-6)
    few = assess(scored(300), 0.26, 2).outcomes[0]
    assert few.detection.cuts() == {"even odds": 0.0}
    assert "selected" not in few.regression.counts, "even odds are no false positive rate of 0.01"
    assert few.regression.counts[LIKELY] > 0
    assert "1000 are needed" in few.detection.omitted["tpr_at_fpr_0.01"]
    assert [cut_words(name) for name in cuts] == ["a false positive rate of 0.01", "even odds"]


def test_lenses_as_nature_has_them_are_a_group_of_models_trained_on_the_recipe():
    sample = scored(3000)
    (found,) = sample.models
    lens = sample.truth["is_lens"]
    low, high = np.quantile(sample.truth["theta_E"][lens], [0.0, 1.0])
    prior = ThetaPrior(low, high, (1.0,) * 9, (2.0,) * 4 + (1.0,) + (0.0,) * 4)
    card = dataclasses.replace(found.card, theta_E_prior=prior, training={"recipe_digest": "ours"})
    sample.models[0] = dataclasses.replace(found, card=card)
    (outcome,) = assess(sample, 0.26, 2, recipe_digest="ours").outcomes
    rows = natural_rows(prior, sample.truth["theta_E"])
    assert 0.2 < rows[lens].mean() < 0.9
    assert outcome.regression.counts[NATURAL] == rows[lens].sum()
    share = (np.abs(outcome.posteriors.ranks["x"][rows[lens]] - 0.5) < 0.34).mean()
    assert outcome.regression.figures[f"group.{NATURAL}.coverage.0.68.x"].value == pytest.approx(share, abs=1e-6)
    (other,) = assess(sample, 0.26, 2, recipe_digest="other").outcomes
    assert NATURAL not in other.regression.counts
    surveyed = detect(found.logit, lens, Bootstrap(sample.rows, 2), surveyed=rows | ~lens).figures["log_loss"]
    assert outcome.detection.figures["log_loss"] == surveyed != other.detection.figures["log_loss"]
