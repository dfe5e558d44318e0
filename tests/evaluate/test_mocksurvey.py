"""A mock survey: lists of planted scorers, the same scores after an interruption, refusals, files."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from lensscan.candidates.ensemble import Ensemble
from lensscan.cli.main import main
from lensscan.errors import ConfigError, ExitCode, PlanMismatch
from lensscan.evaluate import mocksurveyreport, toplists
from lensscan.evaluate.members import Group, Lineup, line_up
from lensscan.evaluate.mocksurvey import (
    Block,
    Objects,
    SurveySettings,
    _Work,
    lenses_of,
    rare,
    run_survey,
    stated_prevalence,
    survey_set,
)
from lensscan.evaluate.toplists import SHARES, lengths, measure_lists
from lensscan.metrics.bootstrap import Bootstrap
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.detection import wilson
from lensscan.mocks.recipes import CLASSES, load_recipe, make_recipe
from lensscan.nets.card import LensDensity
from lensscan.nets.heads import FlowHead
from lensscan.nets.model import Model, build_network, make_trivial

BANDS = ("g", "r", "i", "z")
SMALL = ("--set", "size=16")
RECIPE = make_recipe({"base": "des-griz", "name": "tiny", "size": 16}, "here")
EDGE_ON = CLASSES.index("edge_on")


def model(name="trivial", **card):
    made = make_trivial(BANDS, 16, 0.263)
    return Model(dataclasses.replace(made.card, name=name, hash=name, **card), made.module)


def settings(**changes):
    base = {"lineup": Lineup([model()], []), "recipe": RECIPE, "prevalence": 0.1, "n": 300, "lenses": 40}
    return SurveySettings(**base | {"replicates": 30} | changes)


def drawn(n, n_lens, besides, columns):
    """Return objects whose logits `columns` makes of (label, rng), one column each."""
    rng = np.random.default_rng(4)
    lens = np.zeros(n + besides, bool)
    lens[rng.choice(n, n_lens, replace=False)] = lens[n:] = True
    raw = np.stack([make(lens, rng) for make in columns], axis=1).astype(np.float32)
    extra = np.arange(n + besides) >= n
    truth = {
        "is_lens": lens,
        "klass": np.where(lens, 0, EDGE_ON).astype(np.int8),
        "theta_E": np.ones(len(lens), np.float32),
        "snr_arc": np.ones(len(lens), np.float32),
        "stamp": np.full(len(lens), -1, np.int32),
    }
    index = np.concatenate([np.arange(n), np.arange(besides)])
    return Objects(index, extra, raw, truth)


def perfect(lens, rng):
    return lens + 0.1 * rng.random(len(lens))


def blind(lens, rng):
    return rng.random(len(lens))


def known(lens, rng):
    """Return a log likelihood ratio: normals of variance d^2 about +-d^2 / 2."""
    return rng.normal(np.where(lens, 4.5, -4.5), 3.0)


@pytest.fixture(scope="module")
def planted():
    """A perfect, a random and an honest scorer on a made-up survey of 120,000 objects, 1 in 400 a lens."""
    n, n_lens = 120_000, 300
    edges = np.arange(-20.0, 20.5, 0.5)
    density = np.exp(-0.5 * ((edges[1:] - 0.25 - 4.5) / 3) ** 2) / (3 * np.sqrt(2 * np.pi))
    histogram = LensDensity(tuple(edges.tolist()), tuple(density.tolist()))
    honest = model("honest", calibration=Calibration("platt", 1.0, 0.0), f_lens=histogram)
    lineup = Lineup([model("perfect"), model("blind"), honest], [])
    wanted = settings(lineup=lineup, n=n, prevalence=n_lens / n, replicates=40)
    objects = drawn(n, n_lens, 3000, [perfect, blind, known])
    return wanted, measure_lists(wanted, objects), objects


def test_a_perfect_scorer_finds_all_and_a_random_one_its_share(planted):
    wanted, (best, random, _), _ = planted
    for kind in ("count", "expected"):
        for n in lengths(wanted.n):
            assert best.figures[f"{kind}_purity_top_{n}"].value == pytest.approx(min(1, 300 / n))
            assert best.figures[f"{kind}_completeness_top_{n}"].value == pytest.approx(min(1, n / 300))
            assert best.figures[f"{kind}_inspected_per_lens_top_{n}"].value == pytest.approx(max(1, n / 300))
        top = random.figures[f"{kind}_completeness_top_10000"]
        assert top.low <= 1 / 12 <= top.high
    assert best.lenses == {n: min(n, 300) for n in best.lenses}
    assert best.classes[1000] == {"edge_on": 700}
    assert best.classes[100] == {}
    assert best.figures["tpr_at_fpr_0.0001"].value == 1
    assert random.figures["tpr_at_fpr_0.01"].value == pytest.approx(0.01, abs=0.006)
    assert best.completeness[-1].value == 1


def test_a_list_of_lenses_alone_is_not_certainly_pure(planted):
    _, (best, _, _), _ = planted
    pure, inspected = (best.figures[f"count_{name}_top_100"] for name in ("purity", "inspected_per_lens"))
    assert (pure.low, pure.high) == pytest.approx(wilson(100, 100))
    assert inspected.high == pytest.approx(1 / pure.low)
    complete = best.figures["count_completeness_top_1000"]
    assert (complete.low, complete.high) == pytest.approx(wilson(300, 300))
    assert best.figures["tpr_at_fpr_0.0001"].low == pytest.approx(wilson(3300, 3300)[0])


def test_objects_on_one_real_stamp_are_resampled_together(monkeypatch):
    drawn_by = []
    monkeypatch.setattr(toplists, "Bootstrap", lambda cluster, n: drawn_by.append(cluster) or Bootstrap(cluster, n))
    objects = drawn(300, 30, 20, [known])
    objects.truth["stamp"][5:8], objects.truth["stamp"][40], objects.truth["stamp"][310] = 0, 7, 7
    measure_lists(settings(replicates=2), objects)
    (cluster,) = drawn_by
    assert cluster[5] == cluster[6] == cluster[7] != cluster[0]
    assert cluster[40] == cluster[310], "a lens besides on a galaxy of the survey"
    assert len(np.unique(cluster)) == 320 - 2 - 1


def test_the_page_shows_every_ranking_and_its_false_positives(planted):
    wanted, found, objects = planted
    page = mocksurveyreport.make_page(wanted, objects, found, {})
    for cells in (["perfect", "1,000", "300", "700"], ["perfect", "10,000", "300", "9,700"]):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    assert "<th>edge on</th>" in page
    assert page.count("not comparable: real sky") == 2 * 3
    told = "\n".join(mocksurveyreport.lines(wanted, objects, found))
    assert "top 1,000: purity 0.3 [" in told
    assert "purity of the two lists 0.0188 (not comparable" in told
    assert "purity_two_lists" not in told


def test_views_that_the_card_was_not_calibrated_with_are_told(planted):
    wanted, found, objects = planted
    assert mocksurveyreport.report(wanted, objects, found)["notes"] == []
    other = dataclasses.replace(wanted, views=8)
    names = [each.card.name for each in wanted.lineup.singles]
    words = [f"{name}: scored with 8 views, the logit was calibrated with 1" for name in names]
    notes = mocksurveyreport.report(other, objects, found)["notes"]
    assert [note.partition(":")[0] for note in notes] == names
    for each in words:
        assert each in mocksurveyreport.make_page(other, objects, found, {})
        assert each in "\n".join(mocksurveyreport.lines(other, objects, found))


def test_many_lenses_make_the_expectation_surer_than_the_count(planted):
    _, (_, _, honest), _ = planted
    counted, expected = (honest.figures[f"{kind}_completeness_top_1000"] for kind in ("count", "expected"))
    assert expected.high - expected.low < 0.6 * (counted.high - counted.low)
    assert counted.low - 0.02 < expected.value < counted.high + 0.02


def test_stated_lenses_of_an_honest_scorer_are_the_true_ones(planted):
    _, (best, _, honest), _ = planted
    for n in (100, 1000, 10_000):
        for what in ("p_lens", "p_survey"):
            ratio = honest.figures[f"expected_{what}_over_true_top_{n}"]
            assert 0.8 < ratio.value < 1.25
            assert ratio.low <= ratio.value <= ratio.high
    assert not [name for name in best.figures if "over_true" in name], "its scores are not calibrated"


def test_an_ensemble_brings_the_rule_that_its_members_agree():
    singles = [model("a"), model("b")]
    ensemble = Ensemble(Calibration("platt", 2.0, 0.0), name="both")
    lineup = Lineup(singles, [Group(ensemble, model("both"), (0, 1)), Group(ensemble, model("both"), (1, 1))])
    objects = drawn(2000, 20, 50, [perfect, blind])
    found = measure_lists(settings(lineup=lineup, n=2000, prevalence=0.01, replicates=3), objects)
    assert [each.entrant.name for each in found] == [
        *("a", "b", "both", "both_2"),
        *("both, all members agree", "both_2, all members agree"),
    ]
    a, b, mean, other, smallest, _ = (each.entrant.score for each in found)
    np.testing.assert_allclose(other, 2 * b, rtol=1e-6)
    np.testing.assert_allclose(mean, a + b, rtol=1e-6)
    np.testing.assert_array_equal(smallest, np.minimum(a, b))


def test_an_ensemble_of_a_file_is_surveyed_with_its_members(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path, weight in zip(paths, (1.0, 3.0), strict=True):
        made = make_trivial(BANDS, 16, 0.263)
        made.module.weight.data.fill_(weight)
        Model(dataclasses.replace(made.card, name=path.stem), made.module).save(path)
    hashes = [Model.load(path).card.hash for path in paths]
    text = f"name = 'both'\nmodels = {[str(path) for path in paths]}\nhashes = {hashes}\nviews = [1, 1]\n"
    (tmp_path / "both.toml").write_text(text + "[calibration]\nkind = 'platt'\na = 1.0\nb = -5.0\n")
    wanted = settings(lineup=line_up([str(tmp_path / "both.toml")], None), n=128, lenses=0, replicates=3)
    objects = run_survey(wanted, tmp_path / "run")
    np.testing.assert_allclose(objects.raw[:, 1], 3 * objects.raw[:, 0], rtol=1e-5)
    assert not objects.extra.any()
    found = {each.entrant.name: each for each in measure_lists(wanted, objects)}
    assert list(found) == ["a", "b", "both", "both, all members agree"]
    np.testing.assert_allclose(found["both"].entrant.score, 2 * objects.raw[:, 0] - 5, rtol=1e-4)
    assert "expected_p_lens_over_true_top_100" in found["both"].figures


def test_a_survey_too_small_for_any_list_is_one_list():
    (found,) = measure_lists(settings(n=80, replicates=3), drawn(80, 8, 10, [perfect]))
    assert found.figures["count_purity_top_80"].value == pytest.approx(0.1)
    assert found.figures["expected_completeness_top_80"].value == pytest.approx(1.0)
    assert found.lenses == {80: 8}
    lone = drawn(80, 1, 10, [perfect])
    (told, *_) = mocksurveyreport.lines(settings(n=80), lone, [])
    assert ": 1 lens, 10 more scored besides" in told
    assert found.figures["count_completeness_top_80"].low == pytest.approx(1.0), "the whole holds all by definition"


def test_lists_have_the_shares_of_the_published_ones():
    assert lengths(1_000_000) == {100: "", 149: "first_list", 1000: "", 2680: "two_lists", 10_000: ""}
    assert set(lengths(2000)) == {5, 100, 1000}
    assert lengths(80) == {80: ""}
    assert len(SHARES) == 2
    anchored = mocksurveyreport.load_anchors()
    values = {name: value for anchor in anchored for name, value in anchor.values.items() if name[:6] == "survey"}
    assert values == {
        "survey:purity_first_list": pytest.approx(0.13, abs=0.002),
        "survey:purity_two_lists": pytest.approx(0.019, abs=0.0003),
    }


def test_a_rare_recipe_keeps_the_shares_of_its_non_lenses():
    recipe = rare(RECIPE, 1e-3)
    assert recipe.classes["lens"] == pytest.approx(1e-3)
    assert sum(recipe.classes.values()) == pytest.approx(1)
    ratio = RECIPE.classes["ring"] / RECIPE.classes["star"]
    assert recipe.classes["ring"] / recipe.classes["star"] == pytest.approx(ratio)
    assert RECIPE.lens.flat_fraction > 0
    assert recipe.lens.flat_fraction == lenses_of(RECIPE).lens.flat_fraction == 0, "nature's lenses"
    with pytest.raises(ConfigError, match="of one kind"):
        rare(load_recipe("hezaveh2017"), 1e-3)


def test_the_prevalence_is_that_of_the_cut_or_must_be_given():
    cut = make_recipe({"base": "des-griz", "name": "cut", "canvas": {"cut": "des-jacobs2019b"}}, "here")
    assert stated_prevalence(cut, None) == 6.5e-5
    assert stated_prevalence(cut, 0.01) == 0.01
    with pytest.raises(ConfigError, match="give --prevalence"):
        stated_prevalence(RECIPE, None)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        stated_prevalence(RECIPE, 1.0)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npz")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A survey without interruption: its folder and its objects."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_survey(settings(), folder)


def test_an_interrupted_survey_goes_on_to_the_same_bytes(whole, tmp_path):
    begun, objects = whole
    asked = iter([None] * 4 + [ExitCode.INTERRUPTED] * 9)
    assert run_survey(settings(), tmp_path, stop=lambda: next(asked)) == ExitCode.INTERRUPTED
    assert 0 < len(bytes_of(tmp_path)) < len(bytes_of(begun))
    seen = []
    again = run_survey(settings(), tmp_path, progress=lambda done, total, new: seen.append((done, total, new)))
    assert bytes_of(tmp_path) == bytes_of(begun)
    np.testing.assert_array_equal(again.raw, objects.raw)
    assert seen[0][0] > seen[0][2], "what stood already counts as done, not as new"
    assert seen[-1][:2] == (340, 340)


def test_no_flow_is_sampled_for_a_ranking(tmp_path, monkeypatch):
    """Sampling takes several times as long as the network, and a million times nobody looks at it."""
    pytest.importorskip("zuko", reason="the extra flow is not installed")
    shape = {"kind": "resnet", "widths": [4, 4], "depths": [0, 0], "squeeze": 2, "hidden": 4, "head": "flow"}
    card = dataclasses.replace(model("flow").card, architecture=shape)
    network = Model(card, build_network(shape, len(BANDS), 16).eval())
    sampled = []
    monkeypatch.setattr(FlowHead, "sample", lambda *whatever: sampled.append(1))
    found = run_survey(settings(lineup=Lineup([network], []), n=130, lenses=8), tmp_path)
    assert np.isfinite(found.raw).all()
    assert not sampled


def test_a_failed_or_damaged_block_is_made_again(whole, tmp_path, monkeypatch):
    begun, _ = whole
    monkeypatch.setattr("lensscan.faults._faults", None)
    monkeypatch.setenv("LENSSCAN_FAULT", "point=survey:before_rename,do=raise,hit=2")
    monkeypatch.setattr("lensscan.faults._hits", __import__("collections").Counter())
    with pytest.raises(RuntimeError, match="injected"):
        run_survey(settings(), tmp_path)
    monkeypatch.setattr("lensscan.faults._faults", [])
    (first,) = bytes_of(tmp_path)
    (tmp_path / first).write_bytes((tmp_path / first).read_bytes()[:-200])
    run_survey(settings(), tmp_path)
    assert bytes_of(tmp_path) == bytes_of(begun)


def test_the_survey_is_what_was_asked_for(whole):
    _, objects = whole
    lens = objects.truth["is_lens"]
    assert 10 <= (lens & ~objects.extra).sum() <= 60
    assert 35 <= objects.extra.sum() <= 40
    assert lens[objects.extra].all()
    row = int(np.flatnonzero(~objects.extra & lens)[0])
    stamp = survey_set(settings()).stamps(objects.index[[row]], model().frame())
    assert stamp.images[0, 0, 8, 8] == pytest.approx(float(objects.raw[row, 0]), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"n": 301}, "another n;"),
        ({"prevalence": 0.2}, "another prevalence;"),
        ({"lineup": Lineup([model("other")], [])}, "another models;"),
        ({"recipe": make_recipe({"base": "des-griz", "name": "tiny", "size": 17}, "here")}, "another recipe"),
    ],
)
def test_another_survey_in_the_folder_is_refused(whole, change, what):
    with pytest.raises(PlanMismatch, match=re.escape(what)) as refused:
        run_survey(settings(**change), whole[0])
    assert "\n" not in str(refused.value)


def test_what_failed_or_is_neither_is_left_out_and_counted_in_the_survey_alone():
    vague = CLASSES.index("undetectable")
    stored = {
        "survey": ([1.0, np.nan, 2.0, 3.0], [True, False, False, False], [0, EDGE_ON, vague, EDGE_ON]),
        "lenses": ([1.5, np.nan, 2.0, 2.5], [True, True, False, False], [0, 0, vague, EDGE_ON]),
    }
    work = object.__new__(_Work)
    work.blocks = [Block(kind, 0, 4) for kind in stored]
    work.load = lambda block: (
        dict.fromkeys(("theta_E", "snr_arc", "stamp"), np.zeros(4))
        | {
            "raw": np.array(stored[block.kind][0])[:, None],
            "is_lens": np.array(stored[block.kind][1]),
            "klass": np.array(stored[block.kind][2]),
        }
    )
    found = work.read()
    assert found.raw[:, 0].tolist() == [1.0, 3.0, 1.5]
    assert found.index.tolist() == [0, 3, 0]
    assert found.extra.tolist() == [False, False, True]
    assert (found.failed, found.vague) == (1, 1)


def test_models_that_do_not_fit_are_refused(tmp_path):
    other = make_trivial(("g", "y"), 16, 0.263)
    with pytest.raises(ConfigError, match="wants y"):
        run_survey(settings(lineup=Lineup([other], [])), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_page_and_figures(tmp_path, capsys):
    make_trivial(BANDS, 16, 0.263).save(tmp_path / "trivial.safetensors")
    line = ["evaluate", str(tmp_path / "trivial.safetensors"), "--mock-survey", "des-griz", *SMALL, "-n", "200"]
    line += ["--lenses", "40", "--prevalence", "0.1", "--bootstrap", "5", "-o", str(tmp_path / "out")]
    assert main([*line, "--debug"]) == 0
    told = capsys.readouterr().out
    assert "top 100: purity" in told
    report = json.loads((tmp_path / "out/mock-survey--des-griz.json").read_text())
    assert report["n_lens"] + report["n_other"] + report["n_undetectable"] + report["n_failed"] == 200
    figures = report["rankings"]["trivial"]["figures"]
    assert figures["count_purity_top_100"]["value"] == report["rankings"]["trivial"]["lenses"]["100"] / 100
    page = (tmp_path / "out/mock-survey--des-griz.html").read_text()
    assert page.count("data:image/png") == 2
    assert "False positives by class" in page
    assert main([*line, "--batch", "32"]) == 1
    assert "another batch" in capsys.readouterr().err
    assert main([*line, "--max-seconds", "0", "-o", str(tmp_path / "other")]) == 75
    assert "run the same command again" in capsys.readouterr().err
    assert main(["evaluate", "--mock-survey", "des-griz"]) == 2
    assert main([*line, "--epochs", "3"]) == 2
    assert "--mock-survey does not look at --epochs" in capsys.readouterr().err
