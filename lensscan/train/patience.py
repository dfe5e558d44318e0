"""Early stopping: which validation was the best, the weights it measured, and how many have been no better since."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lensscan.errors import ModelError

__all__ = ["Best"]

HIGHER = ("auroc",)
"""Figures of a validation of which more is better; of losses less is."""


@dataclass(slots=True)
class Best:
    """The best validation so far.

    Attributes
    ----------
    monitor : str
        Its figure that counts.
    patience : int
        Validations without a better one after which a training stops; 0 = never.
    value, step : float, int
        Of the best one.
    stale : int
        Validations since then.
    weights : dict of Tensor
        That it measured; empty before the first.
    """

    monitor: str
    patience: int
    value: float = math.nan
    step: int = 0
    stale: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.stale

    def see(self, values: Mapping[str, float], step: int, weights: Mapping[str, Tensor]) -> None:
        """Take note of a validation, and keep a copy of its weights if it is the best; any figure is better than NaN.

        Raises
        ------
        ModelError
            If the validation has no such figure.
        """
        if self.monitor not in values:
            known = [name for name in ("auroc", "bce", "nll") if name in values]
            raise ModelError(f"a validation of this network has no {self.monitor}; set monitor to {' or '.join(known)}")
        value = values[self.monitor]
        better = value > self.value if self.monitor in HIGHER else value < self.value
        if self.weights and not better and (math.isnan(value) or not math.isnan(self.value)):
            self.stale += 1
            return
        self.value, self.step, self.stale = value, step, 0
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"value": self.value, "step": self.step, "stale": self.stale, "weights": self.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.value, self.step, self.stale = float(state["value"]), int(state["step"]), int(state["stale"])
        self.weights = dict(state["weights"])
