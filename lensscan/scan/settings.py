"""The settings of one scan: RUN.toml or the command line, checked and frozen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lensscan.config import Cut, Survey, build, load_cut, load_survey
from lensscan.errors import ConfigError

__all__ = ["MERGE_FIELDS", "ScanSettings", "canonical", "digest"]

# Settings that act at the merge only: they are not part of the plan and never cause a re-scan.
MERGE_FIELDS = ("top", "min_logit", "prevalence", "ensemble")
REGRESSOR_ABOVE = 0.0
"""Default of `regress_above` with a regressor: rows that the network itself takes for lenses rather than not."""


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """Everything a scan can be told.

    Attributes
    ----------
    catalog : str
        Survey catalog: a file or a quoted glob (FITS, HDF5, Parquet, CSV, ECSV).
    survey, cut : str
        Shipped name or path; without a cut every row is scored.
    stamps : str
        ``packs:DIR``, ``stamps:TEMPLATE``, ``tiles:TEMPLATE`` or ``tiles:INDEX.csv``.
    model : tuple of str
        Shipped names or paths; several are combined (mean logit).
    output : str
        The HDF5 file to write.
    resample : bool
        Resample stamps to the model's pixel scale instead of refusing.
    batch : int
        Rows per batch, 0 for the default of the device (64 on CPU, 512 on GPU).
    views : int
        Dihedral views per stamp (1 or 8), 0 for the model's own.
    precision : str
        ``fp32``, ``bf16``, or ``tf32``, which does nothing on a CPU.
    regressor : str or None
        Shipped name or path of a separate regression model: it alone gives the posteriors.
    regress_above : float or None
        Regress only rows whose raw logit is above; None: all rows, with a `regressor` those above 0.
    top : int
        Rows of ``/candidates``; `min_logit` keeps only those above it.
    prevalence : float or None
        Overrides the prevalence stated by the cut.
    ensemble : str or None
        TOML file with the calibration (and f_lens) of the mean logit of these very models together; without
        it the mean of several models ranks uncalibrated.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    root_scores : str
        Whether rank 0 scores too: ``auto``, ``yes``, ``no``.
    readers, threads : int
        Reader threads and network threads per rank, 0 for automatic.
    max_failed : float
        Fraction of selected rows that may fail before the exit code is 3.
    max_seconds : float or None
        Stop in order (exit 75) after so many seconds.
    stall_seconds : float
        Hand a worker's blocks to others when it finishes no row for so long.
    keep_shards, overwrite : bool
        Keep the run folder after the merge; replace an output, or drop a run, of another plan or other stamps.
    """

    catalog: str
    survey: str
    stamps: str
    model: tuple[str, ...]
    output: str
    cut: str | None = None
    resample: bool = False
    batch: int = 0
    views: int = 0
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    regressor: str | None = None
    regress_above: float | None = None
    top: int = 100_000
    min_logit: float | None = None
    prevalence: float | None = None
    ensemble: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    root_scores: Literal["auto", "yes", "no"] = "auto"
    readers: int = 0
    threads: int = 0
    max_failed: float = 0.01
    max_seconds: float | None = None
    stall_seconds: float = 900.0
    keep_shards: bool = False
    overwrite: bool = False

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> ScanSettings:
        """Build from a TOML mapping; a single model may be given as a string."""
        values = dict(mapping)
        if isinstance(values.get("model"), str):
            values["model"] = [values["model"]]
        settings = build(cls, values, where)
        settings.check(where)
        return settings

    def check(self, where: str) -> None:
        """Raise a `ConfigError` for values that cannot work."""
        if not self.model:
            raise ConfigError(f"{where}: model is empty; name at least one")
        if self.views not in (0, 1, 8):
            raise ConfigError(f"{where}: views must be 1 or 8 (0: the model's own), not {self.views}")
        for name in ("batch", "readers", "threads", "top"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}: {name} must not be negative")
        if self.max_seconds is not None and not self.max_seconds >= 0:
            raise ConfigError(f"{where}: max_seconds must not be negative")
        if self.regress_above is not None and math.isnan(self.regress_above):
            raise ConfigError(f"{where}: regress_above must be a number, or -inf for all rows")
        if self.min_logit is not None and math.isnan(self.min_logit):
            raise ConfigError(f"{where}: min_logit must be a number; leave it out to keep all rows")
        if not self.stall_seconds > 0:
            raise ConfigError(f"{where}: stall_seconds must be positive, not {self.stall_seconds:g}")
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise ConfigError(f"{where}: prevalence must lie between 0 and 1, not {self.prevalence}")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"{where}: max_failed is a fraction between 0 and 1, not {self.max_failed}")
        if not self.output.endswith((".h5", ".hdf5")):
            raise ConfigError(f"{where}: output {self.output} must end in .h5")

    @property
    def run_dir(self) -> Path:
        """Folder of the plan, the shards, the log and the lock."""
        return Path(self.output + ".run")

    @property
    def threshold(self) -> float | None:
        """Raw logit above which rows are regressed; None: all."""
        if self.regress_above is None and self.regressor is not None:
            return REGRESSOR_ABOVE
        return self.regress_above

    def load(self) -> tuple[Survey, Cut | None]:
        """Load survey and cut."""
        return load_survey(self.survey), load_cut(self.cut) if self.cut else None

    def resolved(self) -> dict[str, Any]:
        """Return all settings as plain values, for the provenance."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def canonical(value: Any) -> str:
    """Return canonical JSON: sorted keys, no spaces, repr-exact floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {value!r}")


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
