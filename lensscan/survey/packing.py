"""Any stamp source into packs: one pack per 50,000 catalog rows, resumable pack by pack."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lensscan.config import Survey
from lensscan.errors import OutputError, StampError
from lensscan.faults import reach
from lensscan.files import make_folder, replacing, sweep_temporary, temporary_files
from lensscan.schema import status_name
from lensscan.survey.catalog import Catalog, Chunk
from lensscan.survey.packfile import MAX_ROWS, PackFile, native_ids
from lensscan.survey.packwriter import PackWriter
from lensscan.survey.presence import SomeFiles
from lensscan.survey.stamps import Frame, Located, Rows, StampSource, allocate

__all__ = ["PackReport", "pack_catalog", "pack_name"]

BATCH = 256
FAILURES = "failures.csv"


@dataclass(slots=True)
class PackReport:
    """What `pack_catalog` did.

    Attributes
    ----------
    packs, kept : int
        Packs in the folder, and how many of them stood there already.
    rows, failed : int
        Rows packed, and rows that could not be read.
    """

    packs: int = 0
    kept: int = 0
    rows: int = 0
    failed: int = 0


def pack_name(number: int) -> str:
    """Return the file name of a pack."""
    return f"pack-{number:06d}.fits"


def pack_catalog(
    catalog: Catalog,
    source: StampSource,
    spec: str,
    survey: Survey,
    frame: Frame,
    folder: str | Path,
    *,
    rows_per_pack: int = MAX_ROWS,
    progress: Callable[[PackReport, int], None] | None = None,
) -> PackReport:
    """Write the stamps of a catalog into packs.

    Rows stand in storage order of what they come from (catalog order, where a stamp is a file of its own
    and files sort like the catalog).  Rows that cannot be read are listed in the pack's HDU FAILURES and in
    ``failures.csv``; a later scan finds no stamp for them and counts them as ``failed:missing_file``.

    Parameters
    ----------
    progress : callable, optional
        Called with the report so far and the number of rows of this call, after every batch.

    Raises
    ------
    ConfigError
        If none of the rows of the first pack that are tried has a file.
    OutputError
        If the folder holds packs made from something else.
    DiskError
        If the disk is full; the packs written so far stay valid, and the same call goes on after them.
    """
    folder = Path(folder)
    report = PackReport()
    tried = SomeFiles(source, spec)
    reader = source.reader()
    batch = allocate(BATCH, frame)
    try:
        for number, chunk in enumerate(catalog.chunks(rows_per_pack)):
            path = folder / pack_name(number)
            located = source.locate(chunk)
            key = _key(chunk, located, source, spec, survey, frame)
            if not _finished(path, key):
                tried.look(located.file)
                tried.require()
                make_folder(folder)
                sweep_temporary(temporary_files(path))
                rows = Rows.of(chunk, located)
                with PackWriter(path, frame, chunk.id.dtype, survey, key) as writer:
                    for start in range(0, chunk.n, BATCH):
                        stop = min(start + BATCH, chunk.n)
                        batch.clear()
                        reader.read(rows, start, stop, batch)
                        part = slice(start, stop)
                        written = writer.add(batch, rows.id[part], rows.ra[part], rows.dec[part])
                        report.rows += int(written.sum())
                        report.failed += int((~written).sum())
                        if progress:
                            progress(report, stop - start)
                    reach("pack:before_finish")
                reach("pack:after_rename")
            else:
                tried = SomeFiles(source, spec, looks=0)
                _count(path, report)
                report.kept += 1
                if progress:
                    progress(report, 0)
            report.packs = number + 1
    finally:
        reader.close()
    make_folder(folder)
    _check_surplus(folder, report.packs)
    _write_failures(folder, report.packs)
    return report


def _key(chunk: Chunk, located: Located, source: StampSource, spec: str, survey: Survey, frame: Frame) -> str:
    """Return what tells packs of the same rows, settings, files and places in files from all others."""
    digest = hashlib.sha256()
    settings = {"spec": spec, "survey": asdict(survey), "frame": asdict(frame)}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for column in (chunk.id, chunk.ra, chunk.dec, chunk.px, chunk.py):
        digest.update(np.ascontiguousarray(column).tobytes())
    digest.update(located.offset.tobytes() + located.status.tobytes())
    states: dict[str, bytes] = {}
    for path in located.file:
        if path not in states:
            states[path] = repr([_state(file) for file in source.stored_in(path)]).encode()
        digest.update(states[path])
    return digest.hexdigest()[:32]


def _state(path: str) -> tuple[str, int, int]:
    """Return (path, size, mtime_ns) of a file, with -1 for one that is not there."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return path, -1, -1
    return path, state.st_size, state.st_mtime_ns


def _finished(path: Path, key: str) -> bool:
    if not path.exists():
        return False
    try:
        pack = PackFile.open(str(path))
    except StampError as error:
        raise OutputError(f"{error.reason}; remove the file and run the same command again") from None
    try:
        if pack.header.text("PACKKEY") != key:
            raise OutputError(
                f"{path} was packed from another catalog, other files or other settings; "
                "remove it to pack its rows again, or give another folder"
            )
    finally:
        pack.close()
    return True


def _count(path: Path, report: PackReport) -> None:
    pack = PackFile.open(str(path))
    report.rows += len(pack.rows)
    report.failed += 0 if pack.failures is None else len(pack.failures)
    pack.close()


def _check_surplus(folder: Path, packs: int) -> None:
    """A folder with more packs than the catalog fills holds something else: a scan would find stale rows."""
    if (folder / pack_name(packs)).exists():
        raise OutputError(f"{folder} holds more packs than this catalog fills; give another folder")


def _failures(folder: Path, packs: int) -> Iterator[tuple[object, str]]:
    for number in range(packs):
        pack = PackFile.open(str(folder / pack_name(number)))
        if pack.failures is not None:
            ids = native_ids(pack.failures["ID"], pack.header)
            for name, status in zip(ids.tolist(), pack.failures["STATUS"].tolist(), strict=True):
                yield name, status_name(status).removeprefix("failed:")
        pack.close()


def _write_failures(folder: Path, packs: int) -> None:
    with replacing(folder / FAILURES) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "reason"])
        writer.writerows(_failures(folder, packs))
