"""The vocabulary of the output: status of a row, flags of a score, and the columns with units and UCDs."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

__all__ = [
    "COLUMNS",
    "ENDPOINTS",
    "FLAG_TEXT",
    "PARAMETERS",
    "STATUS_TEXT",
    "Column",
    "Flag",
    "Status",
    "find_column",
    "flag_names",
    "status_name",
]


class Status(enum.IntEnum):
    """What became of a catalog row; every row ends as CUT, SCORED or one of the failures."""

    PENDING = 0
    SCORED = 1
    CUT = 2
    MISSING_FILE = 10
    UNREADABLE = 11
    WRONG_SHAPE = 12
    NOT_FINITE = 13
    BLANK = 14
    MASKED = 15
    OUTPUT_NOT_FINITE = 16
    CRASHED = 17
    TIMEOUT = 18
    DUPLICATE_ID = 19
    WRONG_BANDS = 20
    NO_ZERO_POINT = 21
    WRONG_SCALE = 22
    OUTSIDE_IMAGE = 23
    NO_POSITION = 24
    WRONG_ID = 25

    @property
    def is_failure(self) -> bool:
        """True for the reasons that count as ``failed:<reason>``."""
        return self >= Status.MISSING_FILE


class Flag(enum.IntFlag):
    """Warnings about a scored row; they never alter the ranking."""

    THETA_E_UNRESOLVED = 1 << 0
    POSTERIOR_WIDE = 1 << 1
    POSTERIOR_AT_PRIOR = 1 << 2
    OFF_CENTRE = 1 << 3
    MEMBERS_DISAGREE = 1 << 4
    OOD = 1 << 5
    OUT_OF_RANGE = 1 << 6
    EDGE = 1 << 7
    MASKED = 1 << 8
    MISSING_BAND = 1 << 9
    RESAMPLED = 1 << 10
    STALE_WCS = 1 << 11
    NO_POSTERIOR = 1 << 12


STATUS_TEXT: dict[Status, str] = {
    Status.PENDING: "not looked at yet (inside a run only)",
    Status.SCORED: "scored",
    Status.CUT: "dropped by the cut (counted, not written)",
    Status.MISSING_FILE: "no such file",
    Status.UNREADABLE: "not a readable FITS file: truncated, damaged, something else by that name",
    Status.WRONG_SHAPE: "an image of another shape, size or pixel grid than expected",
    Status.NOT_FINITE: "too many pixels are NaN or infinite",
    Status.BLANK: "no signal at all",
    Status.MASKED: "too many pixels are masked",
    Status.OUTPUT_NOT_FINITE: "the network returned NaN or infinity",
    Status.CRASHED: "reading or scoring it killed a process",
    Status.TIMEOUT: "reading it took too long",
    Status.DUPLICATE_ID: "its id stands for several stamps",
    Status.WRONG_BANDS: "bands are missing that the model needs",
    Status.NO_ZERO_POINT: "no zero point in header or survey file",
    Status.WRONG_SCALE: "another pixel scale than the model's",
    Status.OUTSIDE_IMAGE: "the position lies outside every tile",
    Status.NO_POSITION: "no position in the catalog, and the stamps need one",
    Status.WRONG_ID: "the file holds another object",
}
FLAG_TEXT: dict[Flag, str] = {
    Flag.THETA_E_UNRESOLVED: "theta_E is small against the best seeing",
    Flag.POSTERIOR_WIDE: "theta_E_err is large against theta_E",
    Flag.POSTERIOR_AT_PRIOR: "the interval of theta_E touches a bound of the model's prior",
    Flag.OFF_CENTRE: "the lens centre lies more than 1 arcsec from the stamp's origin",
    Flag.MEMBERS_DISAGREE: "the networks' logits differ much",
    Flag.OOD: "ood above 1: less like training than all but one mock in a thousand",
    Flag.OUT_OF_RANGE: "noise, seeing or pixel scale outside what the model was trained for",
    Flag.EDGE: "the stamp reaches over the edge of its image",
    Flag.MASKED: "some pixels are missing",
    Flag.MISSING_BAND: "a band is missing",
    Flag.RESAMPLED: "resampled to the model's pixel scale",
    Flag.STALE_WCS: "a WCS that was not used, because it does not describe the stamp",
    Flag.NO_POSTERIOR: "above regress_above, but the regressor gave nothing finite, or its bands are missing",
}


def status_name(code: int) -> str:
    """Return ``"scored"``, ``"cut"`` or ``"failed:<reason>"`` for a status code."""
    status = Status(int(code))
    return f"failed:{status.name.lower()}" if status.is_failure else status.name.lower()


def flag_names(bits: int) -> list[str]:
    """Return the names of the flags set in `bits`, as they are written everywhere (``theta_E_unresolved edge``)."""
    names = [flag.name.lower() for flag in Flag if flag.name and int(bits) & flag.value]
    return [name.replace("theta_e", "theta_E") for name in names]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the output.

    Attributes
    ----------
    name : str
        Name, or a template such as ``fwhm_{band}``.
    dtype : str
        NumPy dtype; empty where it follows the catalog (ids, catalog columns, names).
    unit : str
        Unit as astropy and the FITS standard write it; empty if dimensionless.
    ucd : str
        IVOA UCD1+ words; empty if none fits.
    description : str
        One sentence, carried into every exported file.
    """

    name: str
    dtype: str
    unit: str
    ucd: str
    description: str


PARAMETERS = ("theta_E", "e1", "e2", "x", "y", "sx", "sy")
ENDPOINTS = ("theta_E_q025", "theta_E_q16", "theta_E_q84", "theta_E_q975")

_ARCSEC_X = "arcsec from the stamp's centre (tiles: the catalog position), +x with column"
_ARCSEC_Y = "arcsec from the stamp's centre (tiles: the catalog position), +y with row"

COLUMNS = (
    Column("rank", "i8", "", "stat.rank",
           "Rank, 1 is best: logit descending, id ascending, plan row ascending"),
    Column("id", "", "", "meta.id;meta.main", "Identifier of the catalog"),
    Column("ra", "f8", "deg", "pos.eq.ra;meta.main", "Right ascension of the catalog"),
    Column("dec", "f8", "deg", "pos.eq.dec;meta.main", "Declination of the catalog"),
    Column("logit", "f8", "", "stat.likelihood",
           "Calibrated log likelihood ratio lens / non-lens, free of any prior; the ranking key"),
    Column("p_lens", "f8", "", "stat.probability",
           "Probability of being a lens at the stated prevalence; NaN if none is stated, or several networks have no "
           "calibration together"),
    Column("p_survey", "f4", "", "stat.probability",
           "min(1, prevalence f_lens(logit) / f_survey(logit)), f_survey from this very run"),
    Column("logit_std", "f4", "", "stat.stdev",
           "Standard deviation of the networks' raw logits; NaN for a single network"),
    Column("logit_{model}", "f4", "", "stat.likelihood",
           "Raw (uncalibrated) logit of network {model}, mean over its views"),
    Column("theta_E", "f4", "arcsec", "phys.angSize",
           "Einstein radius sqrt(a b) of the critical ellipse, posterior median, given a lens"),
    Column("e1", "f4", "", "src.ellipticity",
           "(1-q)/(1+q) cos 2 phi, phi of the major axis from +x; posterior median"),
    Column("e2", "f4", "", "src.ellipticity", "(1-q)/(1+q) sin 2 phi; posterior median"),
    Column("x", "f4", "arcsec", "pos.cartesian.x", f"Lens centre, {_ARCSEC_X}; posterior median"),
    Column("y", "f4", "arcsec", "pos.cartesian.y", f"Lens centre, {_ARCSEC_Y}; posterior median"),
    Column("sx", "f4", "arcsec", "pos.cartesian.x",
           f"Source position in the source plane, {_ARCSEC_X}; median"),
    Column("sy", "f4", "arcsec", "pos.cartesian.y",
           f"Source position in the source plane, {_ARCSEC_Y}; median"),
    Column("theta_E_err", "f4", "arcsec", "stat.error;phys.angSize",
           "Half of the central 68 % interval of theta_E"),
    Column("e1_err", "f4", "", "stat.error;src.ellipticity", "Half of the central 68 % interval of e1"),
    Column("e2_err", "f4", "", "stat.error;src.ellipticity", "Half of the central 68 % interval of e2"),
    Column("x_err", "f4", "arcsec", "stat.error;pos.cartesian.x", "Half of the central 68 % interval of x"),
    Column("y_err", "f4", "arcsec", "stat.error;pos.cartesian.y", "Half of the central 68 % interval of y"),
    Column("sx_err", "f4", "arcsec", "stat.error;pos.cartesian.x", "Half of the central 68 % interval of sx"),
    Column("sy_err", "f4", "arcsec", "stat.error;pos.cartesian.y", "Half of the central 68 % interval of sy"),
    Column("theta_E_q025", "f4", "arcsec", "stat.value;phys.angSize", "2.5 % quantile of theta_E"),
    Column("theta_E_q16", "f4", "arcsec", "stat.value;phys.angSize", "16 % quantile of theta_E"),
    Column("theta_E_q84", "f4", "arcsec", "stat.value;phys.angSize", "84 % quantile of theta_E"),
    Column("theta_E_q975", "f4", "arcsec", "stat.value;phys.angSize", "97.5 % quantile of theta_E"),
    Column("cov", "f4", "", "stat.covariance",
           "Covariance of (theta_E e1 e2 x y sx sy): lower triangle, row by row, arcsec where lengths"),
    Column("ess", "f4", "", "stat.value",
           "Effective number of posterior samples under the prior of `export --prior` (in such exports only); "
           "below 100 the posterior is NaN"),
    Column("ra_lens", "f8", "deg", "pos.eq.ra", "Right ascension of the lens centre (x, y); NaN without WCS"),
    Column("dec_lens", "f8", "deg", "pos.eq.dec", "Declination of the lens centre (x, y); NaN without WCS"),
    Column("pa", "f4", "deg", "pos.posAng",
           "Position angle of the major axis, East of North, 0 to 180; NaN without WCS"),
    Column("snr", "f4", "", "stat.snr",
           "Signal-to-noise ratio of the stamp's central source, as measured by the network's front end"),
    Column("ood", "f4", "", "",
           "Out-of-distribution score -log10(p) / 3, p the share of held-out mocks as unlike training; 1: one in a "
           "thousand; the largest of the networks, NaN if they give none"),
    Column("n_bands", "u1", "", "meta.number", "Bands present in the stamp"),
    Column("fwhm_{band}", "f4", "arcsec", "instr.obsty.seeing", "Seeing in {band}; NaN if unknown"),
    Column("sigma_{band}", "f4", "nJy", "instr.det.noise", "Noise per pixel in {band}; NaN if absent"),
    Column("status", "u1", "", "meta.code",
           "What became of the row: 1 scored, 10 and above failed (lensscan.schema.Status)"),
    Column("flags", "u4", "", "meta.code.qual",
           "Warnings (bits of lensscan.schema.Flag); never alter the ranking"),
    Column("tile", "", "", "meta.id.assoc", "Name of the tile, pack or stamp file without folder and ending"),
    Column("file", "u4", "", "meta.id.assoc", "Index into /files"),
    Column("offset", "i8", "", "meta.record",
           "Place within the file: row of a pack, pixel index (row-major) in a tile, 0 for a loose stamp"),
    Column("px", "f8", "pixel", "pos.cartesian.x", "0-based pixel column in the tile, if the catalog gives one"),
    Column("py", "f8", "pixel", "pos.cartesian.y", "0-based pixel row in the tile, if the catalog gives one"),
    Column("row", "i8", "", "meta.record", "Row of the survey catalog, 0-based"),
    Column("plan_row", "i8", "", "meta.record", "Row of /scores, 0-based"),
    Column("group", "i8", "", "meta.id.parent",
           "Number of the group of candidates within 2 arcsec of each other, by rank of its leader"),
    Column("group_rank", "i4", "", "stat.rank",
           "Rank within the group; 1 is the leader, which alone counts in a top-N"),
    Column("known_name", "", "", "meta.id.cross",
           "Known lens or candidate at this position (reserved for the cross-match)"),
    Column("known_grade", "", "", "meta.code.class",
           "Grade of that known lens (reserved for the cross-match)"),
    Column("known_sep", "f4", "arcsec", "pos.angDistance",
           "Distance to that known lens (reserved for the cross-match)"),
    Column("grade", "", "", "meta.code.class", "Grade of the visual inspection (reserved for the graders)"),
    Column("cat_{name}", "", "", "", "Column {name} of the survey catalog"),
)  # fmt: skip

_BY_NAME = {column.name: column for column in COLUMNS if "{" not in column.name}
_TEMPLATES = [column for column in COLUMNS if "{" in column.name]


def find_column(name: str) -> Column:
    """Return the column of this name, templates filled in; an unknown name gives a column without text."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    for template in _TEMPLATES:
        prefix, _, field = template.name.partition("{")
        if name.startswith(prefix):
            value = name.removeprefix(prefix)
            text = template.description.replace("{" + field, value)
            return replace(template, name=name, description=text)
    return Column(name, "", "", "", "")
