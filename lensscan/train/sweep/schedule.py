"""Which trial to train next, and how far: a pure function of what the journal holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Leg", "Plan", "next_leg", "promoted"]


@dataclass(frozen=True, slots=True)
class Leg:
    """One trial's way to the end of one rung.

    Attributes
    ----------
    trial, rung : int
    state : str
        ``running``, ``done`` or ``failed``.
    params : dict
        As drawn.
    value : float
        The metric, if done.
    reason : str
        If failed.
    seconds : float
        That whoever ended this leg spent on it; what a process that died on the way spent is not known.
    """

    trial: int
    rung: int
    state: Literal["running", "done", "failed"]
    params: Mapping[str, Any] = field(default_factory=dict)
    value: float = math.nan
    reason: str = ""
    seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class Plan:
    """How many trials, how many go on from each rung, and whether more is better (`sign` 1) or less (-1)."""

    places: tuple[int, ...]
    sign: int


def promoted(legs: Mapping[int, Leg], places: int, sign: int) -> list[int]:
    """Return the best trials of a finished rung, best first; equal values in the order of the trials."""
    done = [leg for leg in legs.values() if leg.state == "done"]
    return [leg.trial for leg in sorted(done, key=lambda leg: (-sign * leg.value, leg.trial))[:places]]


def next_leg(rungs: Sequence[Mapping[int, Leg]], plan: Plan) -> tuple[int, int] | Literal["wait", "done"]:
    """Return (trial, rung) of the next leg that nobody has begun, or that all that is left is being done.

    Parameters
    ----------
    rungs : sequence of dict
        The legs of each rung by trial.
    plan : Plan

    Notes
    -----
    A rung begins when the one before it is finished, so the choice depends on values alone, not on who was first
    (Jamieson & Talwalkar 2016, arXiv:1502.07943; a bracket of Li+2018, arXiv:1603.06560).
    """
    entered = list(range(plan.places[0]))
    for rung, legs in enumerate(rungs):
        begun = [legs.get(trial) for trial in entered]
        for trial, leg in zip(entered, begun, strict=True):
            if leg is None:
                return trial, rung
        if any(leg is not None and leg.state == "running" for leg in begun):
            return "wait"
        if rung + 1 < len(rungs):
            entered = promoted({trial: legs[trial] for trial in entered}, plan.places[rung + 1], plan.sign)
    return "done"
