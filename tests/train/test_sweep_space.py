"""What a sweep draws, what its file may say, and which trial comes next: pure functions."""

from __future__ import annotations

import random

import pytest

from lensscan.config import find, read_toml, shipped
from lensscan.errors import ConfigError
from lensscan.train.settings import TrainSettings
from lensscan.train.sweep.schedule import Leg, Plan, next_leg, promoted
from lensscan.train.sweep.settings import Sweep
from lensscan.train.sweep.space import draw, flatten, merged, space

pytest.importorskip("optuna")
TABLE = {
    "optimiser": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "kind": {"choices": ["adamw", "sgd"]}},
    "batch": {"low": 8, "high": 64, "step": 8},
    "network": {"widths": {"choices": [[8, 12], [12, 16]]}},
    "augmentation": {"noise": {"low": 0.0, "high": 1.0}},
}
LEAST = {
    "name": "s",
    "training": {"recipe": "argonne2017", "steps": 90, "network": {"depths": [0, 0, 0, 0]}},
    "parameters": {"optimiser": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}}},
}


def sweep(**changes) -> Sweep:
    return Sweep.from_mapping({**LEAST, **changes}, "here.toml")


def test_trial_is_a_function_of_seed_and_number():
    parameters = space(TABLE, "x")
    assert list(parameters) == ["optimiser.lr", "optimiser.kind", "batch", "network.widths", "augmentation.noise"]
    drawn = [draw(parameters, 7, trial) for trial in range(40)]
    assert drawn[11] == draw(parameters, 7, 11)
    assert drawn[11] != draw(parameters, 8, 11)
    assert len({values["optimiser.lr"] for values in drawn}) == 40
    assert all(1e-4 <= values["optimiser.lr"] <= 1e-1 for values in drawn)
    assert 8 < sum(values["optimiser.lr"] < 10**-2.5 for values in drawn) < 32, "the logarithm is uniform"
    assert {values["batch"] for values in drawn} <= set(range(8, 65, 8))
    assert {values["optimiser.kind"] for values in drawn} == {"adamw", "sgd"}
    lists = [parameters["network.widths"].value(values["network.widths"]) for values in drawn]
    assert [8, 12] in lists
    assert [12, 16] in lists


def test_changes_reach_the_training_and_nothing_else():
    settings = sweep(fixed={"validation": 64, "optimiser": {"ema": 0.5}}).training_of({"optimiser.lr": 0.03}, "x")
    assert (settings.optimiser.lr, settings.optimiser.ema, settings.validation) == (0.03, 0.5, 64)
    assert settings.name == "s"
    assert settings.network.depths == (0, 0, 0, 0)
    before = {"a": {"b": 1, "c": 2}}
    assert merged(before, {"a.b": 5, "d.e": 6}) == {"a": {"b": 5, "c": 2}, "d": {"e": 6}}
    assert before == {"a": {"b": 1, "c": 2}}
    assert flatten({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


def test_epochs_become_steps():
    training = {"recipe": "argonne2017", "stream": {"chunk": 100, "window": 3, "epochs": True}}
    parameters = {"epochs": {"choices": [2, 10]}, "batch": {"choices": [20, 30]}}
    many = sweep(training=training, parameters=parameters)
    assert many.training_of({"epochs": 10, "batch": 20}, "x").steps == 150
    assert many.training_of({"epochs": 2, "batch": 30}, "x").steps == 20
    assert many.steps(many.training_of({"epochs": 10, "batch": 20}, "x"), 0) == 17


BAD = {
    "unknown key": ({"trails": 3}, "did you mean 'trials'"),
    "no trials": ({"trials": 0}, "trials must be at least 1"),
    "reduction": ({"reduction": 1}, "reduction must be at least 2"),
    "metric": ({"metric": "accuracy"}, "must be one of bce, auroc"),
    "search": ({"search": "grid"}, "must be one of random, halving"),
    "training": ({"training": "no-such"}, "no shipped 'no-such'"),
    "training number": ({"training": 3}, "training must be a name, a path or a table"),
    "training key": ({"fixed": {"stepps": 3}}, "did you mean 'steps'"),
    "no steps": ({"training": {"recipe": "argonne2017"}}, "missing key 'steps'"),
    "no parameters": ({"parameters": {}}, "parameters is empty"),
    "unknown parameter": ({"parameters": {"optimiser": {"rate": {"choices": [1, 2]}}}}, "unknown key 'rate'"),
    "impossible choice": ({"parameters": {"batch": {"choices": [8, 0]}}}, "batch = 0: batch must be positive"),
    "wrong type": ({"parameters": {"batch": {"low": 8.5, "high": 9.5}}}, "batch must be int"),
    "no table": ({"parameters": {"batch": 32}}, "batch must be a table"),
    "both": ({"parameters": {"batch": {"low": 8, "high": 16, "choices": [8]}}}, "either low and high, or choices"),
    "neither": ({"parameters": {"batch": {}}}, "either low and high, or choices"),
    "half": ({"parameters": {"batch": {"low": 8}}}, "must be numbers"),
    "upside down": ({"parameters": {"batch": {"low": 16, "high": 8}}}, "low must lie below high"),
    "log of zero": ({"parameters": {"batch": {"low": 0, "high": 8, "log": True}}}, "must begin above 0"),
    "log choice": ({"parameters": {"batch": {"choices": [8, 16], "log": True}}}, "log and step go with low and high"),
    "broken step": ({"parameters": {"batch": {"low": 8, "high": 16, "step": 2.5}}}, "must be whole; write low = 8.0"),
    "large step": (
        {"parameters": {"optimiser": {"lr": {"low": 0.1, "high": 0.3, "step": 0.5}}}},
        "step 0.5 is larger than the range",
    ),
    "fixed under a number": ({"fixed": {"steps": {"foo": 1}}}, "there is no steps.foo: steps is no table"),
    "under a number": ({"parameters": {"steps": {"foo": {"low": 1, "high": 2}}}}, "there is no steps.foo"),
    "kind": ({"fixed": {"network": {"kind": [1]}}}, "unknown kind '[1]'"),
    "yardstick": ({"parameters": {"validation": {"choices": [64, 128]}}}, "must be the same for all trials"),
    "seed": ({"parameters": {"seed": {"choices": [1, 2]}}}, "must be the same for all trials"),
    "epochs": ({"parameters": {"epochs": {"choices": [1, 2]}}}, "stream.epochs = true"),
    "epochs and steps": ({"parameters": {"epochs": {"choices": [1]}, "steps": {"choices": [9]}}}, "both say how long"),
    "stages": ({"parameters": {"network.widths": {"choices": [[8, 8, 8, 8], [8]]}}}, "network.widths = [8]: network: "),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_is_one_line(name):
    changes, words = BAD[name]
    with pytest.raises(ConfigError) as caught:
        sweep(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_checked_beside_those_of_the_other_parameters():
    """Other widths need other depths: neither fits the training alone."""
    both = {"network.widths": {"choices": [[8, 12], [12, 16]]}, "network.depths": {"choices": [[0, 0], [1, 1]]}}
    assert list(sweep(parameters=both).space) == ["network.widths", "network.depths"]


@pytest.mark.parametrize("name", shipped("sweeps"))
def test_shipped_sweeps_are_valid(name):
    loaded = Sweep.from_mapping(read_toml(find("sweeps", name)), name)
    for trial in range(20):
        drawn = draw(loaded.space, loaded.seed, trial)
        values = {key: parameter.value(drawn[key]) for key, parameter in loaded.space.items()}
        settings = loaded.training_of(values, name)
        assert isinstance(settings, TrainSettings)
        assert [loaded.steps(settings, rung) for rung in range(len(loaded.shares))][-1] == settings.steps


def test_the_argonne_sweep_varies_what_its_slides_name():
    loaded = Sweep.from_mapping(read_toml(find("sweeps", "argonne2017")), "argonne2017")
    assert 10 <= len(loaded.space) <= 15
    named = {"optimiser.lr", "optimiser.decay", "batch", "epochs", "network.dropout", "optimiser.kind"}
    named |= {"optimiser.loss", "network.widths", "network.depths", "augmentation.noise"}
    assert named <= set(loaded.space)


def test_rungs_and_places():
    halving = sweep(trials=20, rungs=3, reduction=3)
    assert halving.places == (20, 6, 2)
    settings = halving.training_of({}, "x")
    assert [halving.steps(settings, rung) for rung in range(3)] == [10, 30, 90]
    alone = sweep(trials=20, search="random")
    assert (alone.places, alone.shares) == ((20,), (1.0,))
    assert sweep(trials=2).places == (2, 1, 1), "somebody always goes on"


def test_promotion_takes_the_best_and_breaks_ties_by_number():
    legs = {trial: Leg(trial, 0, "done", value=value) for trial, value in enumerate([0.2, 0.9, 0.5, 0.9])}
    legs[4] = Leg(4, 0, "failed")
    assert promoted(legs, 3, sign=1) == [1, 3, 2]
    assert promoted(legs, 2, sign=-1) == [0, 2]


def play(n_workers: int, seed: int) -> list[dict[int, Leg]]:
    """Let workers take legs, end them in any order, and die in the midst; return the legs at the end."""
    chance = random.Random(seed)
    plan = Plan((9, 3, 1), 1)
    rungs: list[dict[int, Leg]] = [{}, {}, {}]
    while True:
        running = [leg for legs in rungs for leg in legs.values() if leg.state == "running"]
        found = next_leg(rungs, plan)
        if found == "done":
            assert not running
            return rungs
        if found != "wait" and len(running) < n_workers and chance.random() < 0.7:
            trial, rung = found
            assert trial not in rungs[rung], "a leg that somebody has begun was given out again"
            rungs[rung][trial] = Leg(trial, rung, "running")
        elif running:
            leg = chance.choice(running)
            if chance.random() < 0.2:
                del rungs[leg.rung][leg.trial]
            else:
                value = (leg.trial * 7 + leg.rung * 5) % 11
                state = "failed" if leg.trial == 4 else "done"
                rungs[leg.rung][leg.trial] = Leg(leg.trial, leg.rung, state, value=value)


@pytest.mark.parametrize("seed", range(25))
def test_the_same_trials_for_any_number_of_workers_order_and_deaths(seed):
    alone, many = play(1, 0), play(1 + seed % 6, seed)
    assert [sorted(legs) for legs in many] == [sorted(legs) for legs in alone]
    assert [len(legs) for legs in many] == [9, 3, 1]


def test_a_sweep_whose_trials_all_fail_ends():
    legs = {trial: Leg(trial, 0, "failed") for trial in range(3)}
    assert next_leg([legs, {}], Plan((3, 1), 1)) == "done"
