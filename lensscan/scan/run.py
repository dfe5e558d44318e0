"""One scan from settings to exit code, on every rank."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensscan import faults
from lensscan.errors import ExitCode, LensscanError, OutputError, PlanMismatch
from lensscan.mpi import World, abort
from lensscan.process import release_memory, tune_allocator
from lensscan.scan import shards
from lensscan.scan.engine import build_engine
from lensscan.scan.finished import finished_output, merge_settings, replaced_by, verdict
from lensscan.scan.plan import Plan
from lensscan.scan.rank import serve
from lensscan.scan.root import Root
from lensscan.scan.settings import ScanSettings
from lensscan.scan.signals import StopRequest

if TYPE_CHECKING:
    from lensscan.scan.merge import MergeReport
    from lensscan.scan.planning import Planner

__all__ = ["run_scan"]

log = logging.getLogger(__name__)
MAX_ROOT_SCORING_RANKS = 256
FINALIZE_SECONDS = 20.0


def run_scan(settings: ScanSettings, world: World, argv: Sequence[str] = ()) -> int:
    """Run this rank's part of a scan and return the exit code that all ranks share.

    A user's error ends every rank in order; an unforeseen exception aborts the job, non-zero, so that no
    rank is left waiting.
    """
    tune_allocator()
    stop = StopRequest(settings.max_seconds)
    stop.install()
    try:
        if world.rank == 0:
            code = _run_root(settings, world, stop, argv)
        else:
            code, hangs = serve(world, lambda: build_engine(settings, world.local_size), stop)
            _finalize(world, code, hangs)
    except LensscanError as error:
        if world.rank != 0:
            abort(world, error.exit_code, f"lensscan scan: rank {world.rank}: error: {error}")
        raise
    except BaseException:
        if world.size > 1:
            abort(world, ExitCode.ERROR, f"lensscan scan: rank {world.rank}: {traceback.format_exc()}")
        raise
    return code


def _finalize(world: World, code: int, force: bool = False) -> None:
    """Leave MPI; a rank that hangs there (its peers may be dead) leaves by force after a while.

    With `force` the process ends here: a thread was left behind, and the interpreter's end would wait for it.
    """
    watchdog = threading.Timer(FINALIZE_SECONDS, lambda: os._exit(code))
    watchdog.daemon = True
    watchdog.start()
    world.finalize()
    watchdog.cancel()
    if force:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_root(settings: ScanSettings, world: World, stop: StopRequest, argv: Sequence[str]) -> int:
    root = Root(world, settings, stop, lambda: build_engine(settings, world.local_size))
    try:
        code = _scan(root, settings, argv)
    except LensscanError as error:
        root.leave(int(error.exit_code))
        _finalize(world, int(error.exit_code))
        raise
    _finalize(root.world, int(code), root.abandoned or (root.worker is not None and root.worker.hangs()))
    return int(code)


def _scan(root: Root, settings: ScanSettings, argv: Sequence[str]) -> int:
    """Plan, score, merge; return the exit code."""
    from lensscan.scan.planning import Planner

    planner = root.during(lambda: Planner(settings, root.say))
    if planner is None:
        return _stopped(root, "before planning")
    out = Path(settings.output)
    merge_settings(planner, settings)  # what is wrong there is better known before the work than after it
    finished = root.during(lambda: finished_output(planner, out, settings))
    if root.abandoned:
        return _stopped(root, "before planning")
    if finished is not None:
        root.say(f"{out} is complete for this plan and these settings; nothing to do")
        _leave_finished(root, settings, finished)
        return finished
    root.enter()
    root.note(
        "attempt",
        argv=list(argv),
        size=root.world.size,
        mpi=root.world.vendor,
        host=os.uname().nodename,
        **_job(),
    )
    root.sweep()
    plan = root.during(lambda: _plan(planner, root, settings))
    if plan is None:
        return _stopped(root, "during planning")
    release_memory()
    if not plan.n_rows:
        root.warn(
            f"none of the {plan.n_catalog:,} catalog rows is selected: there is nothing to score, the output is empty"
        )
    done = root.ledger(plan)
    if done is None:
        return _stopped(root, "while finished blocks were verified")
    if done:
        root.say(f"resuming: {len(done)} of {len(plan.blocks)} blocks stand")
    _look_at_space(root, planner.disk_bytes(sum(b - a for n, a, b in plan.block_rows() if n not in done)))
    scheduler = root.score(plan, done, _root_scores(settings, root.world))
    if not scheduler.complete:
        code = scheduler.draining or root.fatal_code or ExitCode.INCOMPLETE
        left = len(plan.blocks) - len(scheduler.done)
        root.say(f"incomplete: {left} of {len(plan.blocks)} blocks are left; run the same command again")
        root.leave(code)
        return int(code)
    return _conclude(root, lambda: _merge(planner, plan, root, settings, argv), settings)


def _look_at_space(root: Root, needed: int) -> None:
    """Warn of a disk that has less room than the run needs; a quota does not show here, but ends it in order."""
    free = shutil.disk_usage(root.settings.run_dir).free
    if free < needed:
        root.warn(
            f"{free / 1e9:.3g} GB are free in {root.settings.run_dir.absolute().parent}, the scan needs about "
            f"{needed / 1e9:.3g} GB; free space now, or resume with the same command when the disk is full"
        )


def _conclude(root: Root, merge: Callable[[], MergeReport], settings: ScanSettings) -> int:
    """Merge, say what came of it and leave; return the exit code."""
    report = root.during(merge)
    if report is None:
        return _stopped(root, "during the merge")
    code = verdict(report.n_failed, report.n_rows, settings)
    for line in report.lines():
        root.say(line)
    if code != ExitCode.OK:
        root.say(
            f"{report.n_failed:,} of {report.n_rows:,} rows failed, more than max_failed = {settings.max_failed:g} "
            f"allows (exit code {code}); lensscan show {settings.output} tells why"
        )
    root.leave(code, remove=not settings.keep_shards)
    return int(code)


def _leave_finished(root: Root, settings: ScanSettings, code: int) -> None:
    """Leave a finished output, removing the run folder of an attempt that died after its merge or is unwanted."""
    leftover = (settings.run_dir / "plan.h5").exists()
    if leftover and (not settings.keep_shards or replaced_by(Path(settings.output))):
        root.enter()
        root.leave(code, remove=True)
    else:
        root.leave(code)


def _stopped(root: Root, where: str) -> int:
    code = int(root.stop.code or ExitCode.INCOMPLETE)
    root.say(f"stopped {where} ({root.stop.reason}); run the same command again")
    root.leave(code)
    return code


def _root_scores(settings: ScanSettings, world: World) -> bool:
    if settings.root_scores != "auto" or world.size == 1:
        return world.size == 1 or settings.root_scores == "yes"
    return world.size <= MAX_ROOT_SCORING_RANKS


def _plan(planner: Planner, root: Root, settings: ScanSettings) -> Plan:
    path = settings.run_dir / "plan.h5"
    if path.exists():
        try:
            return planner.resume(path)
        except (PlanMismatch, OutputError) as error:
            if not settings.overwrite:
                raise
            root.say(f"overwriting: {str(error).partition(';')[0]}")
        fresh = planner.make(path.with_name("plan-again.h5"))  # nothing goes before it is known that there can be one
        # first the shards: a plan of the same hash may be made of other pixels
        removed = shards.remove_shards(settings.run_dir)
        os.replace(fresh.path, path)
        root.say(f"shards of another plan or other stamps removed: {removed}")
        return Plan.open(path)
    return planner.make(path)


def _merge(planner: Planner, plan: Plan, root: Root, settings: ScanSettings, argv: Sequence[str]) -> MergeReport:
    from lensscan.scan.merge import MergeSettings, merge
    from lensscan.scan.provenance import collect

    release_memory()
    planner.require_pixels(plan.storage, f"the plan in {settings.run_dir} was made", gone=False, scored=True)
    faults.reach("merge:before")
    provenance = collect(planner, plan, settings, root.world, argv, root.log_path)
    settings_of_merge = MergeSettings(**merge_settings(planner, settings))
    return merge(
        plan, settings.run_dir, Path(settings.output), settings_of_merge, planner.cards, provenance, planner.regressor
    )


def _job() -> dict[str, Any]:
    from lensscan.scan.lock import job_id

    return {"job": job_id(), "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
