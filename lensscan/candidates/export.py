"""The ranked table in the formats of the tools that astronomers use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensscan.candidates.file import read_candidates, read_provenance
from lensscan.candidates.fitstable import write_fits_table
from lensscan.config import build
from lensscan.errors import ConfigError, ModelError, OutputError
from lensscan.files import check_file, keep_inputs, replacing
from lensscan.metrics.calibration import Calibration
from lensscan.schema import PARAMETERS, find_column

if TYPE_CHECKING:
    from astropy.table import QTable

    from lensscan.nets.card import ThetaPrior

__all__ = ["FORMATS", "export", "with_prevalence"]

KEYWORDS = {
    "version": "LENSSCAN",
    "plan_hash": "PLANHASH",
    "content_hash": "CONTHASH",
    "n_catalog": "NCATALOG",
    "n_rows": "NROWS",
    "n_scored": "NSCORED",
    "prevalence": "PREVALEN",
    "posterior_prior": "POSTPRIO",
}
"""Header keywords of the FITS export."""
TRIANGLE = [(i, j) for i in range(7) for j in range(i + 1)]


def export(
    path: str | Path,
    to: str,
    output: str | Path,
    prevalence: float | None = None,
    prior: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> int:
    """Write the candidates of an output in another format; returns the number of rows written.

    Parameters
    ----------
    path : str or Path
        An output of ``lensscan scan``.
    to : str
        One of `FORMATS`.
    output : str or Path
        File to write; replaced in one step.
    prevalence : float, optional
        Recompute ``p_lens`` and ``p_survey`` for this prevalence.
    prior : str, optional
        Re-weight the posteriors to this prior of theta_E: ``natural``, ``uniform`` or a file, see
        `lensscan.candidates.reweight.new_prior`.
    report : callable
        Takes lines about the new prior.

    Raises
    ------
    ConfigError
        If the format is unknown, the prevalence no probability, or the prior cannot be used.
    OutputError, DiskError
        If a file cannot be read or written, the format needs what the table lacks, or no posterior can be
        re-weighted.
    ModelError
        If a prior is asked for, and that of the scan's models is not known.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: known formats are {', '.join(FORMATS)}")
    if prevalence is not None and not 0 < prevalence < 1:
        raise ConfigError(f"--prevalence {prevalence}: must lie between 0 and 1")
    keep_inputs(output, path, prior)
    check_file(output)
    if prior is not None:
        from lensscan.candidates.reweight import check_prior

        check_prior(prior)
    table = read_candidates(path)
    if prevalence is not None:
        with_prevalence(table, prevalence, read_provenance(path).get("merge", {}))
    if prior is not None:
        from lensscan.candidates.reweight import new_prior, reweight

        for line in reweight(table, new_prior(_training_prior(path), prior)).lines():
            report(line)
    with replacing(output) as temporary:
        return FORMATS[to](table, temporary)


def _training_prior(path: str | Path) -> ThetaPrior:
    """Return the prior of theta_E that the posteriors of an output stand under: that of its models' training."""
    from lensscan.nets.card import voices
    from lensscan.nets.model import Model
    from lensscan.nets.prior import card_prior

    provenance = read_provenance(path)
    config, regressor = provenance.get("config", {}), provenance.get("regressor")
    names = [config["regressor"]] if regressor else config.get("model") or []
    hashes = [model["sha256"] for model in ([regressor] if regressor else provenance.get("models", []))]
    if not names or len(names) != len(hashes):
        raise OutputError(f"{path} does not say which model files it was made with: the posteriors' prior is not known")
    cards = []
    for name, sha in zip(names, hashes, strict=True):
        card = Model.load(name).card
        if card.hash != sha:
            raise ModelError(
                f"model {name} is not the file that made {path} (sha256 {sha[:12]}): the posteriors' prior is not "
                "known; put that file back"
            )
        cards.append(card)
    priors = [card_prior(card) for card in voices(cards)]
    if any(each != priors[0] for each in priors):
        raise ConfigError("--prior: the models of this scan were trained under different priors; scan with one of them")
    return priors[0]


def with_prevalence(table: QTable, prevalence: float, merged: Mapping[str, Any]) -> None:
    """Recompute the probabilities of a table in place, from what the provenance says of its merge.

    ``p_lens`` follows from the logit, and is NaN where several networks have no calibration together; ``p_survey``
    scales with the prevalence, and is NaN where it cannot be known: it was capped at 1, or no prevalence was stored.
    """
    said, stored = merged.get("calibration", {}), merged.get("prevalence")
    calibration = build(Calibration, said or {}, "calibration")
    table["p_lens"][:] = calibration.p_lens(np.asarray(table["logit"]), None if said is None else prevalence)
    old = np.asarray(table["p_survey"], dtype=np.float64)
    factor = prevalence / stored if stored else np.nan
    capped = (old >= 1) & (factor < 1)
    table["p_survey"][:] = np.where(capped, np.nan, np.minimum(old * factor, 1.0))
    table.meta["prevalence"] = prevalence


def _write_fits(table: QTable, path: Path) -> int:
    cards = {keyword: table.meta[name] for name, keyword in KEYWORDS.items() if name in table.meta}
    write_fits_table(_portable(table), path, "CANDIDATES", cards, find_column)
    return len(table)


def _write_votable(table: QTable, path: Path) -> int:
    from astropy.io.votable import from_table

    document = from_table(_portable(table, unsigned=False))
    document.description = f"Strong-lens candidates of lensscan {table.meta.get('version', '')}"
    for field in document.get_first_table().fields:
        text = find_column(field.name)
        if text.ucd:
            field.ucd = text.ucd
        field.description = text.description or None
    document.to_xml(str(path), tabledata_format="binary2")
    return len(table)


def _write_parquet(table: QTable, path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    fields, arrays = [], []
    for name in table.colnames:
        text = find_column(name)
        values = np.asarray(getattr(table[name], "value", table[name]))
        if values.ndim > 1:
            flat = pyarrow.array(np.ascontiguousarray(values).ravel())
            array: Any = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            array = pyarrow.array(values.tolist() if values.dtype.kind in "US" else values)
        if values.dtype.kind in "US":
            array = array.cast(pyarrow.string())
        notes = {"unit": text.unit, "ucd": text.ucd, "description": text.description}
        fields.append(pyarrow.field(name, array.type, metadata={k: v for k, v in notes.items() if v}))
        arrays.append(array)
    meta = {key: json.dumps(value) for key, value in table.meta.items() if _is_plain(value)}
    written = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields, metadata=meta))
    pyarrow.parquet.write_table(written, path)
    return len(table)


def _write_csv(table: QTable, path: Path) -> int:
    flat = _portable(table)
    for k, (i, j) in enumerate(TRIANGLE):
        flat[f"cov_{PARAMETERS[i]}_{PARAMETERS[j]}"] = np.asarray(flat["cov"])[:, k]
    flat.remove_column("cov")
    flat.write(path, format="ascii.csv", overwrite=True)
    return len(table)


def _write_ecsv(table: QTable, path: Path) -> int:
    flat = _portable(table)
    for name in flat.colnames:
        if ucd := find_column(name).ucd:
            flat[name].info.meta = {"ucd": ucd}
    flat.write(path, format="ascii.ecsv", overwrite=True)
    return len(table)


def _write_ds9(table: QTable, path: Path) -> int:
    """Write critical curves as ellipses, or circles of 2 arcsec where there is no posterior on the sky."""
    columns = {name: np.asarray(getattr(table[name], "value", table[name]), dtype=float) for name in _DS9}
    ra, dec = columns["ra"], columns["dec"]
    ra_lens, dec_lens = columns["ra_lens"], columns["dec_lens"]
    if len(table) and not (np.isfinite(ra) | np.isfinite(ra_lens)).any():
        raise OutputError("no candidate has a position (no ra, dec in the catalog and no WCS): no ds9 regions")
    e = np.hypot(columns["e1"], columns["e2"])
    root_q = np.sqrt((1 - e) / (1 + e))
    lines = ["# Region file format: DS9", 'global color=green width=1 font="helvetica 10 normal"', "fk5"]
    n = len(lines)
    for k in range(len(table)):
        name = str(table["id"][k]).translate({ord("{"): "(", ord("}"): ")"})
        label = f"# text={{{table['rank'][k]}: {name}}}"
        if np.isfinite([ra_lens[k], dec_lens[k], columns["pa"][k]]).all():
            a, b = columns["theta_E"][k] / root_q[k], columns["theta_E"][k] * root_q[k]
            # ds9 counts the angle of the first axis from West over North; the major axis is given first
            shape = f'{ra_lens[k]:.7f},{dec_lens[k]:.7f},{a:.3f}",{b:.3f}",{columns["pa"][k] + 90:.2f}'
            lines.append(f"ellipse({shape}) {label}")
        elif np.isfinite([ra[k], dec[k]]).all():
            lines.append(f'circle({ra[k]:.7f},{dec[k]:.7f},2") {label}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines) - n


_DS9 = ("ra", "dec", "ra_lens", "dec_lens", "theta_E", "e1", "e2", "pa")


def _write_lenstronomy(table: QTable, path: Path) -> int:
    """Write ``kwargs_lens`` and ``kwargs_source`` of every candidate with a posterior; the conventions agree."""
    columns = {name: np.asarray(getattr(table[name], "value", table[name]), dtype=float) for name in _POSTERIOR}
    ids = table["id"].tolist()
    lenses = []
    for k in np.flatnonzero(np.isfinite(columns["theta_E"])):
        values = {name: float(f"{column[k]:.7g}") for name, column in columns.items()}
        names = {"theta_E": "theta_E", "e1": "e1", "e2": "e2", "center_x": "x", "center_y": "y"}
        lenses.append({
            "rank": int(table["rank"][k]),
            "id": ids[k],
            "kwargs_lens": [{key: values[name] for key, name in names.items()}],
            "kwargs_lens_sigma": [{key: values[f"{name}_err"] for key, name in names.items()}],
            "kwargs_source": [{"center_x": values["sx"], "center_y": values["sy"]}],
        })  # fmt: skip
    document = {"lens_model_list": ["SIE"], "unit": "arcsec from the stamp's centre", "candidates": lenses}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return len(lenses)


_POSTERIOR = (*PARAMETERS, *(f"{name}_err" for name in PARAMETERS))

FORMATS: dict[str, Callable[[QTable, Path], int]] = {
    "fits": _write_fits,
    "votable": _write_votable,
    "parquet": _write_parquet,
    "csv": _write_csv,
    "ecsv": _write_ecsv,
    "ds9": _write_ds9,
    "lenstronomy": _write_lenstronomy,
}


def _portable(table: QTable, unsigned: bool = True) -> Any:
    """Return a plain Table; without `unsigned` integers that VOTable lacks become wider, or text beyond int64."""
    from astropy.table import Table

    plain = Table(table)
    plain.meta = {name: value for name, value in table.meta.items() if isinstance(value, (str, int, float))}
    if not unsigned:
        for name in plain.colnames:
            column = plain[name]
            if column.dtype.kind == "u" and column.dtype.itemsize > 1:
                large = column.dtype.itemsize == 8 and len(column) and int(column.max()) >= 2**63
                plain.replace_column(name, column.astype(str if large else np.int64))
    return plain


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, list))
