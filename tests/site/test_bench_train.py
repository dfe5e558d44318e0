"""The training benchmark: cases, ratios, shares and goals from known times; one rank on toy mocks."""

import dataclasses
import json
import math

import pytest
import torch
import toy_mocks
from launch import MANY_RANKS, mpiexec

from lensscan.config import find, read_toml
from lensscan.errors import LensscanError
from lensscan.nets.model import make_trivial
from lensscan.site.bench import training
from lensscan.site.bench.report import Rate
from lensscan.site.bench.trainrank import PERIOD, Case, Timed, TimedEngine, TimedMocks, shorten, time_steps
from lensscan.train.distributed import Serial
from lensscan.train.settings import TrainSettings


def settings(name="des-griz", **changes):
    path = find("training", name)
    return dataclasses.replace(TrainSettings.from_mapping(read_toml(path), str(path)), **changes)


@pytest.mark.parametrize(("name", "device"), [("des-griz", "cpu"), ("des-griz-large", "cuda"), ("argonne2017", "cpu")])
def test_a_short_run_sees_whole_chunks(name, device):
    whole = settings(name)
    short, period = shorten(whole, device)
    drawn = period * short.batch / (short.stream.reuse * short.stream.chunk)
    assert drawn == pytest.approx(1, abs=0.01)
    assert not short.stream.epochs
    assert (period == PERIOD) == (device == "cpu")
    assert (short.stream.chunk == whole.stream.chunk) == (device == "cuda")
    assert short.batch == whole.batch


def test_a_stream_of_new_mocks_stays_one():
    fresh = settings(stream=dataclasses.replace(settings().stream, window=1, reuse=1.0))
    assert shorten(fresh, "cpu") == (fresh, PERIOD)


class Pair(Serial):
    """An engine of two ranks that are always alike."""

    name, size = "pair", 2


def test_the_engine_passes_everything_on_and_adds_up_its_averages(monkeypatch):
    engine = TimedEngine(Pair(), torch.device("cpu"))
    clock, spent = iter([1.0, 3.0, 10.0, 10.5]), iter([0.0, 0.5, 1.0, 1.25])
    monkeypatch.setattr("lensscan.site.bench.trainrank.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("lensscan.site.bench.trainrank.time.process_time", lambda: next(spent))
    engine.average(torch.ones(3))
    engine.average(torch.ones(3))
    assert (engine.seconds, engine.processor) == (pytest.approx(2.5), pytest.approx(0.75))
    assert (engine.name, engine.rank, engine.size, engine.any(75)) == ("pair", 0, 2, 75)


def toy(recipe, seed, start, n, device):
    return toy_mocks.toy_source(start, n)


@pytest.mark.parametrize("stored", [False, True])
def test_stored_mocks_are_made_once(stored):
    mocks, device = TimedMocks(toy, stored), torch.device("cpu")
    first, second = (mocks(None, 1, start, 4, device) for start in (0, 4))
    assert first is not second
    assert torch.equal(first.images, second.images) == stored
    first.images = first.images + 1
    assert torch.equal(mocks(None, 1, 4, 4, device).images, second.images)


def test_one_rank_measures_its_steps(monkeypatch):
    tiny = {
        "name": "toy",
        "recipe": "des-griz",
        "steps": 9,
        "batch": 4,
        "network": {"widths": [4, 4], "depths": [1, 1]},
    }
    tiny |= {"stream": {"chunk": 8, "window": 2, "reuse": 2.0}}
    asked = []

    def mocks(recipe, seed, start, n, device):
        asked.append((start, n))
        sample = toy_mocks.toy_source(start, n)
        sample.images = sample.images.repeat(1, 2, 4, 4)  # two bands of 16 pixels as four of 64
        sample.present, sample.fwhm = sample.present.repeat(1, 2), sample.fwhm.repeat(1, 2)
        return sample

    found = time_steps(Case("toy", periods=2), TrainSettings.from_mapping(tiny, "toy"), mocks)
    assert found.stamps == 2 * PERIOD * 4
    assert found.seconds > 0
    assert found.reducing == 0
    assert found.working > 0
    chunk = 4 * PERIOD // 2
    assert asked[:3] == [(0, chunk), (chunk, chunk), (2 * chunk, chunk)]


def test_rounds_are_summarised_by_the_slowest_rank_and_medians():
    rounds = [[Timed(100, 1.0, 0.1, 0.1, 0.5), Timed(100, 2.0, 0.8, 0.4, 2.0)], [Timed(100, 1.0, 0.5, 0.5, 1.0)] * 2]
    rounds.append([Timed(100, 4.0, 0.4, 0.4, 4.0)] * 2)
    found = training.Measured.of(rounds)
    assert found.rates == Rate((50.0, 100.0, 25.0))
    assert found.working == Rate((50.0, 100.0, 25.0))
    assert found.reducing == pytest.approx(0.25)  # of .25, .5 and .1
    assert found.simulating == pytest.approx(0.2)  # of .2, .5 and .1


SECONDS = {("none", False): 10.0, ("none", True): 8.0, ("horovod", 1): 10.2, ("horovod", 2): 5.0, ("torch", 2): 6.0}
SECONDS |= {("none", 2): 5.5}


class Runner:
    """Says how long each case took; every later round is slower, for all cases alike."""

    def __init__(self):
        self.asked = []

    def __call__(self, case, ranks):
        self.asked.append((case, ranks))
        key = (case.backend, ranks) if ranks else (case.backend, case.stored)
        seconds = SECONDS[key] * (1 + (len(self.asked) - 1) // 7)
        if case.settings().precision == "bf16":
            seconds /= 1.6
        work = 0.9 * seconds if ranks else seconds
        stamps = 500 if ranks == 2 and case.backend == "none" else 1000
        return [Timed(stamps, seconds, 0.3 * (ranks == 2) * seconds, 0.15 * work, work) for _ in range(max(1, ranks))]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Return a function that makes the report's figures, by name, where everything is installed."""
    make_trivial(("g",), 8, 0.3).save(tmp_path / "tiny.safetensors")
    monkeypatch.setattr(training, "find_spec", lambda name: object())
    monkeypatch.setattr(training, "find_mpiexec", lambda: "mpiexec")
    monkeypatch.setattr(training.os, "sched_getaffinity", lambda pid: {3, 5})

    def make(**changes):
        runner = Runner()
        report = training.bench_train("des-griz", str(tmp_path / "tiny.safetensors"), 3, runner=runner, **changes)
        return {figure["name"]: figure for figure in report.figures}, runner.asked, report

    return make


def test_ratios_are_taken_round_by_round(bench):
    figures, asked, report = bench(assignments=["precision=fp32"])
    assert [ranks for _, ranks in asked[:7]] == [0, 0, 0, 1, 2, 2, 2]
    assert len(asked) == 21
    assert all(case.cores == (3, 5) for case, _ in asked)
    assert [case.stored for case, _ in asked[:7]] == [False, True, True, False, False, False, False]
    backends = ["none", "none", "none", "horovod", "horovod", "torch", "none"]
    assert [case.backend for case, _ in asked[:7]] == backends
    assert asked[6][0].settings().batch == asked[0][0].settings().batch // 2
    assert figures["two trainings side by side / plain serial"]["value"] == pytest.approx(10 / 5.5)
    assert figures["two ranks, Horovod / two trainings side by side"]["value"] == pytest.approx(1.1)
    figure = figures["two ranks, Horovod / one rank, Horovod"]
    assert (figure["value"], figure["reached"], figure["goal"]) == (pytest.approx(2.04), True, ">= 1.8")
    figure = figures["two ranks, torch.distributed / plain serial"]
    assert (figure["value"], figure["reached"]) == (pytest.approx(10 / 6), False)
    figure = figures["Horovod's overhead at one rank, beside plain serial"]
    assert (figure["value"], figure["reached"], figure["goal"]) == (pytest.approx(2), True, "<= 5")
    assert figures["Horovod's overhead at one rank, by processor time"]["value"] == pytest.approx(-8.2)
    figure = figures["two ranks, torch.distributed / plain serial, by processor time"]
    assert (figure["value"], figure["goal"]) == (pytest.approx(10 / 6 / 0.9), "")
    figure = figures["of a step, what mocks add to it"]
    assert (figure["value"], figure["reached"]) == (pytest.approx(20), None)
    assert "a GPU's" in figure["note"]
    assert figures["of a step, the all-reduce, two ranks, Horovod"]["value"] == pytest.approx(30)
    assert figures["plain serial, batch 128"]["value"] == pytest.approx(50)
    assert figures["of a step's processor time, the thread that makes mocks"]["value"] == pytest.approx(15)
    assert "NOT REACHED" in report.text()


@pytest.mark.parametrize(("own", "below"), [("fp32", "fp32"), ("tf32", "tf32"), ("bf16", "fp32")])
def test_bf16_is_set_against_the_other_precision(bench, own, below):
    figures, asked, _ = bench(assignments=[f"precision={own}"])
    assert asked[2][0].settings().precision == ("fp32" if own == "bf16" else "bf16")
    figure = figures[f"bf16 / {below}, mocks stored"]
    assert (figure["value"], figure["goal"]) == (pytest.approx(1.6), "")
    assert own in figure["note"]


def test_classification_has_milliseconds_alone_and_in_batches(bench):
    figures, _, _ = bench()
    times = {name.split(": ")[1]: figure for name, figure in figures.items() if "classification" in name}
    on = ("1 thread", "2 threads")
    cases = {f"classification, {case}, {threads}" for case in ("batches of 64", "one by one") for threads in on}
    assert set(times) == cases
    assert all(figure["unit"] == "ms/stamp" and 0 < figure["value"] < 1000 for figure in times.values())
    assert all(figure["goal"] == "" for figure in times.values()), "the goal is a GPU's"
    assert sum("load of the machine" in name for name in figures) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("find_mpiexec", lambda: None), "no mpiexec"),
        (("find_spec", lambda name: None), "Horovod is not installed"),
    ],
)
def test_what_cannot_be_measured_is_said(bench, monkeypatch, change, words):
    monkeypatch.setattr(training, *change)
    figures, asked, _ = bench()
    for name in ("two ranks, Horovod / one rank, Horovod", "Horovod's overhead at one rank, beside plain serial"):
        assert math.isnan(figures[name]["value"])
        assert words in figures[name]["note"]
    assert {ranks for _, ranks in asked} == ({0} if "mpiexec" in words else {0, 2})


def test_settings_of_the_training_can_be_changed(bench):
    figures, asked, _ = bench(assignments=["batch=64", "stream.split=true"])
    assert "plain serial, batch 64" in figures
    assert all(case.settings().batch == (32 if turn % 7 == 6 else 64) for turn, (case, _) in enumerate(asked))
    assert all(case.settings().stream.split for case, _ in asked)


def test_two_ranks_need_two_cores(bench, monkeypatch):
    monkeypatch.setattr(training.os, "sched_getaffinity", lambda pid: {1})
    figures, asked, _ = bench()
    for name in ("two ranks, torch.distributed / plain serial", "two trainings side by side / plain serial"):
        assert "1 core only" in figures[name]["note"]
    assert {ranks for _, ranks in asked} == {0, 1}


def test_a_case_that_fails_is_one_line(tmp_path):
    with pytest.raises(LensscanError, match=r"the training under test failed \(none, 0 ranks\)") as caught:
        training.run_case(Case("no-such-training"), 0)
    assert "\n" not in str(caught.value)
    assert "no-such-training" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "ranks"), [("none", 0), ("none", 2), ("torch", 2)])
def test_ranks_are_started_and_heard(tmp_path, monkeypatch, backend, ranks):
    if ranks:
        mpiexec()
    for name, value in MANY_RANKS.items():  # they may share a core: nothing is said of their speed
        monkeypatch.setenv(name, value)
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nrecipe = "des-griz"\nsteps = 9\nbatch = 4\n'
        "[network]\nwidths = [4, 4]\ndepths = [1, 1]\n[stream]\nwindow = 2\n"
    )
    case = Case(str(tmp_path / "tiny.toml"), backend, periods=1, assignments=("batch=6",))
    found = training.run_case(case, ranks)
    assert len(found) == max(1, ranks)
    assert all(rank.stamps == 6 * PERIOD and rank.working > 0 for rank in found)
    assert all((rank.reducing > 0) == (backend == "torch") for rank in found)


def test_the_report_is_kept_as_json(bench, tmp_path):
    _, _, report = bench()
    report.save(tmp_path / "train.json")
    kept = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    assert kept["title"] == "train"
    assert len(kept["figures"]) == len(report.figures)
