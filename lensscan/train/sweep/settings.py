"""The settings of one sweep: SWEEP.toml, checked against the training that it varies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lensscan.config import build, find, read_toml
from lensscan.errors import ConfigError
from lensscan.mocks.recipes import Recipe
from lensscan.train.checks import figures
from lensscan.train.settings import TrainSettings
from lensscan.train.sweep.space import EPOCHS, Parameter, flatten, merged, space

__all__ = ["METRICS", "Sweep"]

METRICS = {"bce": -1, "auroc": 1, "tpr_2": 1, "tpr_3": 1, "nll": -1, "theta_E_68": -1}
"""Figures of a validation, and whether more (1) or less (-1) is better."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Everything that defines a sweep.

    Attributes
    ----------
    name : str
    training : str or table
        The training whose settings vary: shipped name, path, or its keys themselves.
    parameters : table
        What varies, by the training's keys, see `Parameter`; ``epochs`` stands for the steps of a training with
        ``stream.epochs``.
    fixed : table
        Other changes of the training, the same for all trials, such as ``steps``.
    trials : int
    seed : int
        Of the draws; the trainings keep their file's own.
    metric : str
        Key of `METRICS`, of the averaged weights on the training's validation mocks.
    search : str
        ``random``: all trials to the end.  ``halving``: all to the first rung, the best of them to the second.
    rungs, reduction : int
        Rung r of R ends after the share ``reduction ** (r - R)`` of a trial's steps; the best 1 / `reduction`
        of the trials go on.
    """

    name: str
    training: Any
    parameters: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 27
    seed: int = 1
    metric: Literal["bce", "auroc", "tpr_2", "tpr_3", "nll", "theta_E_68"] = "auroc"
    search: Literal["random", "halving"] = "halving"
    rungs: int = 3
    reduction: int = 3

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> Sweep:
        """Build from a TOML mapping, with the training read and its changes put in.

        Raises
        ------
        ConfigError
            For unknown keys and impossible values, also of the training for any limit or choice.
        """
        sweep = build(cls, mapping, where)
        for key, least in {"trials": 1, "seed": 0, "rungs": 1, "reduction": 2}.items():
            if getattr(sweep, key) < least:
                raise ConfigError(f"{where}: {key} must be at least {least}, not {getattr(sweep, key)}")
        if isinstance(sweep.training, str):
            training = read_toml(find("training", sweep.training))
        elif isinstance(sweep.training, Mapping):
            training = {**({"steps": 1} if EPOCHS in sweep.parameters else {}), **sweep.training}
        else:
            raise ConfigError(f"{where}: training must be a name, a path or a table, not {sweep.training!r}")
        training = merged(training, {"name": sweep.name, **flatten(sweep.fixed)})
        sweep = dataclasses.replace(sweep, training=training)
        sweep._check(where)
        return sweep

    def _check(self, where: str) -> None:
        parameters = space(self.parameters, f"{where}: parameters")
        if EPOCHS in parameters and "steps" in parameters:
            raise ConfigError(f"{where}: parameters: epochs and steps both say how long; take one out")
        first = {key: parameter.extremes[0] for key, parameter in parameters.items()}
        known = {key: value for key, value in first.items() if key != EPOCHS}
        base = self.training_of(known, f"{where}: training")
        if EPOCHS in parameters and (not base.stream.epochs or base.stream.folder):
            raise ConfigError(f"{where}: parameters: epochs needs a training with stream.epochs = true, no folder")
        for key, parameter in parameters.items():
            for value in parameter.extremes:
                self.training_of(first | {key: value}, f"{where}: parameters: {key} = {value}")

    def check_metric(self, recipe: Recipe) -> None:
        """Raise a `ConfigError` if the trials' validations would lack the metric: all would train, and then fail."""
        known = figures(self.first, recipe)
        if self.metric not in known:
            what = f"sweep {self.name}: metric = {self.metric!r}, which the validations of its trials lack"
            raise ConfigError(f"{what} (network or recipe {recipe.name}); set it to {' or '.join(known)}")

    @property
    def space(self) -> dict[str, Parameter]:
        """The parameters by the training's keys."""
        return space(self.parameters, f"{self.name}: parameters")

    @property
    def first(self) -> TrainSettings:
        """The training with the first limit or choice of each parameter."""
        return self.training_of({key: each.extremes[0] for key, each in self.space.items()}, self.name)

    @property
    def sign(self) -> int:
        """Return 1 where more of the metric is better, else -1."""
        return METRICS[self.metric]

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of a trial's steps at the end of each rung."""
        if self.search == "random":
            return (1.0,)
        return tuple(float(self.reduction) ** (rung + 1 - self.rungs) for rung in range(self.rungs))

    @property
    def places(self) -> tuple[int, ...]:
        """Trials in each rung, if none fails."""
        if self.search == "random":
            return (self.trials,)
        return tuple(max(1, self.trials // self.reduction**rung) for rung in range(self.rungs))

    def mapping_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the training's mapping with these values of the parameters."""
        changed = merged(self.training, {key: value for key, value in values.items() if key != EPOCHS})
        if EPOCHS in values:
            stream = TrainSettings.from_mapping({**changed, "steps": 1}, self.name)
            stamps = values[EPOCHS] * stream.stream.window * stream.stream.chunk
            changed["steps"] = max(1, round(stamps / stream.batch))
        return changed

    def training_of(self, values: Mapping[str, Any], where: str) -> TrainSettings:
        """Return the settings of a trial.

        Raises
        ------
        ConfigError
            If the training cannot take these values.
        """
        return TrainSettings.from_mapping(self.mapping_of(values), where)

    def steps(self, settings: TrainSettings, rung: int) -> int:
        """Return the step at which a trial reaches the end of a rung."""
        return max(1, round(settings.steps * self.shares[rung]))

    @property
    def identity(self) -> dict[str, Any]:
        """What a folder of trials must have been made with; more trials may follow in a random search."""
        content = {key: value for key, value in dataclasses.asdict(self).items() if key != "fixed"}
        if self.search == "random":
            content = {key: value for key, value in content.items() if key not in ("trials", "rungs", "reduction")}
        return content
