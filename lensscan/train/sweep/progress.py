"""How far a sweep is: what ended since the last look, trials done, the best so far, and the time to go."""

from __future__ import annotations

import time
from collections.abc import Callable

from lensscan.train.settings import TrainSettings
from lensscan.train.sweep.journal import Rungs
from lensscan.train.sweep.schedule import Leg
from lensscan.train.sweep.settings import Sweep

__all__ = ["Progress"]

LOOK_SECONDS = 10.0


class Progress:
    """Reports from the journal, which knows of all processes.

    Parameters
    ----------
    sweep : Sweep
    rungs : list of dict
        The legs at the start of this run.
    report : callable or None
        Takes lines; None keeps quiet.
    """

    def __init__(self, sweep: Sweep, rungs: Rungs, report: Callable[[str], None] | None) -> None:
        self.sweep, self._report = sweep, report
        self._looked = self._begun = time.monotonic()
        self._seen = {(leg.trial, leg.rung) for leg in _ended(rungs)}
        self._before = self._work(rungs)
        self._leg: tuple[TrainSettings, int] | None = None
        self._fresh = False

    def begin(self, settings: TrainSettings, rung: int) -> None:
        """Note the leg that this process trains now."""
        self._leg, self._fresh = (settings, rung), True

    def look(self, read: Callable[[], Rungs], step: int | None = None) -> None:
        """Read the journal and report; during a training (`step`) at most every 10 s."""
        if self._report is None:
            return
        if step is not None and self._fresh:
            self._fresh = False
            self._before += self._running_work(read(), step - 1)  # restored from the checkpoint, not done now
        now = time.monotonic()
        if step is not None and now - self._looked < LOOK_SECONDS:
            return
        rungs, late = read(), now - self._looked >= LOOK_SECONDS
        self._looked = now if late or step is not None else self._looked
        new = [leg for leg in _ended(rungs) if (leg.trial, leg.rung) not in self._seen]
        for leg in new:
            self._seen.add((leg.trial, leg.rung))
            self._report(self._sentence(leg))
        if new or late:
            self._report(self._state(rungs, step))

    def _sentence(self, leg: Leg) -> str:
        if leg.state == "failed":
            return f"trial {leg.trial} failed: {leg.reason}"
        return f"trial {leg.trial}: {self.sweep.metric} {leg.value:.5g} at the end of rung {leg.rung + 1}"

    def _state(self, rungs: Rungs, step: int | None) -> str:
        places = self.sweep.places
        text = "  ".join(
            f"rung {rung + 1}: {sum(leg.state != 'running' for leg in legs.values())}/{places[rung]}"
            for rung, legs in enumerate(rungs)
        )
        done = [leg for leg in _ended(rungs) if leg.state == "done"]
        if done:
            best = max(done, key=lambda leg: (leg.rung, self.sweep.sign * leg.value, -leg.trial))
            text += f"  best {self.sweep.metric} {best.value:.5g} (trial {best.trial}, rung {best.rung + 1})"
        return f"trials {text}  ETA {self._time_to_go(rungs, step)}"

    def _time_to_go(self, rungs: Rungs, step: int | None) -> str:
        work = self._work(rungs)
        total = sum(places * self._share(rung) for rung, places in enumerate(self.sweep.places))
        if step is not None:
            work += self._running_work(rungs, step)
        gained = work - self._before
        if gained <= 0:
            return "?"
        seconds = int((time.monotonic() - self._begun) * max(0.0, total - work) / gained)
        return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"

    def _running_work(self, rungs: Rungs, step: int) -> float:
        """Return what is done of the legs that run, in whole trainings, as if all were as far as this process's."""
        if self._leg is None:
            return 0.0
        settings, rung = self._leg
        first = self.sweep.steps(settings, rung - 1) if rung else 0
        part = (step - first) / max(1, self.sweep.steps(settings, rung) - first)
        running = sum(leg.state == "running" for leg in rungs[rung].values())
        return part * running * self._share(rung)

    def _share(self, rung: int) -> float:
        """Return the part of a whole training that a rung asks for."""
        shares = self.sweep.shares
        return shares[rung] - (shares[rung - 1] if rung else 0.0)

    def _work(self, rungs: Rungs) -> float:
        """Return what is done, in whole trainings."""
        return sum(self._share(leg.rung) for leg in _ended(rungs))


def _ended(rungs: Rungs) -> list[Leg]:
    return [leg for legs in rungs for leg in legs.values() if leg.state != "running"]
