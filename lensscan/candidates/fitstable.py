"""Tables as FITS: text made ASCII, and UCD and description of every column in the header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensscan.files import ascii_text
from lensscan.schema import Column

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["write_fits_table"]


def write_fits_table(
    table: Table, path: Path, name: str, keywords: Mapping[str, Any], describe: Callable[[str], Column]
) -> None:
    """Write a table as the only extension of a FITS file.

    Parameters
    ----------
    table : Table
        Without mixin columns; its text columns are changed to ASCII, other characters escaped.
    path : Path
    name : str
        Of the extension.
    keywords : mapping
        Header keywords; they replace what the table has in `meta`.
    describe : callable
        Gives UCD and description of the column of a name: ``TUCDn`` and ``TCOMMn``.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    from astropy.io import fits

    for column in table.colnames:
        if table[column].dtype.kind == "U":
            text = [ascii_text(value) for value in table[column]]
            table.replace_column(column, np.array(text, dtype=str) if text else np.zeros(0, "U1"))
    table.meta = dict(keywords)
    hdu = fits.table_to_hdu(table)
    for number, column in enumerate(table.colnames, start=1):
        notes = describe(column)
        if notes.ucd:
            hdu.header[f"TUCD{number}"] = notes.ucd
        if notes.description:
            hdu.header[f"TCOMM{number}"] = ascii_text(notes.description)
    hdu.name = name
    hdu.writeto(path, overwrite=True)
