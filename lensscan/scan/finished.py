"""An output that stands: whether a command would only make it again, and whether an unfinished run replaces it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensscan.errors import ExitCode, LensscanError, OutputError, PlanMismatch
from lensscan.scan.plan import Plan
from lensscan.scan.settings import MERGE_FIELDS, ScanSettings, canonical
from lensscan.scan.storage import contents

if TYPE_CHECKING:
    from lensscan.scan.planning import Planner

__all__ = ["finished_output", "merge_settings", "replaced_by", "verdict"]


def finished_output(planner: Planner, out: Path, settings: ScanSettings) -> int | None:
    """Return the exit code of an output that is already what this command would make, None if there is none.

    Raises
    ------
    OutputError, PlanMismatch
        If the output belongs to another plan and `overwrite` is not set, or its shards are gone.
    """
    if not out.exists():
        return None
    try:
        _require_same(planner, out)
        code = _code_of(planner, out, settings)
        if code is not None and not settings.overwrite and replaced_by(out):
            raise OutputError(
                f"{out} is complete, but {settings.run_dir} is an unfinished run of another plan that is to replace "
                "it; remove that folder (--overwrite does), or finish that run"
            )
    except LensscanError as error:
        if settings.overwrite and isinstance(error, (OutputError, PlanMismatch)):
            return None
        raise
    return code


def _require_same(planner: Planner, out: Path) -> None:
    """Refuse an output of other settings, another catalog or other pixels."""
    from lensscan.candidates.file import open_output, read_header, read_provenance

    stored = read_provenance(out)
    planner.require_same(stored["plan_settings"], str(out))
    planner.require_pixels(stored.get("storage", []), f"{out} was made", gone=False)
    if canonical(stored["fingerprint"]) == canonical(planner.fingerprint):
        return
    fresh = planner.make(out.with_name(out.name + ".plan-again.h5"), storage=())
    fresh.path.unlink(missing_ok=True)
    header = read_header(out)
    with open_output(out) as h5:
        flow = h5["cutflow"][()]
    same = (fresh.plan_hash, fresh.n_catalog) == (header.plan_hash, header.n_catalog)
    if not same or fresh.cutflow.tolist() != flow.tolist():
        raise OutputError(
            f"{out} was made from another state of the catalog; choose another output, or give --overwrite"
        )


def _code_of(planner: Planner, out: Path, settings: ScanSettings) -> int | None:
    """Return the exit code of an output of this plan, None if it is to be merged anew."""
    from lensscan.candidates.file import read_header

    header = read_header(out)
    wanted = merge_settings(planner, settings)
    if settings.ensemble is not None:
        wanted["ensemble"] = wanted["ensemble"].stored()
    if all(canonical(header.merge_settings.get(name)) == canonical(value) for name, value in wanted.items()):
        return verdict(header.n_failed, header.n_rows, settings)
    if not (settings.run_dir / "plan.h5").exists():
        raise OutputError(
            f"{out} was merged with other settings and its shards are gone; choose another output, or give --overwrite "
            "(keep_shards = true allows a new merge without scoring again)"
        )
    return None


def replaced_by(out: Path) -> Path | None:
    """Return the run folder beside an output if it holds a run of another plan, or of other pixels.

    Raises
    ------
    OutputError
        If output or plan cannot be read.
    """
    from lensscan.candidates.file import read_header, read_provenance

    path = Path(f"{out}.run") / "plan.h5"
    if not path.exists():
        return None
    plan = Plan.open(path)
    same = plan.plan_hash == read_header(out).plan_hash
    same = same and contents(plan.storage) == contents(read_provenance(out).get("storage", []))
    return None if same else path.parent


def merge_settings(planner: Planner, settings: ScanSettings) -> dict[str, Any]:
    """Return what acts at the merge only."""
    from lensscan.candidates.ensemble import read_ensemble

    values = {name: getattr(settings, name) for name in MERGE_FIELDS}
    values["prevalence"] = planner.prevalence
    if settings.ensemble is not None:
        values["ensemble"] = read_ensemble(settings.ensemble)
        values["ensemble"].require(planner.cards, settings.views, settings.ensemble)
    return values


def verdict(n_failed: int, n_selected: int, settings: ScanSettings) -> int:
    """Return the exit code of a complete scan."""
    too_many = n_failed > settings.max_failed * n_selected
    return int(ExitCode.TOO_MANY_FAILED if too_many else ExitCode.OK)
