"""lensscan train: from a training file to a model that scores, resumed, refused, finished."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest
import torch
from curves import needs_horovod
from launch import Finished, run

from lensscan.cli.main import main
from lensscan.cli.ranks import ROOT_SPEAKS
from lensscan.cli.train import Reporter, train_each
from lensscan.errors import ExitCode
from lensscan.evaluate.trainings import require_trainings
from lensscan.mocks.dataset import Dataset
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.seeds import TESTSETS
from lensscan.nets.model import Model
from lensscan.scan.lock import RunLock
from lensscan.train.modular import training_flops
from lensscan.train.settings import TrainSettings

SMALL = """
name = "small"
recipe = "des-griz"
steps = 6
batch = 16
validate_every = 3
validation = 64
min_bands = 3
[network]
widths = [8, 12, 16]
depths = [0, 0, 0]
hidden = 16
squeeze = 8
[stream]
chunk = 64
window = 1
reuse = 2.0
[finish]
calibration = 192
evaluation = 192
"""


TINY = 'base = "slpipe2019"\nname = "tiny"\ntitle = "tiny"\nsize = 24\n'
"""A recipe whose mocks take less time."""


def tiny_training(folder: Path) -> str:
    """Write the recipe `TINY`, and return the training on it."""
    (folder / "tiny.toml").write_text(TINY)
    return SMALL.replace("des-griz", str(folder / "tiny.toml"))


def train(folder: Path, *options: str, training: str = SMALL, **how: object) -> Finished:
    (folder / "small.toml").write_text(training)
    output = [] if "-o" in options else ["-o", str(folder / "small.safetensors")]
    return run(["train", str(folder / "small.toml"), *output, *options], **how)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    first = train(folder, "--max-seconds", "0")
    stopped = (folder / "small.safetensors").exists()
    second = train(folder)
    return folder, first, stopped, second


@pytest.mark.slow
def test_stop_and_resume(trained):
    folder, first, stopped, second = trained
    assert first.code == ExitCode.INCOMPLETE, first
    assert "run the same command again" in first.err
    assert not stopped, "no model before the last step"
    assert second.code == 0, second
    assert "small.safetensors, sha256" in second.err
    run_folder = folder / "small.safetensors.run"
    records = [json.loads(line) for line in (run_folder / "curves.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "valid"] == [3, 6]
    assert (run_folder / "curves.png").exists()


@pytest.mark.slow
def test_model_is_complete(trained):
    model = Model.load(str(trained[0] / "small.safetensors"))
    card = model.card
    assert card.bands == ("g", "r", "i", "z")
    assert card.min_bands == 3
    assert card.label.startswith("recipe des-griz")
    assert card.training["steps"] == 6
    assert len(card.training["recipe_digest"]) == 64
    assert card.evaluation["n_lens"] + card.evaluation["n_other"] == 192
    assert set(card.sigma_range) == set(card.bands)
    table = model.score(np.random.default_rng(1).normal(0, 20, (3, 4, 91, 91)), prevalence=1e-3)
    assert np.isfinite(table["logit"]).all()
    assert np.isfinite(table["theta_E"].value).all()


@pytest.mark.slow
def test_whole_run_gives_the_same_bytes(trained):
    folder = trained[0]
    whole = train(folder, "-o", str(folder / "whole.safetensors"))
    assert whole.code == 0, whole
    first, second = (Model.load(str(folder / name)) for name in ("small.safetensors", "whole.safetensors"))
    for key, value in first.module.state_dict().items():
        assert (second.module.state_dict()[key] == value).all(), key
    same = {key: value for key, value in first.card.to_mapping().items() if key != "training"}
    assert same == {key: value for key, value in second.card.to_mapping().items() if key != "training"}


@pytest.mark.slow
def test_finish_anew_keeps_the_weights(trained):
    """With the same mocks as the training's own finish the card is the same too; other mocks change it."""
    folder = trained[0]
    model = str(folder / "small.safetensors")
    first = Model.load(model)
    again = train(folder, "--finish", model, "-o", str(folder / "again.safetensors"))
    assert again.code == 0, again
    second = Model.load(str(folder / "again.safetensors"))
    assert second.card.hash == first.card.hash
    more = ["--set", "finish.calibration=256", "--set", 'version="9"', "-o", str(folder / "more.safetensors")]
    assert train(folder, "--finish", model, *more).code == 0
    third = Model.load(str(folder / "more.safetensors"))
    for key, value in first.module.state_dict().items():
        assert (third.module.state_dict()[key] == value).all(), key
    assert third.card.version == "9"
    assert third.card.training.pop("finish")["calibration"] == 256
    assert first.card.training.pop("finish")["calibration"] == 192
    assert third.card.training == first.card.training
    assert third.card.posterior_scale != first.card.posterior_scale


@pytest.mark.slow
def test_finish_refuses_the_model_of_another_training(trained):
    folder = trained[0]
    words = ["--finish", str(folder / "small.safetensors"), "--set", "seed=5", "-o", str(folder / "no.safetensors")]
    other = train(folder, *words)
    assert other.code == ExitCode.ERROR
    assert "settings_digest differs" in other.err
    assert other.err.strip().count("\n") == 0
    assert not (folder / "no.safetensors").exists()


@pytest.mark.slow
def test_finished_is_nothing_to_do_and_other_settings_are_refused(trained):
    folder = trained[0]
    again = train(folder)
    assert again.code == 0, again
    assert "nothing to do" in again.err
    assert "differ" not in again.err
    said = train(folder, "--set", "views=8", "--set", "notes=better")
    assert said.code == 0, said
    assert "nothing to do; its notes, views differ: --finish" in said.err
    said = train(folder, "--set", "finish.kind=platt", "--set", "finish.others=500")
    assert said.code == 0, said
    assert "nothing to do; its finish.kind, finish.others differ: --finish" in said.err
    other = train(folder, "--set", "seed=5")
    assert other.code == ExitCode.ERROR
    assert other.err.strip().count("\n") == 0
    assert "other settings" in other.err


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    words, tiny = ("--seeds", "2", "--set", "steps=3", "--set", "seed=7"), tiny_training(folder)
    stopped = train(folder, *words, "--max-seconds", "0", training=tiny)
    return folder, stopped, train(folder, *words, training=tiny), train(folder, *words, training=tiny)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_several_seeds_make_several_models(seeds):
    """Each has its own name, seed and folder; the same command goes on, and costs nothing when all is done."""
    folder, stopped, done, again = seeds
    assert stopped.code == ExitCode.INCOMPLETE, stopped
    assert "run the same command again" in stopped.err
    assert done.code == 0, done
    assert "training 2 of 2: seed 8" in done.err
    assert (again.code, again.err.count("nothing to do")) == (0, 2), again
    models = [Model.load(str(folder / f"small-seed-{seed}.safetensors")) for seed in (7, 8)]
    assert [model.card.name for model in models] == ["small-seed-7", "small-seed-8"]
    assert [model.card.training["seed"] for model in models] == [7, 8]
    first, second = (model.card.training for model in models)
    assert first["seedless_digest"] == second["seedless_digest"]
    assert first["settings_digest"] != second["settings_digest"]
    assert (folder / "small-seed-7.safetensors.run" / "curves.png").exists()
    assert require_trainings([model.card for model in models]) == [7, 8]


@pytest.mark.slow
def test_a_model_that_is_finished_anew_says_of_which_file_it_is(seeds):
    folder = seeds[0]
    path, old = folder / "small-seed-7.safetensors", folder / "old.safetensors"
    model = Model.load(str(path))
    bare = {key: value for key, value in model.card.training.items() if key != "seedless_digest"}
    Model(dataclasses.replace(model.card, training=bare), model.module).save(old)
    words = ("--finish", str(old), "--set", "steps=3", "--set", "seed=7", "-o", str(folder / "new.safetensors"))
    done = train(folder, *words, training=tiny_training(folder))
    assert done.code == 0, done
    new = Model.load(str(folder / "new.safetensors"))
    assert new.card.training == model.card.training
    refused = train(folder, *words, "--seeds", "2", training=tiny_training(folder))
    assert refused.code == ExitCode.USAGE
    assert "give its seed by --set seed=S" in refused.err


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(400)
def test_several_ranks_train_one_seed_a_call(tmp_path):
    words, tiny = ("--backend", "torch", "--set", "steps=3", "--seeds", "2"), tiny_training(tmp_path)
    first = train(tmp_path, *words, training=tiny, ranks=2)
    assert first.code == ExitCode.INCOMPLETE, first
    assert (tmp_path / "small-seed-1.safetensors").exists()
    assert not (tmp_path / "small-seed-2.safetensors").exists()
    second = train(tmp_path, *words, training=tiny, ranks=2)
    assert second.code == 0, second
    assert Model.load(str(tmp_path / "small-seed-2.safetensors")).card.training["ranks"] == 2


BOTH = pytest.mark.parametrize("backend", ["torch", pytest.param("horovod", marks=needs_horovod)])


@pytest.mark.slow
@pytest.mark.mpi
@BOTH
def test_two_ranks(tmp_path, backend):
    done = train(tmp_path, "--backend", backend, "--set", "steps=3", ranks=2)
    assert done.code == 0, done
    training = Model.load(str(tmp_path / "small.safetensors")).card.training
    assert (training["ranks"], training["backend"]) == (2, backend)


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGUSR1"])
def test_a_signal_leaves_a_checkpoint_and_the_code_for_another_run(tmp_path, signal):
    """The process sends it to itself while it trains, after its second checkpoint."""
    fault = f"point=checkpoint:renamed,do={signal},hit=2"
    done = train(tmp_path, "--set", "checkpoint_seconds=0", fault=fault)
    assert done.code == ExitCode.INCOMPLETE, done
    assert "all is kept; run the same command again" in done.err
    assert not (tmp_path / "small.safetensors").exists()
    state = torch.load(tmp_path / "small.safetensors.run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3, "the step under way is done, then no other"


def stored(folder: Path, name: str = "mocks", seed: int = 10, n: int = 48) -> list[str]:
    """Write mocks, two epochs of which are a training of six steps, and return the options that train on them."""
    (folder / "tiny.toml").write_text('base = "slpipe2019"\nname = "tiny"\ntitle = "tiny"\nsize = 24\n')
    Dataset(load_recipe(folder / "tiny.toml"), seed, n, folder / name).write()
    changes = {"recipe": str(folder / "tiny.toml"), "stream.folder": str(folder / name)}
    words = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return [word for change in (*words, "checkpoint_seconds=0") for word in ("--set", change)]


@pytest.mark.slow
@pytest.mark.mpi
@BOTH
@pytest.mark.timeout(400)
def test_a_training_from_disk_that_was_killed_goes_on_with_fewer_ranks(tmp_path, backend):
    options = stored(tmp_path)
    killed = train(
        tmp_path, *options, "--backend", backend, ranks=2, fault="point=checkpoint:renamed,do=SIGKILL,rank=0,hit=3"
    )
    assert killed.code != 0, killed
    run_folder = tmp_path / "small.safetensors.run"
    assert torch.load(run_folder / "checkpoint.pt", weights_only=True)["step"] == 3
    refused = train(tmp_path, *stored(tmp_path, "other", seed=30))
    assert refused.code == ExitCode.ERROR
    told, error = refused.err.strip().splitlines()
    assert "took over the lock" in told
    assert "belongs to other settings" in error
    done = train(tmp_path, *options)
    assert done.code == 0, done
    whole = train(tmp_path, *options, "-o", str(tmp_path / "whole.safetensors"))
    assert whole.code == 0, whole
    first, second = (Model.load(str(tmp_path / name)) for name in ("small.safetensors", "whole.safetensors"))
    for key, value in first.module.state_dict().items():
        torch.testing.assert_close(second.module.state_dict()[key], value, rtol=0, atol=1e-4, msg=key)
    assert first.card.training["mocks"] == 48
    assert first.card.training["folder"]["path"] == str(tmp_path / "mocks")


@pytest.mark.slow
def test_mocks_of_a_sealed_set_are_refused_in_a_line(tmp_path):
    done = train(tmp_path, *stored(tmp_path, seed=TESTSETS["smoke"], n=2))
    assert done.code == ExitCode.USAGE, done
    assert "kept for the sealed test set smoke" in done.err
    assert done.err.strip().count("\n") == 0


@pytest.mark.slow
@pytest.mark.mpi
def test_an_error_on_one_rank_ends_the_job(tmp_path):
    done = train(tmp_path, "--backend", "torch", ranks=2, fault="point=checkpoint:written,do=raise")
    assert done.code != 0, "a rank that fails must not hang or look complete"
    assert not (tmp_path / "small.safetensors").exists()


@pytest.mark.mpi
def test_a_wrong_file_is_one_line_under_several_ranks_too(tmp_path):
    done = train(tmp_path, "--set", "steps=0", ranks=3)
    assert done.code == ExitCode.USAGE, done
    assert done.err.count("error:") == done.err.count("steps must be positive, not 0") == 1


@pytest.mark.mpi
def test_a_wrong_sweep_is_one_line_under_several_ranks_too(tmp_path):
    done = run(["sweep", "tiny", "--set", "trials=0", "-o", str(tmp_path / "sweep")], ranks=2)
    assert done.code == ExitCode.USAGE, done
    assert done.err.count("error:") == done.err.count("trials must be at least 1") == 1


def test_a_rank_that_alone_has_an_error_says_it(monkeypatch, tmp_path, capsys):
    """After a while in which root did not end it."""

    def abort(world, code: int) -> NoReturn:
        raise SystemExit(code)

    waited = []
    monkeypatch.setattr("lensscan.mpi.launched_size", lambda: 2)
    monkeypatch.setattr("lensscan.mpi.launched_rank", lambda: 1)
    monkeypatch.setattr("lensscan.mpi.abort", abort)
    monkeypatch.setattr("lensscan.cli.ranks.time.sleep", waited.append)
    monkeypatch.setattr("lensscan.cli.ranks.signal.signal", lambda number, handler: None)
    monkeypatch.setattr("lensscan.process.tune_allocator", lambda: None)
    with pytest.raises(SystemExit) as left:
        main(["train", str(tmp_path / "none.toml")])
    assert (left.value.code, waited) == (ExitCode.USAGE, [ROOT_SPEAKS])
    assert capsys.readouterr().err.count("no file") == 1


@pytest.mark.mpi
def test_an_output_that_no_rank_can_have_is_one_line(tmp_path):
    done = train(tmp_path, "-o", "/proc/nowhere/small.safetensors", ranks=2)
    assert done.code == ExitCode.ERROR, done
    assert "Traceback" not in done.err
    assert done.err.count("error: cannot") == 1


@pytest.mark.parametrize(("backend", "code"), [("horovod", ExitCode.INCOMPLETE), ("torch", ExitCode.OK)])
def test_horovod_trains_one_seed_a_call_because_mpi_starts_but_once(tmp_path, backend, code):
    done = []

    class Work(SimpleNamespace):
        def run(self) -> ExitCode:
            done.append(self.settings.seed)
            return ExitCode.OK

    works = [Work(backend=backend, output=tmp_path / f"{seed}", settings=SimpleNamespace(seed=seed)) for seed in (1, 2)]
    assert train_each(works, lambda line: None) == code
    assert done == ([1] if code else [1, 2])


def test_other_ranks_keep_quiet(capsys):
    Reporter(terminal=True, quiet=True)("step 50/100")
    assert capsys.readouterr().err == ""
    Reporter(terminal=True)("step 50/100")
    assert capsys.readouterr().err == "step 50/100\n"


@pytest.mark.slow
def test_a_finish_is_refused_while_another_job_works_on_the_same_output(trained):
    folder = trained[0]
    place = folder / "new.safetensors.run"
    place.mkdir()
    with RunLock(place / "lock").kept():
        done = train(folder, "--finish", str(folder / "small.safetensors"), "-o", str(folder / "new.safetensors"))
    assert done.code == ExitCode.ERROR, done
    assert "in use by another training" in done.err
    assert done.err.strip().count("\n") == 0
    assert not (folder / "new.safetensors").exists()
    place.rmdir()


@pytest.mark.parametrize(
    ("output", "words"),
    [("small", "must end in .safetensors"), ("small.safetensors", "in use by another training")],
)
def test_an_output_that_cannot_be_had(tmp_path, output, words):
    """A file that nothing would take for a model, and one that another job is about to write."""
    folder = tmp_path / "small.safetensors.run"
    folder.mkdir()
    with RunLock(folder / "lock").kept():
        done = train(tmp_path, "-o", str(tmp_path / output), timeout=120)
    assert done.code in (ExitCode.ERROR, ExitCode.USAGE), done
    assert words in done.err
    assert done.err.strip().count("\n") == 0
    assert list(folder.iterdir()) == []


def test_unknown_training_is_one_line():
    done = run(["train", "no-such"])
    assert done.code == ExitCode.USAGE
    assert "des-griz" in done.err
    assert done.err.strip().count("\n") == 0


MODULAR = """
[modules]
denoise = 2
deblend = 2
heads = 2
"""
SHAPE = """
kind = "modular"
denoise_width = 8
denoise_depth = 1
deblend_widths = [8, 8]
latent = 4
samples = 8"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_modules_are_trained_in_turn_and_make_a_model_that_scans(tmp_path):
    small = tiny_training(tmp_path).replace("[network]", MODULAR + "[network]" + SHAPE)
    (tmp_path / "modular.toml").write_text(small)
    words = ["train", str(tmp_path / "modular.toml"), "-o", str(tmp_path / "modular.safetensors")]
    done = run(words)
    assert done.code == 0, done
    folder = tmp_path / "modular.safetensors.run"
    for stage in ("denoise", "deblend", "heads"):
        assert (folder / stage / "checkpoint.pt").exists()
        assert (folder / stage / "curves.png").exists()
    records = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    assert {"psnr_denoise", "psnr_deblend", "auroc"} <= set(records[-1])
    model = Model.load(str(tmp_path / "modular.safetensors"))
    assert model.card.training["stages"] == {"denoise": 2, "deblend": 2, "heads": 2, "joint": 6}
    assert min(model.card.training["flops"].values()) > 0
    table = model.score(np.random.default_rng(1).normal(0, 20, (3, 3, 31, 31)), views=8)
    assert np.isfinite(table["logit"]).all()
    assert np.isfinite(table["theta_E"].value).all()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_card_states_the_steps_taken_and_whose_weights_it_has(tmp_path):
    """Weights that hardly move: no validation is better than the first."""
    training = tiny_training(tmp_path).replace("reuse = 2.0", "reuse = 0.25").replace("[network]", "[network]" + SHAPE)
    words = [f"--set={word}" for word in ("patience=1", "steps=30", "optimiser.lr=1e-12")]
    done = train(tmp_path, *words, training=training)
    assert done.code == 0, done
    assert "no better auroc since step 3, whose weights are kept" in done.err
    said = Model.load(str(tmp_path / "small.safetensors")).card.training
    assert (said["steps"], said["best_step"], said["mocks"]) == (6, 3, 384)
    assert said["stages"] == {"joint": 6}
    settings = TrainSettings.from_mapping(tomllib.loads(training) | {"steps": 6}, "small.toml")
    assert said["flops"] == pytest.approx(training_flops(settings, 3, 24))
