"""A sweep on one rank: take the next leg from the journal, train it, write how it ended, until none is left."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lensscan import faults
from lensscan.errors import ExitCode, LensscanError, ModelError, OutputError, PlanMismatch, file_error
from lensscan.files import make_folder, replacing
from lensscan.mocks.recipes import load_recipe
from lensscan.mpi import World
from lensscan.train.sweep.journal import Claim, Journal, Rungs
from lensscan.train.sweep.owner import Owner
from lensscan.train.sweep.progress import Progress
from lensscan.train.sweep.settings import Sweep
from lensscan.train.sweep.table import Row, rows, write_best, write_picture, write_table
from lensscan.train.sweep.trial import Bench, costs_a_trial

__all__ = ["SweepRun"]

NAP, NAP_PER_RANK, LOOK, NEWS = 1.0, 0.02, 0.2, 30.0  # seconds


@dataclass(slots=True)
class SweepRun:
    """A sweep, its folder, and this rank's part in it.

    Attributes
    ----------
    sweep : Sweep
    folder : Path
        Holds the journal, the trials and the results.
    device : torch.device
    world : World
        The ranks share nothing but the folder; messages only pass a stop on.
    stop : callable
        Returns the exit code of a stop that was asked for.
    report : callable
        Takes progress lines, on rank 0.
    retry_failed : bool
        Whether trials that have failed by now are tried again.
    """

    sweep: Sweep
    folder: Path
    device: torch.device
    world: World
    stop: Callable[[], ExitCode | None]
    report: Callable[[str], None]
    retry_failed: bool = False
    _code: ExitCode | None = None
    _looked: float = 0.0
    _dead: set[int] = field(default_factory=set)

    def run(self) -> tuple[ExitCode, list[Row]]:
        """Do the trials that are left, together with whatever other process works in this folder.

        Returns
        -------
        code : ExitCode
            ``OK`` if all trials are done, else the stop's.
        table : list of Row
            Of the rank that wrote the results; empty on others.

        Raises
        ------
        PlanMismatch
            If the folder belongs to another sweep.
        ModelError
            If no trial succeeded.
        LensscanError
            If a trial broke off by no fault of its settings; it is left to whoever comes next.
        """
        recipe = load_recipe(self.sweep.training["recipe"])
        self.sweep.check_metric(recipe)
        self._keep_identity(recipe.digest)
        bench = Bench(recipe, self.device, self.world.local_size)
        bench.check(self.sweep.first)
        with Owner(self.folder / "alive") as owner:
            journal = Journal(self.folder, self.sweep, owner)
            report = self.report if self.world.rank == 0 else None
            if self.retry_failed and (again := journal.retry_failed()) and report is not None:
                report(f"failed trials that are tried again: {again}")
            progress = Progress(self.sweep, journal.rungs(), report)
            code = self._work(journal, bench, progress)
            if code == ExitCode.OK:
                self._await_results(journal)
            if self.world.rank != self._writer():
                return code, []
            return code, self._results(journal.rungs(), code == ExitCode.OK)

    def _work(self, journal: Journal, bench: Bench, progress: Progress) -> ExitCode:
        while True:
            progress.look(journal.rungs)
            code = self._asked()
            if code is not None:
                return code
            claim = journal.claim()
            if claim == "done":
                return ExitCode.OK
            if isinstance(claim, str):
                self._nap()
                continue
            faults.reach("sweep:claimed")
            code = self._train(claim, journal, bench, progress)
            if code is not None:
                return code

    def _nap(self) -> None:
        """Wait for other ranks, a second or, where many wait, longer; a stop ends it."""
        end = time.monotonic() + max(NAP, self.world.size * NAP_PER_RANK)
        while time.monotonic() < end and self._asked() is None:
            time.sleep(LOOK)

    def _train(self, claim: Claim, journal: Journal, bench: Bench, progress: Progress) -> ExitCode | None:
        """Train one leg and write how it ended; returns the code of a stop."""
        begun = time.monotonic()
        folder = self.folder / "trials" / f"{claim.trial:04d}"
        values = {key: parameter.value(claim.params[key]) for key, parameter in self.sweep.space.items()}
        outside: list[Exception] = []

        def stop(step: int) -> ExitCode | None:
            try:
                progress.look(journal.rungs, step)
                return self._asked()
            except Exception as error:  # of the journal, or of MPI: the trial stops with a checkpoint
                outside.append(error)
                return ExitCode.ERROR

        try:
            settings = self.sweep.training_of(values, f"trial {claim.trial}")
            make_folder(folder)
            step = self.sweep.steps(settings, claim.rung)
            progress.begin(settings, claim.rung)
            found = bench.advance(settings, folder, step, self.sweep.metric, stop)
            if outside:
                raise outside[0]
        except Exception as error:
            self._require_own(claim, error, bench, outside)
            claim.failed(_line(error), _since(begun))
            return None
        if isinstance(found, ExitCode):
            claim.leave()
            return found
        faults.reach("sweep:trained")
        claim.done(found, _since(begun))
        return None

    def _require_own(self, claim: Claim, error: Exception, bench: Bench, outside: list[Exception]) -> None:
        """Return if a trial's own settings caused an error; else leave the trial and raise what is to mend.

        So no sick device, and nothing that all trials share, marks one trial after another as failed.
        """
        if not outside and costs_a_trial(error):
            try:
                bench.check(self.sweep.first)
                return
            except LensscanError as shared:
                error = shared
        with suppress(Exception):  # a journal that cannot be written: our death says the same
            claim.leave()
        if isinstance(error, LensscanError):
            raise error
        where = f"{type(error).__name__} on {os.uname().nodename}, {self.device}"
        raise file_error(error) or LensscanError(
            f"trial {claim.trial} broke off by no fault of its settings: {_line(error)} ({where}); "
            "it is left as it was: mend that, and run the same command again"
        ) from error

    def _asked(self) -> ExitCode | None:
        """Return the stop that any rank heard; rank 0 passes it on to all."""
        now = time.monotonic()
        if self._code is None:
            heard = self.stop()
            if heard is None and now - self._looked > LOOK:
                self._looked = now
                message = self.world.receive()
                heard = ExitCode(message[1][0]) if message is not None else None
                self._dead.update(self.world.dead())
            if heard is not None:
                self._code = heard
                others = range(1, self.world.size) if self.world.rank == 0 else (0,)
                for rank in others:
                    self.world.send(rank, bytes([int(heard)]))
        return self._code

    def _await_results(self, journal: Journal) -> None:
        """Wait until the writer has written: it may be dead, and the news of it on the way."""
        table, end = self.folder / "trials.csv", time.monotonic() + NEWS
        while self.world.rank != self._writer() and time.monotonic() < end:
            if table.exists() and table.stat().st_mtime >= journal.path.stat().st_mtime:
                return
            time.sleep(LOOK)

    def _writer(self) -> int:
        """Return the first rank that lives."""
        self.world.receive()
        self._dead.update(self.world.dead())
        return min(set(range(self.world.size)) - self._dead)

    def _keep_identity(self, recipe_digest: str) -> None:
        """Write down what the sweep is, or compare it with what stands there.

        Raises
        ------
        PlanMismatch
            If the folder belongs to another sweep; names what differs.
        """
        path = self.folder / "sweep.json"
        mine = json.loads(json.dumps({**self.sweep.identity, "recipe_digest": recipe_digest}))
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"cannot read {path} ({error}); give another -o") from None
        if found != mine:
            raise PlanMismatch(
                f"{self.folder} holds another sweep ({_difference(found, mine)} differs); give another -o, or remove it"
            )

    def _results(self, rungs: Rungs, complete: bool) -> list[Row]:
        """Write table, picture and best training; of a sweep that was stopped, the table."""
        table = rows(self.sweep, rungs)
        write_table(self.sweep, table, self.folder / "trials.csv")
        if not complete:
            return table
        if all(row.rung == 0 for row in table):
            raise ModelError(
                f"all {len(table)} trials failed, the first with: {table[0].reason}; see {self.folder}/trials.csv"
            )
        write_picture(self.sweep, table, self.folder / "parallel.png")
        write_best(self.sweep, table, self.folder / "best.toml")
        return table


def _difference(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> str:
    """Return the key of the first difference between two nested mappings."""
    for key in [*a, *b]:
        if a.get(key) != b.get(key):
            name = f"{path}{key}"
            if isinstance(a.get(key), Mapping) and isinstance(b.get(key), Mapping):
                return _difference(a[key], b[key], f"{name}.")
            return name
    return path


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 2)
