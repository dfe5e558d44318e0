"""Path templates over catalog columns: ``cuts/{tile}/{id:08d}.fits``, ``coadd_{band}.fits.fz``."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import Band
from lensscan.errors import ConfigError
from lensscan.survey.tables import EXACT

__all__ = ["BAND", "Template", "band_label", "whole_values"]

BAND = "{band}"
PIECE = 1 << 16


def band_label(name: str, band: Band) -> str:
    """Return what stands for a band in file names and extension names."""
    return band.extension or name


class Template:
    """A path with ``{column}`` and ``{column:format}`` fields; ``{band}`` stays in the path until it is read."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            names = [part[1] for part in string.Formatter().parse(text) if part[1] is not None]
        except ValueError as error:
            raise ConfigError(f"template {text!r}: {error}; write {{column}} for a catalog column") from None
        for name in names:
            if not name or any(character in name for character in ".[]!"):
                raise ConfigError(f"template {text!r}: field {{{name}}} is not a column name")
        self.columns = tuple(dict.fromkeys(name for name in names if name != "band"))
        self.per_band = "band" in names

    def expand(self, columns: Mapping[str, Any], n: int) -> list[str]:
        """Return the `n` paths for columns of equal length, "" for a row with a missing value.

        A number without a fraction stands in a path without one, also where its column holds fractions or NaN.

        Raises
        ------
        ConfigError
            For a format that does not fit.
        """
        if not self.columns:
            path = self.text.format(band=BAND) if self.per_band else self.text.format()
            return [path] * n
        fill, names = self.text.format_map, self.columns
        paths: list[str] = []
        try:
            for start in range(0, n, PIECE):
                values = [whole_values(columns[name][start : start + PIECE]) for name in names]
                paths += [
                    "" if None in row or "" in row else fill(dict(zip(names, row, strict=True), band=BAND))
                    for row in zip(*values, strict=True)
                ]
            return paths
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"template {self.text!r}: {error}; the format does not fit the column") from None


def whole_values(values: NDArray[Any]) -> list[Any]:
    """Return a column as Python values: floats without a fraction as int, NaN as None."""
    if values.dtype.kind != "f":
        return values.tolist()
    with np.errstate(invalid="ignore"):
        whole = (values == np.floor(values)) & (np.abs(values) < EXACT)
    return [
        None if value != value else int(value) if integer else value
        for value, integer in zip(values.tolist(), whole.tolist(), strict=True)
    ]
