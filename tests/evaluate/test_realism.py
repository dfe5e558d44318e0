"""The realism gate: leaks that are there are found, a set without passes, and what cannot work is refused."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lensscan.cli.main import main
from lensscan.config import find, read_toml
from lensscan.errors import ConfigError
from lensscan.evaluate import probes as probes_of
from lensscan.evaluate import realism
from lensscan.evaluate.gatereport import failing, lines, report, write_realism
from lensscan.evaluate.probes import LIGHT, LIMITS, LINEAR, MIXED, Verdict, plain_features, run_probe
from lensscan.evaluate.realism import RealismSettings, _check_model, allowed_above, measure_realism
from lensscan.evaluate.recall import Found, compare_recall
from lensscan.evaluate.samples import Sample, galaxy_light, match_brightness, real_sample
from lensscan.metrics.bootstrap import Bootstrap, Estimate
from lensscan.mocks.dataset import Dataset
from lensscan.mocks.realsky import real_sky
from lensscan.mocks.recipes import make_recipe
from lensscan.nets.embedding import embed
from lensscan.nets.model import Card, Model, build_network, make_trivial

SIZE, BANDS = 32, ("r", "i")
N = 240


def tiny_recipe(**change):
    path = find("recipes", "des-griz")
    mapping = read_toml(path) | {"name": "tiny", "bands": list(BANDS), "size": SIZE} | change
    return make_recipe(mapping, str(path))


def tiny_model():
    architecture = {"kind": "resnet", "widths": [8, 8], "depths": [1, 1], "squeeze": 4, "hidden": 8}
    torch.manual_seed(1)
    return Model(
        Card("tiny", architecture, BANDS, SIZE, 0.263, label="lens"), build_network(architecture, 2, SIZE).eval()
    )


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Forty "real" galaxies: mocks of the very recipe that is to be gated."""
    folder = tmp_path_factory.mktemp("survey")
    assert Dataset(tiny_recipe(classes={"elliptical": 1}), 77, 40, folder, "packs", "cpu").write(lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def canvas(survey):
    return {"catalog": str(survey / "catalog.fits"), "survey": "des", "stamps": f"packs:{survey / 'packs'}"}


@pytest.fixture(scope="module")
def gated(canvas):
    """The gate on that survey, at a false positive rate, and on massive galaxies, that so few mocks can show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(realism, "FPR", 0.1)
        patch.setattr(realism, "FEWEST_GALAXIES", 10)
        return measure_realism(RealismSettings(tiny_recipe(canvas=canvas), tiny_model(), N, replicates=50))


def galaxies(n: int, seed: int) -> np.ndarray:
    """Round galaxies of many fluxes without noise, (n, 2, 24, 24)."""
    rng = np.random.default_rng(seed)
    axis = np.arange(24) - 11.5
    shape = np.exp(-np.hypot(axis[:, None], axis[None, :]) / 3)
    return np.exp(rng.normal(4, 0.4, (n, 1, 1, 1))) * shape * np.array([1.0, 2.0])[:, None, None]


def noise(n: int, seed: int, smooth: float = 0.0) -> np.ndarray:
    """Noise of standard deviation 10; pixels correlated over `smooth`."""
    white = np.random.default_rng(seed).normal(size=(n, 2, 24, 24))
    if smooth:
        white = gaussian_filter(white, (0, 0, smooth, smooth))
    return 10 * white / white.std()


def probes(images, labels, limit):
    own = np.arange(len(labels))
    features = plain_features(images.astype(np.float32))
    return {name: run_probe(name, table, labels, own, limit, 200) for name, table in features.items()}


def test_brighter_lenses_leak_and_equal_ones_do_not():
    labels = np.arange(300) % 2 == 0
    equal = galaxies(300, 1) + noise(300, 2)
    brighter = equal * np.where(labels, 1.5, 1.0)[:, None, None, None]
    for name, found in probes(brighter, labels, 0.6).items():
        if name in ("total-flux", "core", "radial"):
            assert found.verdict == Verdict(kept=False, certain=True), name
    for name, found in probes(equal, labels, 0.6).items():
        assert found.verdict.kept, name


def test_white_noise_against_correlated_noise_leaks_in_the_gradients():
    labels = np.arange(300) % 2 == 0
    mixed = np.where(labels[:, None, None, None], noise(300, 3, 1.0), noise(300, 4))
    found = probes(galaxies(300, 5) + mixed, labels, MIXED)
    assert found["hog"].verdict == Verdict(kept=False, certain=True)
    assert found["central-colour"].verdict.kept, "colours are the same"


def test_views_of_few_galaxies_count_as_few():
    rng = np.random.default_rng(6)
    galaxy = np.concatenate([np.repeat(np.arange(12), 8), 12 + np.arange(200)])
    labels = galaxy < 12
    features = rng.normal(size=(212, 6))[galaxy] + 0.01 * rng.normal(size=(len(galaxy), 6))
    found = run_probe("x", features, labels, galaxy, 0.6, 300)
    assert found.auroc.high - found.auroc.low > 0.2, "twelve galaxies, not 96"
    assert found.auroc.low < 0.5 < found.auroc.high + 0.1, "a galaxy's other views are never fitted on"


def test_both_kinds_of_one_galaxy_are_resampled_together(monkeypatch):
    drawn = []
    monkeypatch.setattr(probes_of, "Bootstrap", lambda cluster, n: drawn.append(cluster) or Bootstrap(cluster, n))
    galaxy, labels = np.tile(np.arange(40), 4), np.arange(160) < 80
    run_probe("x", np.random.default_rng(1).normal(size=(160, 2)), labels, galaxy, 0.6, 3)
    assert np.bincount(drawn[0]).tolist() == [2] * 40, "one object of each label, on one galaxy"


def test_verdicts_say_what_the_interval_leaves_open():
    def figure(value, low, high):
        return Estimate(value, low, high, np.empty(0))

    assert Verdict.below(figure(0.5, 0.45, 0.55), 0.6) == Verdict(True, True)
    assert Verdict.below(figure(0.58, 0.5, 0.65), 0.6) == Verdict(True, False)
    assert Verdict.below(figure(0.7, 0.65, 0.75), 0.6) == Verdict(False, True)
    assert Verdict.below(figure(0.61, 0.55, 0.7), 0.6).text("passes", "leaks") == "leaks, uncertain"
    assert Verdict.within(figure(-0.08, -0.18, 0.02), 0.1) == Verdict(True, False)
    assert Verdict.within(figure(-0.3, -0.4, -0.2), 0.1) == Verdict(False, True)


def test_chance_allows_two_of_thirty_six():
    assert [allowed_above(n) for n in (10, 36, 1000)] == [1, 2, 18]


def test_brightness_is_matched_without_using_a_mock_twice():
    rng = np.random.default_rng(7)
    wanted, found = rng.normal(19, 0.3, 30), rng.normal(20, 1, 900)
    rows, distance = match_brightness(wanted, found, 10)
    assert len(rows) == len(set(rows.tolist())) == 300
    assert distance < 0.1
    assert np.median(found[rows]) == pytest.approx(19, abs=0.15)
    assert len(match_brightness(wanted, found[:90], 10)[0]) == 30


def lenses(n, seed, low, find):
    """Lenses of uniform theta_E and S/N; `find` gives the chance to be found from both."""
    rng = np.random.default_rng(seed)
    theta_E, snr = rng.uniform(low, 2.0, n), rng.uniform(20, 80, n)
    return Found(rng.uniform(size=n) < find(theta_E, snr), theta_E, snr, np.arange(n) // 10)


def test_recall_is_compared_at_equal_theta_E_and_snr():
    def easy(theta_E, snr):
        return 0.4 * (theta_E > 1) + 0.4 * (snr > 50)

    painted, mock = lenses(2000, 8, 1.0, easy), lenses(4000, 9, 0.3, easy)
    assert painted.passed.mean() - mock.passed.mean() > 0.1, "as they are, the painted ones are easier"
    found = compare_recall(painted, mock, 200)
    assert found.difference.low < 0 < found.difference.high
    assert found.means[0] == pytest.approx(found.means[2], rel=0.03)
    assert found.means[1] == pytest.approx(found.means[3], rel=0.05)
    worse = dataclasses.replace(painted, passed=painted.passed & (np.arange(2000) % 2 == 0))
    assert compare_recall(worse, mock, 200).difference.high < -0.2
    assert found.share == 1
    assert found.painted.value == pytest.approx(painted.passed.mean()), "the painted lenses stay as they are"
    assert compare_recall(painted, lenses(3, 10, 1.0, easy), 50) is None


def test_lenses_on_one_galaxy_are_found_or_missed_together():
    """Ten alike on each of 60 galaxies say no more than one on each, on either side."""
    rng = np.random.default_rng(11)
    passed = rng.random(60) < 0.5
    few = Found(passed, np.ones(60), np.full(60, 30.0), np.arange(60))
    many = Found(*(np.repeat(getattr(few, name), 10) for name in ("passed", "theta_E", "snr", "galaxy")))
    apart = dataclasses.replace(many, galaxy=np.arange(600))
    widths = [
        [figure.high - figure.low for figure in (found.painted, found.mock)]
        for found in (compare_recall(each, each, 200) for each in (few, many, apart))
    ]
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.35)
    assert max(widths[2]) < 0.5 * min(widths[0])


def test_a_resample_without_common_cells_tells_nothing():
    """One painted galaxy of two in the only used cell: resamples that leave it out must not count as no difference."""
    painted = Found(np.array([True, True]), np.array([1.0, 5.0]), np.array([20.0, 90.0]), np.array([0, 1]))
    n = 20
    mock = Found(np.zeros(n, bool), np.full(n, 1.0), np.full(n, 20.0), np.arange(n))
    found = compare_recall(painted, mock, 60)
    assert (found.difference.value, found.share) == (1.0, 0.5)
    assert found.difference.low == found.difference.high == 1.0


def test_a_survey_of_the_recipes_own_mocks_passes(gated):
    by_name = {probe.name: probe for probe in gated.mock_or_real}
    assert set(by_name) == {"hog", "total-flux", "central-colour", "core", "radial", LINEAR}
    for name, probe in by_name.items():
        assert probe.limit == LIMITS.get(name, MIXED)
        assert probe.auroc.low < 0.56, f"{name}: nothing can be told with certainty"
    assert gated.mismatch < 0.3
    assert {"r - i", "i, noise", "r, inner arcsec", "i, sky in sigma"} <= set(gated.shifts)
    sizes = [abs(shift) for _, _, shift in gated.shifts.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 1, "medians of the same recipe lie within the scatter"
    assert gated.n_stamps + sum(gated.left_out.values()) == 40
    check = gated.model
    assert check.n == gated.n_stamps
    assert check.threshold.low <= check.threshold.value <= check.threshold.high
    assert (check.logits["mock non-lens"] >= check.threshold.value).mean() <= 0.1
    assert check.above == (check.logits["real non-lens"] >= check.threshold.value).sum()


def test_painted_lenses_are_compared_with_simulated_ones():
    """Of those on real stamps all lie above the 99 % threshold, of those on simulated galaxies half."""
    logits = {
        1200: np.concatenate([np.arange(1000.0), np.tile([2000.0, -1.0], 50), np.full(100, -1.0)]),
        36: np.r_[np.full(33, 5.0), np.full(3, 990.0)],
        60: np.full(60, 1500.0),
    }

    def sample(n, **truth):
        return Sample(
            np.zeros((n, 1, 2, 2), np.float32), None, np.ones((n, 1), bool), np.ones((n, 1)), truth, np.arange(n)
        )

    def lenses(n):
        return {"theta_E": np.ones(n), "snr_arc": np.full(n, 30.0)}

    own = np.arange(1200)
    mocks = sample(1200, is_lens=own >= 1000, stamp=np.where(own >= 1100, 3, -1), **lenses(1200))
    model = SimpleNamespace(score=lambda images, *given, **named: {"logit": logits[len(images)]})
    asked = SimpleNamespace(model=model, batch=64, device="cpu", replicates=20)
    found = _check_model(asked, mocks, sample(36), sample(60, **lenses(60)), lambda what, done, total: None)
    assert found.threshold.value == 990.0
    assert (found.above, found.n, found.allowed) == (3, 36, 2)
    assert found.recall.painted.value == 1.0
    assert found.recall.mock.value == pytest.approx(0.5), "without the mocks on real stamps"
    assert found.recall.difference.low > 0


def test_report_and_pictures(gated, tmp_path):
    paths = write_realism(gated, tmp_path)
    assert [path.name for path in paths] == [
        "realism--tiny--tiny.json", "realism--tiny--tiny-probes.png", "realism--tiny--tiny-logits.png",
    ]  # fmt: skip
    stored = json.loads(paths[0].read_text())
    assert stored["failing"] == failing(gated)
    assert {each["probe"] for each in stored["lens_or_not"]} >= {"core", "radial", LIGHT}
    assert stored["check"]["real_above"]["n"] == gated.n_stamps
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[1:])
    text = lines(gated)
    assert text[-1].startswith("leaks or fails: ")
    assert sum("limit 0.55" in line for line in text) == 2, "the core, both times"
    assert report(gated)["stamps"]["n"] == gated.n_stamps


def test_heavy_lens_galaxies_leak_in_their_light():
    mapping = read_toml(find("recipes", "des-griz"))
    heavy = mapping["lens"] | {"sigma_v": [345.0, 10.0, 330.0, 400.0], "flat_fraction": 0.0}
    ordinary = mapping["lens"] | {"sigma_v": [220.0, 10.0, 200.0, 240.0], "flat_fraction": 0.0}
    parts = [galaxy_light(tiny_recipe(lens=each, classes={"lens": 1}), 5, 60)[0] for each in (heavy, ordinary)]
    labels = np.repeat([True, False], [len(part) for part in parts])
    found = run_probe(LIGHT, np.concatenate(parts), labels, np.arange(len(labels)), LIMITS[LIGHT], 100)
    assert found.verdict == Verdict(kept=False, certain=True)
    light, is_lens = galaxy_light(tiny_recipe(classes={"lens": 1, "elliptical": 1, "spiral": 1}), 5, 60)
    assert 0 < is_lens.sum() < len(light) < 60
    assert np.isfinite(light).all()


def test_real_stamps_come_in_eight_views_of_one_galaxy(canvas):
    sky = real_sky(tiny_recipe(canvas=canvas))
    sample = real_sample(sky)
    assert len(sample) == 8 * len(sky)
    np.testing.assert_array_equal(sample.images[: len(sky)], sky.images)
    assert (np.bincount(sample.galaxy) == 8).all()
    np.testing.assert_allclose(
        sample.magnitude(1, 0.263).reshape(8, -1), np.tile(sample.magnitude(1, 0.263)[: len(sky)], (8, 1)), atol=1e-4
    )


def test_features_are_those_before_the_logit():
    model, trivial = tiny_model(), make_trivial(BANDS, SIZE, 0.263)
    images = np.random.default_rng(1).normal(0, 10, (5, 2, SIZE, SIZE)).astype(np.float32)
    features = embed(model, images, batch=2)
    assert features.shape[0] == 5
    assert np.isfinite(features).all()
    logit = model.module.logit(torch.from_numpy(features)).detach().numpy()
    scored = model.score(images)["logit_raw"]
    np.testing.assert_allclose(logit, scored, atol=1e-4)
    np.testing.assert_allclose(embed(model, images[3:4]), features[3:4], atol=1e-5)
    assert embed(trivial, images) is None


REAL = ["--catalog", "x.fits", "--survey", "des", "--stamps", "stamps:x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--realism", "des-griz", "--catalog", "x.fits"], "all of --catalog, --survey and --stamps"),
        (["a", "b", "--realism", "des-griz"], "one MODEL at most"),
        (["des-griz", "--realism", "des-griz", "-n", "500", *REAL], "-n 2000 or more"),
        (["--realism", "des-griz", "--testset", "des-griz:smoke"], "--realism does not look at --testset"),
        (["--realism", "des-griz", "--difficulty", "des-griz"], "--realism does not look at --difficulty"),
        (["des-griz", "--realism", "argonne2017"], "wants 64 of griz"),
        (["--realism", "no-such-recipe"], "no-such-recipe"),
    ],
)
def test_refusals_are_one_line(arguments, message, capsys):
    assert main(["evaluate", *arguments]) != 0
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(said) == 1
    assert message in said[0]


def test_a_model_that_saw_lenses_alone_is_not_shown_real_stamps():
    canvas = {"catalog": "galaxies.fits", "survey": "des", "stamps": "stamps:cuts/{id}.fits"}
    mute = tiny_model()
    mute.card = dataclasses.replace(mute.card, evaluation={"detection": "none: its recipe makes lenses only"})
    with pytest.raises(ConfigError, match="gives no scores; the gate needs a model that detects"):
        measure_realism(RealismSettings(tiny_recipe(canvas=canvas), mute, n=2000))


def test_one_kind_of_mocks_is_refused():
    with pytest.raises(ConfigError, match="of one kind"):
        measure_realism(RealismSettings(tiny_recipe(classes={"elliptical": 1}), n=60))
