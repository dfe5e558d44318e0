"""The difficulty calibrator: fixed sets, curves, where validation leaves training, verdicts only where they hold."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

import lensscan
from lensscan.cli.main import main
from lensscan.errors import ConfigError
from lensscan.evaluate import difficulty
from lensscan.evaluate.difficulty import (
    NEW_SEED,
    SEED,
    DifficultySettings,
    measure_difficulty,
    parting,
    published,
)
from lensscan.evaluate.difficultyreport import lines, write_difficulty
from lensscan.evaluate.samples import BEYOND, draw_labelled
from lensscan.metrics.bootstrap import Bootstrap, resample
from lensscan.mocks.recipes import CLASSES, load_recipe
from lensscan.mocks.simulate import draw_truth
from lensscan.nets.baseline import BASELINES
from lensscan.render import gates
from lensscan.train import calibrator
from lensscan.train.published import ARGONNE2017, Epoch, fit_published


@dataclass
class Pretender:
    """A network that calls bright stamps lenses and says of itself what it likes."""

    history: list[Epoch]
    held_back: np.ndarray = field(default_factory=lambda: np.arange(20))

    def score(self, images):
        flux = images.sum(axis=(1, 2, 3))
        return (flux - np.median(flux)).astype(np.float32)


def pretend(epochs: int, best: int, stood: int = 0):
    """Train nothing: training accuracy grows for ever, validation up to epoch `best`; some epochs stood before."""

    def train(images, labels, groups, seed, report, restored):
        history = []
        restored(stood)
        for epoch in range(1, epochs + 1):
            history.append(Epoch(epoch, 0.5, 0.5 + epoch / 200, 0.5 + min(epoch, best) / 200))
            if report(history[-1]):
                break
        return Pretender(history)

    return train


@pytest.fixture(scope="module")
def settings():
    return DifficultySettings(load_recipe("argonne2017"), n=60, hog=80, new=60, epochs=60, replicates=50)


@pytest.fixture(scope="module")
def found(settings):
    return measure_difficulty(dataclasses.replace(settings, seeds=2), pretend(60, 20))


def test_every_stamp_is_a_lens_or_clearly_none(settings):
    images, labels, galaxies = draw_labelled(settings.recipe, 100, SEED)
    assert images.shape == (100, 1, 45, 45)
    truth = draw_truth(settings.recipe, seed=SEED, n=200)
    good = truth["klass"] != CLASSES.index("undetectable")
    np.testing.assert_array_equal(labels, truth["is_lens"][good][:100])
    assert 0.3 < labels.mean() < 0.7
    assert len(set(galaxies)) == 100
    assert galaxies.min() >= BEYOND, "no number of a real stamp"
    other, *_ = draw_labelled(settings.recipe, 10, NEW_SEED)
    assert not np.array_equal(other, images[:10])


def test_stamps_of_one_galaxy_stay_together(settings, monkeypatch):
    """In the folds of the histograms, in what the network is validated on, in resamples; new ones are held out."""
    drawn, fitted, trained, resampled = [], [], [], []

    def in_pairs(recipe, *rest):
        images, labels, galaxies = draw_labelled(recipe, *rest)
        drawn.append(recipe.canvas.part)
        return images, labels, (galaxies - BEYOND) // 2

    def fit(images, labels, groups):
        fitted.append(groups)
        return BASELINES["hog"].fit(images, labels, groups)

    def train(images, labels, groups, *rest):
        trained.append(groups)
        return pretend(1, 1)(images, labels, groups, *rest)

    monkeypatch.setattr(difficulty, "draw_labelled", in_pairs)
    monkeypatch.setattr(difficulty, "BASELINES", {"hog": SimpleNamespace(fit=fit)})
    monkeypatch.setattr(difficulty, "Bootstrap", lambda groups, n: resampled.append(groups) or Bootstrap(groups, n))
    recipe = dataclasses.replace(settings.recipe, canvas=dataclasses.replace(settings.recipe.canvas, part="train"))
    measure_difficulty(dataclasses.replace(settings, recipe=recipe), train)
    assert drawn == ["train", "test"]
    assert (len(fitted[0]), len(trained[0]), len(resampled[0])) == (80, 60, 60)
    assert all(2 * len(set(groups)) < 1.5 * len(groups) for groups in (fitted[0], trained[0], resampled[0]))


def test_the_network_is_validated_on_galaxies_of_its_own(settings, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(calibrator, "fit_published", lambda *given, **options: seen.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        calibrator.CalibratorTraining(settings.recipe, 1, "cpu", tmp_path)(None, None, "galaxies", 1, None, None)
    assert seen["groups"] == "galaxies"


def test_where_validation_leaves_training():
    epochs = np.arange(1, 101)
    train = 0.5 + epochs / 400
    assert parting(train, train - 0.001, 1000) is None
    assert parting(train[:3], train[:3], 1000) is None
    late = np.minimum(train, 0.5 + 50 / 400)
    assert 55 <= parting(train, late, 10_000) <= 65
    assert parting(train, late, 100) > parting(train, late, 10_000), "few stamps cannot tell so early"
    back = np.where(epochs > 90, train, late)
    assert parting(train, back, 10_000) is None


def test_curves_and_seeds(found):
    assert [run.seed for run in found.runs] == [1, 2]
    assert all(len(run.train) == len(run.validation) == 60 for run in found.runs)
    assert found.runs[0].new == pytest.approx(found.runs[1].new)
    low, high = found.runs[0].interval
    assert low < found.runs[0].new < high
    assert 0.3 < found.hog.low < found.hog.value < found.hog.high < 0.9
    assert found.ms_single > 0


def test_published_figures_stand_beside_and_nothing_is_said_of_a_short_training(found):
    assert found.band == pytest.approx((0.75, 0.82))
    assert found.published_hog == 0.809
    text = "\n".join(lines(found))
    assert "published 0.75 to 0.82; no verdict" in text
    assert "published 0.809, other mocks" in text
    assert f"cross-validated                   {found.hog_cross_validated:.3f}, on its own stamps, no interval" in text
    assert "2 trainings" in text
    whole = dataclasses.replace(found.runs[0], train=np.ones(200), new=0.6, interval=(0.58, 0.62))
    full = dataclasses.replace(found, settings=dataclasses.replace(found.settings, n=16_000), runs=[whole])
    assert "below: too hard" in "\n".join(lines(full))
    doubtful = dataclasses.replace(whole, new=0.76, interval=(0.74, 0.78))
    assert "inside, uncertain" in "\n".join(lines(dataclasses.replace(full, runs=[doubtful])))
    foreign = dataclasses.replace(found, band=None, published_hog=None)
    assert "\n".join(lines(foreign)).count("no published figure") == 3


def test_published_areas_of_histograms_are_found_as_figure_and_as_calibrator():
    assert published("argonne2017-single")[1] == 0.625
    band, area, papers = published("lens-challenge-ground")
    assert (band, area) == (None, 0.84)
    assert list(papers) == ["hog"]
    assert published("des-griz") == (None, None, {})


def test_the_time_of_the_histograms_is_that_of_features_and_fit(settings, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(difficulty.time, "monotonic", lambda: clock[0])

    def slow(*arguments):
        clock[0] += 1000.0
        return resample(*arguments)

    monkeypatch.setattr(difficulty, "resample", slow)
    assert measure_difficulty(dataclasses.replace(settings, seeds=0), pretend(1, 1)).hog_seconds == 0.0


def test_only_images_trained_now_count_as_new(settings):
    """Two trainings of 60 epochs, of each of which 40 stood and the last 15 are not needed."""
    told = []

    def progress(what, done, total, new=None):
        if what.startswith("images"):
            told.append((done // settings.n, total // settings.n, new // settings.n))

    patient = dataclasses.replace(settings, patience=7, seeds=2)
    found = measure_difficulty(patient, pretend(60, 38, stood=40), progress)
    assert told[0] == (0, 120, 0)
    assert told[40] == (40, 120, 0)
    assert told[45] == (45, 120, 5)
    assert told[46] == (60, 120, 5), "the second training begins: the rest of the first was not needed"
    assert told[-1] == (105, 120, 10)
    assert "45 epochs, 5 of them now in" in lines(found)[1]


def test_a_training_stops_early_only_if_told(settings):
    patient = dataclasses.replace(settings, patience=7)
    assert len(measure_difficulty(patient, pretend(60, 20)).runs[0].train) == 27
    assert len(measure_difficulty(settings, pretend(60, 20)).runs[0].train) == 60


def test_files(found, tmp_path):
    data, picture = write_difficulty(found, tmp_path)
    stored = json.loads(data.read_text())
    assert stored["network"][0]["validation"] == pytest.approx(found.runs[0].validation.tolist())
    assert stored["published_accuracy"] == pytest.approx([0.75, 0.82])
    assert (stored["seed"], stored["seed_new"]) == (SEED, NEW_SEED)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_epochs_are_whole_numbers(monkeypatch):
    monkeypatch.setattr(gates, "png_bytes", lambda figure: figure)
    short = np.array([0.6, 0.7, 0.8])
    figure = gates.learning_diagram([gates.Curves("seed 1", short, short, None, 0.7)], None)
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) > 1
    assert (ticks == np.round(ticks)).all()


def test_the_published_training_ends_where_its_report_says():
    rng = np.random.default_rng(1)
    images, labels = rng.normal(size=(40, 1, 20, 20)), np.arange(40) % 2 == 0
    short = dataclasses.replace(ARGONNE2017, epochs=5)
    assert len(fit_published(images, labels, short).history) == 5
    assert len(fit_published(images, labels, short, report=lambda line: line.epoch == 2).history) == 2


def test_command(tmp_path, capsys):
    sizes = ["-n", "60", "--hog", "80", "--new", "60", "--epochs", "1", "--bootstrap", "20"]
    assert main(["evaluate", "--difficulty", "argonne2017-single", *sizes, "-o", str(tmp_path), "--no-plots"]) == 0
    said = capsys.readouterr().out
    assert "published 0.625" in said
    assert (tmp_path / "difficulty--argonne2017-single.json").is_file()
    assert not list(tmp_path.glob("*.png"))
    assert not list(tmp_path.glob("*.run")), "what was kept of the training is not needed any more"
    found = json.loads((tmp_path / "difficulty--argonne2017-single.json").read_text())
    model = lensscan.load_model(tmp_path / "difficulty--argonne2017-single-seed-1.safetensors")
    assert model.card.name == "argonne"
    images, labels, _ = draw_labelled(load_recipe("argonne2017-single"), 60, NEW_SEED)
    right = (np.asarray(model.score(images)["logit"]) > 0) == labels
    measured = found["network"][0]["new"]["value"]
    assert right.mean() == pytest.approx(measured, abs=1e-4), "the model is the network measured"


def test_refusals_are_one_line(capsys):
    assert main(["evaluate", "des-griz", "--difficulty", "argonne2017"]) != 0
    assert "--difficulty does not look at des-griz; leave it out" in capsys.readouterr().err
    one_kind = ["evaluate", "--difficulty", "argonne2017", "--set", "classes.lens=0", "-n", "60", "--hog", "60"]
    assert main([*one_kind, "--new", "60"]) != 0
    assert "of one kind" in capsys.readouterr().err


def test_hidden_lenses_alone_are_refused(settings):
    hidden = dataclasses.replace(settings.recipe, classes={"undetectable": 1.0})
    with pytest.raises(ConfigError, match="below its label rule"):
        draw_labelled(hidden, 50, 1)
