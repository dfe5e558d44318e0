"""The space of a sweep: which settings of a training vary, and how; trial k is a pure function of seed and k."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lensscan.config import build
from lensscan.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["EPOCHS", "Parameter", "draw", "flatten", "merged", "space"]

EPOCHS = "epochs"
"""A key that no training file has: passes over its fixed set, from which the steps follow."""
YARDSTICK = (
    "name",
    "recipe",
    "seed",
    "version",
    "notes",
    "views",
    "min_bands",
    "finish",
    "validation",
    "validate_every",
    "checkpoint_seconds",
)
"""What may not vary: it would change what the trials are measured on, or nothing at all."""

Value = bool | int | float | str | list[Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """How one setting varies.

    Attributes
    ----------
    low, high : int or float
        Limits, inclusive; whole numbers if both are whole.
    log : bool
        Draw the logarithm uniformly.
    step : int or float
        Grid from `low` on; 0 = none.
    choices : tuple
        Values instead of limits: numbers, words, true or false, lists.
    """

    low: Any = None
    high: Any = None
    log: bool = False
    step: Any = 0
    choices: tuple[Any, ...] = ()

    def checked(self, where: str) -> Parameter:
        """Return itself.

        Raises
        ------
        ConfigError
            If nothing can be drawn from it.
        """
        limits = (self.low, self.high)
        if bool(self.choices) == any(limit is not None for limit in limits):
            raise ConfigError(f"{where}: give either low and high, or choices")
        if self.choices:
            if self.log or self.step:
                raise ConfigError(f"{where}: log and step go with low and high, not with choices")
            return self
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (*limits, self.step)):
            raise ConfigError(f"{where}: low, high and step must be numbers")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"{where}: low must lie below high, not {self.low} and {self.high}")
        if self.log and not self.low > 0:
            raise ConfigError(f"{where}: a logarithmic range must begin above 0, not at {self.low}")
        if self.step < 0 or (self.log and self.step):
            raise ConfigError(f"{where}: step must be positive, and does not go with log")
        if self.whole and self.step != int(self.step):
            raise ConfigError(f"{where}: between whole low and high step must be whole; write low = {self.low:.1f}")
        if self.step > self.high - self.low:
            raise ConfigError(f"{where}: step {self.step} is larger than the range from {self.low} to {self.high}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values that a training must take if it is to take all."""
        return self.choices or (self.low, self.high)

    def distribution(self) -> BaseDistribution:
        """Return what optuna draws from; lists stand as JSON."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution([_word(choice) for choice in self.choices])
        if self.whole:
            return distributions.IntDistribution(self.low, self.high, log=self.log, step=int(self.step) or 1)
        return distributions.FloatDistribution(self.low, self.high, log=self.log, step=self.step or None)

    def value(self, drawn: Any) -> Value:
        """Return the setting's value for what optuna drew."""
        if not self.choices:
            number: Value = drawn
            return number
        chosen: Value = next(choice for choice in self.choices if _word(choice) == drawn)
        return chosen


def _word(choice: Any) -> bool | int | float | str:
    return json.dumps(choice) if isinstance(choice, (list, tuple)) else choice


def space(table: Mapping[str, Any], where: str) -> dict[str, Parameter]:
    """Return the parameters of a ``[parameters]`` table by the training's keys (``optimiser.lr``), in its order.

    Raises
    ------
    ConfigError
        If a parameter cannot be drawn from, or must not vary.
    """
    found: dict[str, Parameter] = {}
    for key, leaf in _leaves(table, (), where):
        if key.split(".")[0] in YARDSTICK:
            raise ConfigError(f"{where}: {key} must be the same for all trials; take it out, or put it under [fixed]")
        found[key] = build(Parameter, leaf, f"{where}: {key}").checked(f"{where}: {key}")
    if not found:
        raise ConfigError(f"{where} is empty; add a line such as batch = {{choices = [32, 64]}}")
    return found


def _leaves(table: Any, path: tuple[str, ...], where: str) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(table, Mapping):
        name = ".".join(path)
        raise ConfigError(f"{where}: {name} must be a table such as {{low = 1, high = 2}}, not {table!r}")
    if path and not any(isinstance(value, Mapping) for value in table.values()):
        return [(".".join(path), table)]
    return [leaf for key, value in table.items() for leaf in _leaves(value, (*path, key), where)]


def draw(parameters: Mapping[str, Parameter], seed: int, trial: int) -> dict[str, Any]:
    """Draw the parameters of one trial, as optuna names their values; a pure function."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    number = int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    asked = study.ask({key: parameter.distribution() for key, parameter in parameters.items()})
    return dict(asked.params)


def flatten(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a nested table as ``{"optimiser.lr": value}``."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten(value, (*path, key)) if isinstance(value, Mapping) else {".".join((*path, key)): value}
    return flat


def merged(training: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training's mapping with ``{"optimiser.lr": value}`` put in."""
    result = {key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in training.items()}
    for key, value in changes.items():
        *parents, last = key.split(".")
        target = result
        for depth, parent in enumerate(parents):
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"there is no {key}: {'.'.join(parents[: depth + 1])} is no table; mend the sweep")
        target[last] = value
    return result
