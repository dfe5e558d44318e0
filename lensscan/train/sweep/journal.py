"""The journal: optuna's append-only file, in which every process finds the next trial and writes how it ended.

Each rung is a study of its own, for its values belong to one budget.  Finding the next leg and entering it
happens under a lock file made with O_EXCL, which is atomic on local disks, Lustre, GPFS and NFS from version
3 on; a lock whose owner died is broken after 30 s.  Should two processes enter the same leg all the same, both
compute the same bytes: that costs time, not truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lensscan import faults
from lensscan.errors import ConfigError, OutputError
from lensscan.files import make_folder
from lensscan.train.sweep.logfile import LockFile, LogFile
from lensscan.train.sweep.owner import Owner
from lensscan.train.sweep.schedule import Leg, Plan, next_leg
from lensscan.train.sweep.settings import Sweep
from lensscan.train.sweep.space import draw

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Claim", "Journal"]

Rungs = list[dict[int, Leg]]
RETRIED = "retried"
"""Attribute of a study: numbers of its failed entries that do not count any more."""


class Claim:
    """A leg that this process has entered: train it, then say how it ended, or leave it for another."""

    def __init__(self, study: Study, asked: Trial, rung: int) -> None:
        self._study, self._asked, self.rung = study, asked, rung
        self.trial = int(asked.user_attrs["trial"])
        self.params = dict(asked.params)

    def done(self, value: float, seconds: float) -> None:
        """Enter the metric's value and the seconds of training."""
        self._tell({"seconds": seconds}, value)

    def failed(self, reason: str, seconds: float) -> None:
        """Enter that the trial cannot be trained, and why."""
        self._tell({"seconds": seconds, "reason": reason})

    def leave(self) -> None:
        """Leave the leg to whoever comes next."""
        self._tell({})

    def _tell(self, attributes: Mapping[str, Any], value: float | None = None) -> None:
        import optuna

        try:
            for key, entry in attributes.items():
                self._asked.set_user_attr(key, entry)
        except optuna.exceptions.UpdateFinishedTrialError:  # we were taken for dead; another does it again
            return
        state = None if value is not None else optuna.trial.TrialState.FAIL
        faults.reach("sweep:told")
        self._study.tell(self._asked, value, state=state, skip_if_finished=True)


class Journal:
    """The journal of a sweep's folder.

    Parameters
    ----------
    folder : Path
    sweep : Sweep
    owner : Owner
        This process.

    Raises
    ------
    ConfigError
        If optuna is not installed.
    OutputError
        If the journal cannot be read.
    """

    def __init__(self, folder: Path, sweep: Sweep, owner: Owner) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(f"a sweep needs optuna ({error}); pip install 'lensscan[sweep]'") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        make_folder(folder)
        self.path, self.sweep, self.owner = folder / "journal.log", sweep, owner
        self._queue = LockFile(folder / "queue")
        with self._queue.held():
            file: Any = LogFile(self.path)
            file.mend()
            try:
                storage = optuna.storages.JournalStorage(file)
            except (ValueError, KeyError) as error:
                raise OutputError(f"cannot read {self.path} ({error}); give another -o") from None
            self._studies = [self._study(storage, rung) for rung in range(len(sweep.shares))]

    def _study(self, storage: JournalStorage, rung: int) -> Study:
        """Return the study of a rung; made once, so that opening the journal writes nothing."""
        import optuna
        from optuna.study import StudyDirection

        name, sampler = f"{self.sweep.metric} at rung {rung + 1}", optuna.samplers.RandomSampler(seed=0)
        try:
            return optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        except KeyError:
            direction = StudyDirection.MAXIMIZE if self.sweep.sign > 0 else StudyDirection.MINIMIZE
            return optuna.create_study(study_name=name, storage=storage, sampler=sampler, direction=direction)

    def rungs(self) -> Rungs:
        """Return the legs of each rung by trial; what was left in the midst does not count."""
        found: Rungs = []
        for rung, study in enumerate(self._studies):
            legs: dict[int, Leg] = {}
            retried = study.user_attrs.get(RETRIED, ())
            for entry in study.get_trials(deepcopy=False):
                leg = None if entry.number in retried else _leg(entry, rung)
                if leg is not None and (leg.trial not in legs or legs[leg.trial].state == "running"):
                    legs[leg.trial] = leg
            found.append(legs)
        return found

    def retry_failed(self) -> int:
        """Let the trials that have failed count as never begun; return how many those are."""
        count = 0
        with self._queue.held():
            for rung, study in enumerate(self._studies):
                before = list(study.user_attrs.get(RETRIED, ()))
                legs = {entry.number: _leg(entry, rung) for entry in study.get_trials(deepcopy=False)}
                failed = [number for number, leg in legs.items() if leg is not None and leg.state == "failed"]
                fresh = [number for number in failed if number not in before]
                if fresh:
                    study.set_user_attr(RETRIED, before + fresh)
                count += len(fresh)
        return count

    def claim(self) -> Claim | Literal["wait", "done"]:
        """Enter the next leg, after putting back those of dead processes; or say that none is left to begin."""
        import optuna

        with self._queue.held():
            self._put_back()
            waiting = (optuna.trial.TrialState.WAITING,)
            for rung, study in enumerate(self._studies):
                if study.get_trials(deepcopy=False, states=waiting):  # a process died between the next two writes
                    return self._take(rung)
            found = next_leg(self.rungs(), Plan(self.sweep.places, self.sweep.sign))
            if isinstance(found, str):
                return found
            trial, rung = found
            entry = optuna.trial.create_trial(
                state=waiting[0],
                params=self._params(trial),
                distributions={key: parameter.distribution() for key, parameter in self.sweep.space.items()},
                user_attrs={"trial": trial, "owner": self.owner.name},
            )
            self._studies[rung].add_trial(entry)
            faults.reach("sweep:entered")
            return self._take(rung)

    def _take(self, rung: int) -> Claim:
        asked = self._studies[rung].ask()
        if asked.user_attrs["owner"] != self.owner.name:
            asked.set_user_attr("owner", self.owner.name)
        return Claim(self._studies[rung], asked, rung)

    def _params(self, trial: int) -> dict[str, Any]:
        """Return what was drawn for a trial: once in the journal, it stays, whatever the library draws later."""
        for study in self._studies:
            for entry in study.get_trials(deepcopy=False):
                if entry.user_attrs["trial"] == trial:
                    return dict(entry.params)
        return draw(self.sweep.space, self.sweep.seed, trial)

    def _put_back(self) -> None:
        """Mark as failed, without a reason, what dead processes have left running: it will be entered again."""
        from optuna.trial import TrialState

        for study in self._studies:
            for entry in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if not self.owner.alive(entry.user_attrs["owner"]):
                    study.tell(entry.number, state=TrialState.FAIL, skip_if_finished=True)


def _leg(entry: FrozenTrial, rung: int) -> Leg | None:
    """Return the leg that an entry of the journal tells of; None if it was left in the midst."""
    from optuna.trial import TrialState

    notes = entry.user_attrs
    trial, reason, seconds = int(notes["trial"]), notes.get("reason", ""), notes.get("seconds", math.nan)
    if entry.state == TrialState.COMPLETE and entry.value is not None:
        return Leg(trial, rung, "done", entry.params, entry.value, seconds=seconds)
    if entry.state == TrialState.FAIL:
        return Leg(trial, rung, "failed", entry.params, reason=reason, seconds=seconds) if reason else None
    return Leg(trial, rung, "running", entry.params)
