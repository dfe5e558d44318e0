"""From the ranked candidates of an output to their images: what is asked for, where values come from, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.agreement import HEAD, Agreement, compare
from lensscan.candidates.file import read_candidates
from lensscan.candidates.imagetable import image_table
from lensscan.candidates.positions import Prediction, predict, true_images
from lensscan.candidates.sampling import Posteriors, Summaries, draw
from lensscan.candidates.sky import project
from lensscan.candidates.stamps import CandidateStamps
from lensscan.candidates.summary import clean_leaders, format_table
from lensscan.errors import ConfigError, LensscanError, OutputError, read_reason
from lensscan.lens.cosmology import time_delay_scale
from lensscan.schema import PARAMETERS

if TYPE_CHECKING:
    from astropy.table import QTable, Table

__all__ = ["ImageReport", "ImageRequest", "predict_images"]

BATCH = 64
ABOVE = 0.8
"""Arcsec; HOLISMOKES IV states its image positions for true Einstein radii above this."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What is asked for.

    Attributes
    ----------
    n : int
        Candidates, best first; groups count once.
    clean : bool
        Leave out candidates with a warning flag.
    samples, seed : int
        Posterior samples of each candidate, and what chooses them together with its id.
    z_lens, z_source : tuple of str
        Column, default value, or both: the default holds where the column has no value.
    cosmology : str
        Name of one of astropy's.
    table : str or None
        Table with ``id`` and the columns named here; without, they are catalog columns of the output.
    first_image, true_source : tuple of str or None
        Columns of the known position: arcsec about the candidates' origin, or RA and Dec with `sky`.
    sky : bool
    truth : str or None
        Table of true lenses (``id theta_E e1 e2 x y sx sy``, if there ``gamma1 gamma2``): gives both known
        positions and the comparison with true images.
    """

    n: int = 100
    clean: bool = False
    samples: int = 500
    seed: int = 0
    z_lens: tuple[str, ...] = ("0.5",)
    z_source: tuple[str, ...] = ("2.0",)
    cosmology: str = "Planck18"
    table: str | None = None
    first_image: tuple[str, str] | None = None
    true_source: tuple[str, str] | None = None
    sky: bool = False
    truth: str | None = None


@dataclass(slots=True)
class ImageReport:
    """Predicted images, and what a reader must know about them.

    Attributes
    ----------
    candidates : QTable
        The n candidates.
    predictions : list of Prediction
        One per mode.
    table : QTable
        One row per candidate, mode and image.
    agreement : list of Agreement
        With the truth, if given.
    notes : list of str
    """

    candidates: QTable
    predictions: list[Prediction]
    table: QTable
    agreement: list[Agreement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self, top: int = 10) -> list[str]:
        """Return the summary, with the `top` candidates of each mode."""
        lines = [f"note: {note}" for note in self.notes]
        for prediction in self.predictions:
            lines += ["", *_mode_lines(self.candidates, prediction, top)]
        if self.agreement:
            lines += ["", "later images against the truth, matched by order of arrival (median +84 % -16 %)"]
            lines += format_table(HEAD, [figures.cells() for figures in self.agreement])
        return lines


class _Columns:
    """Finds float columns by name: in the user's tables by id, else among the output's."""

    def __init__(self, candidates: QTable, tables: Sequence[str]) -> None:
        self.candidates = candidates
        self.ids = [_text(value) for value in candidates["id"].tolist()]
        self.tables = [(path, *_read_table(path)) for path in tables]

    def get(self, name: str, option: str) -> Array:
        """Return the values (n,), NaN where there is none.

        Raises
        ------
        ConfigError
            If no table has the column, or it holds no numbers.
        """
        for _, table, rows in self.tables:
            if name in table.colnames:
                found = np.array([rows.get(text, -1) for text in self.ids])
                return np.where(found >= 0, _floats(table[name], name, option)[found], np.nan)
        for own in (f"cat_{name}".replace("/", "_"), name):
            if own in self.candidates.colnames:
                return _floats(self.candidates[own], name, option)
        where = " or ".join([path for path, _, _ in self.tables] + ["the output's catalog columns"])
        raise ConfigError(f"{option} {name}: no such column in {where}; name one with --table, or keep it in the scan")

    def pair(self, names: Sequence[str], option: str) -> Array:
        """Return two columns, (n, 2)."""
        return np.stack([self.get(name, option) for name in names], axis=1)


def predict_images(path: str | Path, request: ImageRequest) -> ImageReport:
    """Predict the images of an output's candidates.

    Parameters
    ----------
    path : str or Path
        An output of ``lensscan scan``.
    request : ImageRequest

    Raises
    ------
    ConfigError
        If the request names what is not there.
    OutputError
        If a file cannot be read, or there is no candidate.
    """
    table = clean_leaders(read_candidates(path), request.clean)[: request.n]
    if not len(table):
        raise OutputError(f"{path} has no {'clean ' if request.clean else ''}candidate to predict images of")
    columns = _Columns(table, [name for name in (request.table, request.truth) if name])
    cosmology = _cosmology(request.cosmology)
    redshifts = {
        name: _redshift(columns, getattr(request, name), f"--{name.replace('_', '-')}")
        for name in ("z_lens", "z_source")
    }
    scale = time_delay_scale(redshifts["z_lens"][0], redshifts["z_source"][0], cosmology)
    wcs, notes = _wcs(path, table)
    samples = draw(Posteriors.of(Summaries.of(table)), columns.ids, request.samples, request.seed)
    known = _known(columns, request, wcs)
    truth = _truth(columns, request)
    true = true_images(truth, scale) if truth else None
    if true is not None and truth is not None:
        known.setdefault("first_image", np.stack([true.x[:, 0], true.y[:, 0]], axis=1))
        known.setdefault("true_source", np.stack([truth["sx"], truth["sy"]], axis=1))
    predictions = [predict(samples, scale)]
    predictions += [predict(samples, scale, mode, place) for mode, place in known.items()]
    meta = _meta(path, table, request, cosmology, redshifts)
    report = ImageReport(table, predictions, image_table(table, predictions, redshifts, wcs, meta))
    report.notes = [*_redshift_notes(redshifts, scale, request.cosmology, cosmology), *notes]
    if true is not None and truth is not None:
        for prediction in predictions:
            report.agreement += [compare(prediction, true, truth["theta_E"], above) for above in (0.0, ABOVE)]
        slope = columns.get("slope", "--truth") if _has(columns, "slope") else np.full(len(table), 2.0)
        if np.nanmax(np.abs(slope - 2.0), initial=0.0) > 0:
            report.notes.append(
                "the truth's mass profiles are not isothermal; the true images are those of isothermal ones"
            )
    return report


def _known(columns: _Columns, request: ImageRequest, wcs: Array) -> dict[str, Array]:
    """Return mode -> known positions (n, 2) in arcsec."""
    known = {}
    for mode, names in (("first_image", request.first_image), ("true_source", request.true_source)):
        if names is not None:
            place = columns.pair(names, f"--{mode.replace('_', '-')}")
            known[mode] = np.stack(project(wcs, place[:, 0], place[:, 1]), axis=1) if request.sky else place
    return known


def _truth(columns: _Columns, request: ImageRequest) -> dict[str, Array] | None:
    if request.truth is None:
        return None
    truth = {name: columns.get(name, "--truth") for name in PARAMETERS}
    return truth | {name: columns.get(name, "--truth") for name in ("gamma1", "gamma2") if _has(columns, name)}


def _has(columns: _Columns, name: str) -> bool:
    return any(name in table.colnames for _, table, _ in columns.tables)


def _redshift(columns: _Columns, words: Sequence[str], option: str) -> tuple[Array, list[str]]:
    """Return the redshifts and where each comes from: the column's value, else the default, else NaN."""
    values, origin = np.full(len(columns.ids), np.nan), np.full(len(columns.ids), "", dtype=object)
    for word in words:
        number = _number(word)
        new = np.full(len(values), number) if number is not None else columns.get(word, option)
        if number is not None and not 0 < number < 20:
            raise ConfigError(f"{option} {word}: a redshift lies between 0 and 20")
        use = np.isnan(values) & np.isfinite(new) & (new > 0)
        values[use], origin[use] = new[use], "assumed" if number is not None else f"column {word}"
    return values, [text or "unknown" for text in origin]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _cosmology(name: str) -> Any:
    import astropy.cosmology

    if name not in astropy.cosmology.available:
        raise ConfigError(f"--cosmology {name}: astropy has {', '.join(sorted(astropy.cosmology.available))}")
    return getattr(astropy.cosmology, name)


def _wcs(path: str | Path, table: QTable) -> tuple[Array, list[str]]:
    """Return the stamps' WCS (n, 6), read again; NaN, and a note, where they cannot be had."""
    wcs = np.full((len(table), 6), np.nan)
    try:
        with CandidateStamps(path) as stamps:
            for start in range(0, len(table), BATCH):
                page = table[start : start + BATCH]
                wcs[start : start + len(page)] = stamps.read(page).wcs[: len(page)]
    except LensscanError as error:
        return wcs, [f"no sky positions, because the stamps cannot be read again: {error}"]
    lacking = int(np.isnan(wcs).any(axis=1).sum())
    return wcs, [f"no sky positions for {lacking} candidates without a WCS"] if lacking else []


def _read_table(path: str) -> tuple[Table, dict[str, int]]:
    from astropy.io.registry import IORegistryError
    from astropy.table import Table

    try:
        table = Table.read(path, character_as_bytes=False) if path.endswith((".h5", ".hdf5")) else Table.read(path)
        column = {name.lower(): name for name in table.colnames}["id"]
    except IORegistryError:
        what = "not a table by its ending" if Path(path).is_file() else "no such file"
        raise OutputError(f"cannot use {path}: {what}; give a table with a column id") from None
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise OutputError(f"cannot use {path}: {read_reason(error)}; give a table with a column id") from None
    ids = [_text(value) for value in table[column].tolist()]
    twice = [text for text, count in Counter(ids).items() if count > 1]
    if twice:
        raise ConfigError(f"{path}: id {twice[0]} stands there {Counter(ids)[twice[0]]} times; keep one row an id")
    return table, {text: row for row, text in enumerate(ids)}


def _floats(column: Any, name: str, option: str) -> Array:
    values = np.ma.asarray(getattr(column, "value", column))
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        raise ConfigError(f"{option} {name}: the column holds no numbers; name another one")
    return np.ma.filled(values.astype(np.float64), np.nan)


def _text(value: Any) -> str:
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()


def _meta(
    path: str | Path,
    table: QTable,
    request: ImageRequest,
    cosmology: Any,
    redshifts: dict[str, tuple[Array, list[str]]],
) -> dict[str, Any]:
    meta = {name: table.meta[name] for name in ("version", "content_hash", "plan_hash", "models") if name in table.meta}
    meta |= {"candidates": str(path), "samples": request.samples, "seed": request.seed}
    meta |= {"cosmology": request.cosmology, "H0": float(cosmology.H0.value), "Om0": float(cosmology.Om0)}
    return meta | {name: " else ".join(getattr(request, name)) for name in redshifts}


def _redshift_notes(
    redshifts: dict[str, tuple[Array, list[str]]], scale: Array, name: str, cosmology: Any
) -> list[str]:
    notes = [f"delays with {name}: H0 = {cosmology.H0.value:.2f} km/s/Mpc, Om0 = {float(cosmology.Om0):.4f}"]
    for key, (values, origin) in redshifts.items():
        parts = []
        for text, count in Counter(origin).most_common():
            used = values[np.array(origin) == text]
            value = f" {used[0]:g}" if text == "assumed" else ""
            parts.append(f"{text}{value} for {count}")
        notes.append(f"{key}: {', '.join(parts)} candidates")
    unknown = int(np.isnan(scale).sum())
    if unknown:
        notes.append(f"no delays for {unknown} candidates: a redshift is unknown, or the source is not behind the lens")
    return notes


def _span(middle: float, low: float, high: float) -> str:
    """Return a delay and its interval; a dash if it is not known."""
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]" if np.isfinite(middle) else "-"


def _mode_lines(candidates: QTable, prediction: Prediction, top: int) -> list[str]:
    numbers = Counter(int(n) for n in prediction.n_images if n)
    made = ", ".join(f"{n} images in {count}" for n, count in sorted(numbers.items())) or "none"
    sure = prediction.p_number[np.arange(len(prediction.n_images)), prediction.n_images]
    used = prediction.n_images > 0
    other = f"{100 * (1 - sure[used].mean()):.0f} % of the samples have another number" if used.any() else "no samples"
    lines = [f"mode {prediction.mode}: {used.sum()} of {len(used)} candidates predicted: {made}; {other}"]
    if prediction.mode == "first_image" and used.any():
        lines.append(f"  the known image arrives first in {100 * np.nanmean(prediction.p_first):.0f} % of the samples")
    rows = []
    for k in np.flatnonzero(used)[:top]:
        n = prediction.n_images[k]
        spans = "  ".join(_span(*prediction.values["delay"][k, :, i]) for i in range(1, n))
        mu = " ".join(f"{value:+.1f}" for value in prediction.values["magnification"][k, 0, :n])
        rows.append((str(candidates["rank"][k]), _text(candidates["id"][k]), str(n), f"{sure[k]:.2f}", mu, spans))
    if rows:
        lines += format_table(("rank", "id", "images", "p", "magnifications", "delays [68 %] (d)"), rows)
    return lines
