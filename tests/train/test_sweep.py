"""A sweep in this process: its table, its folder, stops and resumes, failures, refusals."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_sweep import SWEEP, journal, kept_mocks, table

from lensscan.config import read_toml
from lensscan.errors import ConfigError, ExitCode, ModelError, OutputError, PlanMismatch
from lensscan.mpi import World
from lensscan.train.settings import TrainSettings
from lensscan.train.sweep import progress as progress_module
from lensscan.train.sweep.journal import Claim, Journal
from lensscan.train.sweep.owner import Owner
from lensscan.train.sweep.run import SweepRun
from lensscan.train.sweep.schedule import Leg
from lensscan.train.sweep.settings import Sweep
from lensscan.train.sweep.table import Row, text

optuna = pytest.importorskip("optuna")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def mocks_once():
    """Simulate the mocks, the same for all trials, once for all tests."""
    with kept_mocks():
        yield


def small(**changes) -> Sweep:
    return Sweep.from_mapping({**tomllib.loads(SWEEP), **changes}, "small.toml")


def run(folder: Path, sweep: Sweep | None = None, stop=lambda: None) -> tuple[ExitCode, list[Row], list[str]]:
    lines: list[str] = []
    code, rows = SweepRun(sweep or small(), folder, CPU, World(), stop, lines.append).run()
    return code, rows, lines


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mocks_once):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, *run(folder)


def test_the_table_holds_the_numbers_of_the_journal(undisturbed):
    folder, code, rows, _ = undisturbed
    assert code == ExitCode.OK
    assert [row.outcome for row in rows] == ["finished"] + ["stopped"] * 8
    assert sorted(row.trial for row in rows) == list(range(9))
    assert [row.step for row in rows] == [9, 3, 3] + [1] * 6
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal.log")))
    values = [
        {entry.user_attrs["trial"]: entry for entry in optuna.load_study(study_name=name, storage=storage).trials}
        for name in ("bce at rung 1", "bce at rung 2", "bce at rung 3")
    ]
    assert [len(rung) for rung in values] == [9, 3, 1]
    for row, line in zip(rows, table(folder), strict=True):
        entry = values[row.rung - 1][row.trial]
        assert row.value == entry.value == float(line["bce"])
        assert line["outcome"] == row.outcome
        assert float(line["optimiser.lr"]) == entry.params["optimiser.lr"]
        assert int(line["batch"]) == entry.params["batch"]
    first = sorted(values[0].values(), key=lambda entry: entry.value)
    assert {entry.user_attrs["trial"] for entry in first[:3]} == set(values[1]), "the best three go on"


def test_stopped_trials_stop_early(undisturbed):
    folder, _, rows, _ = undisturbed
    for row in rows:
        place = folder / "trials" / f"{row.trial:04d}"
        state = torch.load(place / "checkpoint.pt", weights_only=True)
        assert state["step"] == row.step
        curves = [json.loads(line) for line in (place / "curves.jsonl").read_text(encoding="utf-8").splitlines()]
        assert max(record["step"] for record in curves) == row.step
        assert [record["bce"] for record in curves if record["step"] == row.step] == [row.value]


@pytest.mark.slow
def test_pausing_at_rungs_changes_nothing(undisturbed, tmp_path):
    rows = undisturbed[2]
    sweep = small(search="random")
    whole = {row.trial: row for row in run(tmp_path, sweep)[1]}
    assert all(row.outcome == "finished" for row in whole.values())
    assert whole[rows[0].trial].value == rows[0].value


def test_picture_and_best_training(undisturbed):
    folder, _, rows, _ = undisturbed
    with pytest.importorskip("PIL.Image").open(folder / "parallel.png") as image:
        assert image.size[0] > 600
    best = TrainSettings.from_mapping(read_toml(folder / "best.toml"), "best.toml")
    assert best.digest == small().training_of(rows[0].values, "x").digest
    assert best.optimiser.lr == rows[0].values["optimiser.lr"]
    assert best.steps == 9
    assert f"trial {rows[0].trial}," in (folder / "best.toml").read_text(encoding="utf-8")


def test_progress_names_trials_best_and_time(undisturbed):
    _, _, rows, lines = undisturbed
    assert sum(line.startswith(f"trial {rows[0].trial}: bce ") for line in lines) == 3
    assert lines[-1].startswith("trials rung 1: 9/9  rung 2: 3/3  rung 3: 1/1  best bce ")
    assert f"(trial {rows[0].trial}, rung 3)  ETA 0:00:00" in lines[-1]


def test_steps_restored_from_a_checkpoint_are_not_counted_as_done_now(monkeypatch):
    """The first of nine trials of 100 steps goes on from step 90, and does five in 50 s: 805 of 10 s each are left."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    sweep = small(search="random")
    settings = replace(sweep.training_of({"batch": 4}, "a trial"), steps=100)
    rungs, lines = [{0: Leg(0, 0, "running")}], []
    progress = progress_module.Progress(sweep, [{}], lines.append)
    progress.begin(settings, 0)
    for step in range(91, 96):
        now[0] += 10.0
        progress.look(lambda: rungs, step)
    assert lines[-1].endswith("ETA 2:14:10")


def test_the_printed_table_has_ten_lines_at_most(undisturbed):
    rows = undisturbed[2]
    printed = text(small(), rows * 2).splitlines()
    assert len(printed) == 11
    assert printed[0].split() == ["trial", "outcome", "step", "bce", "lr", "warmup", "kind", "batch"]
    assert len({len(line) for line in printed}) == 1


def test_the_same_command_again_has_nothing_to_do(undisturbed):
    folder, _, rows, _ = undisturbed
    before = (folder / "journal.log").read_bytes()
    code, again, lines = run(folder)
    assert (code, again) == (ExitCode.OK, rows)
    assert (folder / "journal.log").read_bytes() == before
    assert not [line for line in lines if line.startswith("trial ")]


@pytest.mark.slow
def test_a_sweep_stopped_again_and_again_gives_the_same_table(undisturbed, tmp_path):
    stops = 0
    while True:
        steps = iter(range(5))
        code, _, _ = run(tmp_path, stop=lambda steps=steps: None if next(steps, None) is not None else ExitCode(75))
        if code == ExitCode.OK:
            break
        stops += 1
        assert code == ExitCode.INCOMPLETE
        assert (tmp_path / "trials.csv").exists()
        assert stops < 60
    assert stops > 5
    assert table(tmp_path) == table(undisturbed[0])
    left = [entry for entry in journal(tmp_path) if entry["op_code"] == 6 and entry["state"] == 3]
    assert 0 < len(left) <= stops, "what is left in the midst is marked failed, and repeated"


def test_a_failing_trial_costs_itself_alone(tmp_path):
    sweep = small(
        search="random",
        trials=6,
        parameters={"optimiser": {"lr": {"choices": [1e-3, 1e30]}}, "batch": {"choices": [4, 8]}},
    )
    code, rows, lines = run(tmp_path, sweep)
    assert code == ExitCode.OK
    bad = [row for row in rows if row.outcome == "failed"]
    assert {row.values["optimiser.lr"] for row in bad} == {1e30}
    assert {row.values["optimiser.lr"] for row in rows[: -len(bad)]} == {1e-3}
    assert all(re.search("finite|NaN", row.reason) for row in bad)
    assert all(re.search("finite|NaN", line["reason"]) for line in table(tmp_path)[-len(bad) :])
    assert any(line.startswith(f"trial {bad[0].trial} failed: ") for line in lines)


def test_if_all_fail_one_line_says_why(tmp_path):
    sweep = small(trials=2, parameters={"optimiser": {"lr": {"low": 1e30, "high": 1e31}}})
    with pytest.raises(ModelError, match=r"all 2 trials failed, the first with: .*(finite|NaN)") as caught:
        run(tmp_path, sweep)
    assert "\n" not in str(caught.value)
    assert len(table(tmp_path)) == 2


def test_a_metric_that_the_validations_lack_is_refused_before_any_trial(tmp_path):
    with pytest.raises(ConfigError, match=r"metric = 'nll', which .* lack.*set it to auroc or bce or tpr_2 or tpr_3"):
        run(tmp_path, small(trials=1, metric="nll"))
    assert not list(tmp_path.rglob("trials"))


def test_the_stages_of_a_modular_network_are_trained_before_the_common_one(tmp_path):
    """Two trials that differ by the denoiser's steps alone: left out, both would begin, and end, alike."""
    (tmp_path / "tiny.toml").write_text('base = "slpipe2019"\nname = "tiny"\nsize = 24\n')
    network = {"kind": "modular", "widths": [4, 8], "depths": [0, 0], "hidden": 8, "squeeze": 4, "latent": 2}
    network |= {"denoise_width": 4, "denoise_depth": 1, "deblend_widths": [], "samples": 4}
    training = {"recipe": str(tmp_path / "tiny.toml"), "steps": 2, "batch": 4, "validation": 16, "network": network}
    training |= {"stream": {"chunk": 16, "window": 1, "reuse": 1.0}, "optimiser": {"warmup": 0}}
    varied = {"modules": {"denoise": {"choices": [1, 3]}}}
    sweep = small(search="random", trials=4, training=training, parameters=varied)
    _, rows, _ = run(tmp_path / "sweep", sweep)
    values: dict[int, set[float]] = {}
    for row in rows:
        stage = torch.load(tmp_path / f"sweep/trials/{row.trial:04d}/denoise/checkpoint.pt", weights_only=True)
        assert stage["step"] == row.values["modules.denoise"]
        values.setdefault(row.values["modules.denoise"], set()).add(row.value)
    assert [len(found) for found in values.values()] == [1, 1]
    assert len(set.union(*values.values())) == 2


def test_a_folder_of_another_sweep_is_refused(undisturbed):
    wider = {**tomllib.loads(SWEEP)["parameters"], "optimiser": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}}}
    with pytest.raises(PlanMismatch, match=r"optimiser\.lr\.high"):
        run(undisturbed[0], small(parameters=wider))
    with pytest.raises(PlanMismatch, match="trials differs"):
        run(undisturbed[0], small(trials=27))


def test_a_random_search_can_grow(tmp_path):
    _, few, _ = run(tmp_path, small(search="random", trials=2, fixed={"steps": 2}))
    _, more, _ = run(tmp_path, small(search="random", trials=4, fixed={"steps": 2}))
    assert {row.trial: row.value for row in few}.items() <= {row.trial: row.value for row in more}.items()
    assert sorted(row.trial for row in more) == [0, 1, 2, 3]


def claimed(journal: Journal) -> Claim:
    found = journal.claim()
    assert isinstance(found, Claim)
    return found


def test_two_processes_never_get_the_same_trial(tmp_path):
    sweep = small(trials=3)
    with Owner(tmp_path / "alive") as owner:
        one, two = Journal(tmp_path, sweep, owner), Journal(tmp_path, sweep, owner)
        legs = [claimed(one), claimed(two), claimed(one)]
        assert [leg.trial for leg in legs] == [0, 1, 2]
        assert two.claim() == "wait"
        for leg, value in zip(legs, (0.3, 0.1, 0.2), strict=True):
            leg.done(value, 1.0)
        best = claimed(two)
        assert (best.trial, best.rung) == (1, 1)
        assert best.params == legs[1].params


def test_what_a_dead_process_had_is_given_out_again(tmp_path):
    sweep = small(trials=3)
    with Owner(tmp_path / "alive") as owner:
        ghost = Owner(tmp_path / "alive")
        ghost.name = owner.name.rpartition(".")[0] + ".1"  # our pid, another start: not us
        lost = claimed(Journal(tmp_path, sweep, ghost))
        again = claimed(Journal(tmp_path, sweep, owner))
        assert again.trial == lost.trial == 0
        assert again.params == lost.params
        lost.done(0.5, 1.0)  # too late, and harmless
        again.failed("reason", 1.0)
        (leg,) = Journal(tmp_path, sweep, owner).rungs()[0].values()
        assert (leg.state, leg.reason) == ("failed", "reason")


def test_what_was_entered_but_not_taken_is_taken(tmp_path, monkeypatch):
    sweep = small(trials=3)
    with Owner(tmp_path / "alive") as owner:
        torn = Journal(tmp_path, sweep, owner)
        with monkeypatch.context() as patch:
            patch.setattr(torn, "_take", lambda rung: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                torn.claim()
        assert [claimed(torn).trial for _ in range(3)] == [0, 1, 2]
        assert torn.claim() == "wait"


def test_a_heartbeat_speaks_for_other_hosts(tmp_path, monkeypatch):
    with Owner(tmp_path) as owner:
        assert owner.alive(owner.name)
        elsewhere = f"far.away.{owner.name.split('.', 1)[1]}"
        assert not owner.alive(elsewhere), "it never was here"
        (tmp_path / elsewhere).touch()
        assert owner.alive(elsewhere)
        monkeypatch.setattr("lensscan.train.sweep.owner.STALE_SECONDS", -1.0)
        assert not owner.alive(elsewhere)
        assert owner.alive(owner.name), "on this host the process itself is asked"
    assert not (tmp_path / owner.name).exists()


def test_a_half_written_last_line_is_cut_off(tmp_path):
    sweep = small(trials=3)
    with Owner(tmp_path / "alive") as owner:
        claimed(Journal(tmp_path, sweep, owner)).done(0.5, 1.0)
        with open(tmp_path / "journal.log", "a") as stream:
            stream.write('{"op_code":4,"wor')
        assert claimed(Journal(tmp_path, sweep, owner)).trial == 1
        assert len(Journal(tmp_path, sweep, owner).rungs()[0]) == 2


def test_a_spoilt_journal_is_one_line(tmp_path):
    (tmp_path / "journal.log").write_text("no journal\nat all\n")
    with Owner(tmp_path / "alive") as owner, pytest.raises(OutputError, match=r"cannot read .*journal\.log"):
        Journal(tmp_path, small(), owner)
