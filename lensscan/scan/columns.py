"""From what shards hold to what OUT.h5 holds: the columns of a chunk of rows, and the records of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lensscan.candidates.score import Combination
from lensscan.candidates.sky import lens_on_sky
from lensscan.nets.flags import merge_flags
from lensscan.nets.mixture import Pooling
from lensscan.scan.plan import Plan
from lensscan.schema import ENDPOINTS, PARAMETERS, find_column

__all__ = ["ChunkColumns", "Layout", "row_bytes", "tile_name"]

TEXT_CHUNK = 65_536
N_COV = 28
POSTERIOR = (*PARAMETERS, *(f"{name}_err" for name in PARAMETERS), *ENDPOINTS)
RESERVED = {"known_name": "S32", "known_grade": "S16", "known_sep": "<f4", "grade": "S8"}
ENDINGS = (".fz", ".gz", ".fits", ".fit", ".h5")


@dataclass(frozen=True, slots=True)
class ChunkColumns:
    """The score columns of a chunk, all (n,), and the covariances (n, 28)."""

    scores: dict[str, NDArray[Any]]
    cov: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and dtypes of the columns of one output.

    Attributes
    ----------
    id_dtype : numpy.dtype
        int64, uint64, or bytes of fixed width.
    bands, networks : tuple of str
    carried : dict
        Catalog columns ``cat_<name>`` -> dtype.
    scores : dict
        Columns of ``/scores`` -> dtype.
    record : numpy.dtype
        Of the candidates while they are collected: all columns but ``tile``.
    pooling : Pooling
        How the shards' components form one posterior.
    """

    id_dtype: np.dtype[Any]
    bands: tuple[str, ...]
    networks: tuple[str, ...]
    carried: dict[str, np.dtype[Any]]
    scores: dict[str, np.dtype[Any]]
    record: np.dtype[Any]
    pooling: Pooling

    @classmethod
    def of(cls, plan: Plan, rows: h5py.Group, networks: tuple[str, ...], pooling: Pooling) -> Layout:
        """Return the layout for the rows of a plan."""
        kinds = {"int": "<i8", "uint": "<u8", "str": f"S{plan.id_width}"}
        id_dtype = np.dtype(kinds[plan.id_kind])
        carried = {name: _carried_dtype(rows[name]) for name in rows if name.startswith("cat_")}
        pixels = ("px", "py") if any(_any_finite(rows[name]) for name in ("px", "py")) else ()
        names = [
            *("id", "ra", "dec", "logit", "p_lens", "p_survey", "logit_std"),
            *(f"logit_{name}" for name in networks),
            *POSTERIOR,
            *("ra_lens", "dec_lens", "pa", "snr", "ood", "n_bands"),
            *(f"fwhm_{band}" for band in plan.bands),
            *(f"sigma_{band}" for band in plan.bands),
            *("status", "flags", "file", "offset", *pixels, "row"),
        ]
        dtypes = {name: id_dtype if name == "id" else np.dtype(find_column(name).dtype) for name in names}
        fields: list[Any] = []
        for name, dtype in dtypes.items():
            fields.append((name, dtype))
            if name == POSTERIOR[-1]:
                fields.append(("cov", "<f4", (N_COV,)))
        last = [(name, find_column(name).dtype) for name in ("plan_row", "group", "group_rank")]
        record = np.dtype([("rank", "<i8"), *fields, *last, *RESERVED.items(), *carried.items()])
        return cls(id_dtype, plan.bands, networks, carried, dtypes | carried, record, pooling)

    def plan_columns(self, rows: h5py.Group, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Read the plan's rows [start, stop), text as bytes of fixed width."""
        wanted = [name for name in ("ra", "dec", "file", "offset", "px", "py", "row") if name in self.scores]
        columns: dict[str, NDArray[Any]] = {name: rows[name][start:stop] for name in wanted}
        columns["id"] = rows["id"][start:stop].astype(self.id_dtype)
        columns.update({name: rows[name][start:stop].astype(dtype) for name, dtype in self.carried.items()})
        return columns

    def compute(
        self, rows: Mapping[str, NDArray[Any]], shard: Mapping[str, NDArray[Any]], combination: Combination
    ) -> ChunkColumns:
        """Return the columns of n rows; each row's values depend on that row alone.

        Parameters
        ----------
        rows : mapping of (n,) arrays
            From `plan_columns`.
        shard : mapping of (n, ...) arrays
            The shards' columns of the same rows.
        combination : Combination
        """
        scores: dict[str, NDArray[Any]] = {**rows, **combination.columns(shard["logit"])}
        posterior, cov = _posterior(self.pooling, shard["post_mean"], shard["post_cov"], shard.get("post_weight"))
        scores.update(posterior)
        scores.update(lens_on_sky(shard["wcs"], *(posterior[name] for name in ("x", "y", "e1", "e2"))))
        scores["snr"], scores["status"] = shard["snr"], shard["status"]
        scores["ood"] = np.fmax.reduce(shard["ood"], axis=1)
        scores["n_bands"] = np.count_nonzero(shard["present"], axis=1)
        for k, band in enumerate(self.bands):
            scores[f"fwhm_{band}"], scores[f"sigma_{band}"] = shard["fwhm"][:, k], shard["sigma"][:, k]
        scores["flags"] = shard["flags"] | merge_flags(scores, shard["fwhm"], combination.theta_E)
        return ChunkColumns(scores, cov)

    def records(self, columns: ChunkColumns, keep: NDArray[np.intp], plan_row: NDArray[np.int64]) -> NDArray[Any]:
        """Return the candidate records of the rows `keep` of a chunk; rank and group are not known yet."""
        records = np.zeros(len(keep), self.record)
        for name in self.scores:
            records[name] = np.nan if name == "p_survey" else columns.scores[name][keep]
        records["cov"] = columns.cov[keep]
        records["plan_row"] = plan_row[keep]
        records["known_sep"] = np.nan
        return records


def row_bytes(bands: int, networks: int, components: int) -> int:
    """Return the bytes that a row takes on disk until the run folder is gone: in its shard and in ``/scores``.

    Without catalog columns and the width of textual ids.

    Parameters
    ----------
    bands, networks : int
    components : int
        Of the posteriors in the shards, `Pooling.total`.
    """
    shard = 57 + 9 * bands + 8 * networks + 144 * components  # flags wcs ... | fwhm ... | logit ood | mean cov weight
    scores = 170 + 8 * bands + 4 * networks
    return shard + scores


def tile_name(path: str) -> str:
    """Return the name of a file without folder, band and ending: ``a/DES0000_{band}.fits.fz`` -> ``DES0000``."""
    name = PurePosixPath(path).name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    for field in ("_{band}", "-{band}", ".{band}", "{band}_", "{band}-", "{band}"):
        name = name.replace(field, "")
    return name


def _posterior(
    pooling: Pooling, mean: NDArray[np.float32], cov: NDArray[np.float32], weight: NDArray[np.float32] | None
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Summarise the rows that were regressed; the others are NaN and cost nothing."""
    n = len(mean)
    regressed = np.flatnonzero(pooling.complete(mean, cov))
    columns = {name: np.full(n, np.nan, np.float32) for name in POSTERIOR}
    packed = np.full((n, N_COV), np.nan, np.float32)
    if len(regressed):
        values = pooling.columns(mean[regressed], cov[regressed], None if weight is None else weight[regressed])
        packed[regressed] = values["cov"]
        for name, column in columns.items():
            column[regressed] = values[name]
    return columns, packed


def _any_finite(dataset: h5py.Dataset) -> bool:
    starts = range(0, dataset.shape[0], TEXT_CHUNK)
    return any(np.isfinite(dataset[start : start + TEXT_CHUNK]).any() for start in starts)


def _carried_dtype(dataset: h5py.Dataset) -> np.dtype[Any]:
    """Return the dtype of a catalog column; text gets the width of its longest value."""
    if dataset.dtype.kind != "O":
        return dataset.dtype.newbyteorder("=")
    width = 1
    for start in range(0, dataset.shape[0], TEXT_CHUNK):
        width = max(width, max(map(len, dataset[start : start + TEXT_CHUNK]), default=1))
    return np.dtype(f"S{width}")
