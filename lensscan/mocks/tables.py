"""The tables of a recipe as frozen dataclasses: what each number means, with its unit and its default.

Fields and tables that came after the first release are marked `lensscan.config.late`, so that a new feature leaves
the mocks of older recipes as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lensscan.config import late

__all__ = [
    "CLASSES",
    "BandRecipe",
    "CanvasPrior",
    "EffectsPrior",
    "FramePrior",
    "GalaxyPrior",
    "LabelRule",
    "LensPrior",
    "NoisePrior",
    "PsfPrior",
    "ScenePrior",
    "SourcePrior",
]


CLASSES = (
    "lens",  # a galaxy with a lensed source that passes the label rule
    "undetectable",  # lensed, but below the label rule
    "elliptical",  # a massive galaxy without a source
    "unlensed_arc",  # a massive galaxy with a faint blue source outside the caustic
    "companions",  # a massive galaxy with satellites at arc distance
    "merger",  # two or three galaxies in contact
    "spiral",  # a disc with arms and a red bulge
    "ring",  # a galaxy with a blue ring
    "edge_on",  # a disc seen from the side
    "star",  # a star, or a blend of a star and a galaxy
    "field",  # any galaxy of the survey's magnitude, mostly blue
    "unlensed_source",  # a lens galaxy and the source of a lens, side by side as if nothing were bent
    "tidal_arc",  # a massive galaxy with a tidal tail of its own stars, or a shell
    "artefact",  # a massive galaxy under a satellite trail, a ghost, a bleed or a diffraction spike
    "painted",  # a real galaxy (see CanvasPrior) with a simulated lensed source; a lens if the label rule holds
    "real",  # a real galaxy as it is: the unpainted twin
)
LENSES = ("lens", "painted")
"""Those that can be lenses."""
LENSED = (*LENSES, "undetectable")
"""Those with a lensed source; what is below the label rule is neither a lens nor anything else."""


@dataclass(frozen=True, slots=True)
class BandRecipe:
    """Observation of one band.

    Attributes
    ----------
    sigma : tuple of float
        5, 50 and 95 % of the background's standard deviation per pixel, nJy.
    fwhm : tuple of float
        Median and standard deviation of the PSF's full width at half maximum, arcsec.
    poisson : float
        nJy per detected electron: variance added by a source of f nJy in a pixel is ``poisson * f``.
    sky : float
        Standard deviation of the background left in a stamp, in units of sigma.
    saturation : float
        Flux per pixel (nJy) at which a pixel saturates: it is clipped there and counts as missing; 0 = never.
    psf : str
        FITS image of the measured PSF (``psf.kind = "image"``), pixel response included, its pixels those of the
        stamps unless its header has PIXSCALE (arcsec).
    """

    sigma: tuple[float, float, float]
    fwhm: tuple[float, float]
    poisson: float = 0.0
    sky: float = 0.0
    saturation: float = late(0.0)
    psf: str = late("")


@dataclass(frozen=True, slots=True)
class NoisePrior:
    """Noise that bands have in common.

    Attributes
    ----------
    lag1, lag2 : float
        Correlation of neighbouring pixels at distance one and two.
    common : float
        Correlation of the bands' depths.
    gradient : float
        Standard deviation of the sky's slope, sigma per half stamp.
    missing_band : float
        Probability that a band is absent; where all would be, none is.
    white : float
        Share of stamps whose noise is white instead.
    relative : (float, float) or None
        Noise per pixel drawn uniformly between these fractions of the brightest noise-free pixel, instead of
        from the bands' `sigma`; stamps are then scaled to a peak of `peak` nJy first (their truth is not).
    peak : float
        See `relative`.
    electrons : (float, float, float) or None
        With `relative`: probability of Poisson noise, and the limits of the electrons in the brightest pixel; the
        bands' `poisson` is then ignored.
    """

    lag1: float = 0.0
    lag2: float = 0.0
    common: float = 0.0
    gradient: float = 0.0
    missing_band: float = 0.0
    white: float = late(0.0)
    relative: tuple[float, float] | None = late(None)
    peak: float = late(1000.0)
    electrons: tuple[float, float, float] | None = late(None)


@dataclass(frozen=True, slots=True)
class PsfPrior:
    """The PSF.

    Attributes
    ----------
    kind : str
        ``moffat``: a mixture of Moffat profiles of beta 2.5 (share `wings`) and 4.5; ``gaussian``; or ``image``:
        the measured PSF of each band (``band.<name>.psf``), stretched to the drawn FWHM.
    wings : (float, float)
        Limits of the share.
    ellipticity : float
        Rayleigh scale of the modulus.
    common : float
        Correlation of the bands' FWHM.
    uniform : (float, float) or None
        FWHM (arcsec) drawn uniformly between these limits instead, the same in all bands.
    share : float
        Probability that there is a PSF at all; for the rest FWHM is 0 and the pixels alone blur.
    """

    kind: str = "moffat"
    wings: tuple[float, float] = (0.2, 0.9)
    ellipticity: float = 0.02
    common: float = 0.5
    uniform: tuple[float, float] | None = late(None)
    share: float = late(1.0)


@dataclass(frozen=True, slots=True)
class FramePrior:
    """Where the galaxy sits in the stamp: uniform sub-pixel phase (pixels), catalog scatter (arcsec), wide shifts."""

    phase: float = 0.5
    scatter: float = 0.0
    wide: float = 0.0
    wide_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class LensPrior:
    """Mass: velocity dispersions and redshifts, a share with flat theta_E, and how mass follows light.

    Attributes
    ----------
    z : tuple of float
        Median, standard deviation, minimum and maximum of the lens redshift.
    sigma_v : tuple of float
        Mean, standard deviation, minimum and maximum, km/s.
    theta_E : tuple of float
        Limits, arcsec.
    flat_fraction : float
        Share of systems whose theta_E is drawn uniformly between the limits (sigma_v follows).
    q_scatter, angle_scatter, centre_scatter : float
        Mass against light: axis ratio; position angle in degrees at e = 0.2, growing as 1/e; arcsec.
    shear : float
        Mean of the external shear (Rayleigh).
    population : str
        ``normal``: z and sigma_v from the normals above.  ``collett2015``: from the velocity-dispersion function
        of Collett 2015 and the volume, weighted with the lensing cross-section theta_E^2 (then `sigma_v` and `z`
        give the limits only; with flat theta_E, redshifts and dispersions are those of the population at that
        theta_E).
    slope : (float, float)
        Mean and standard deviation of the density slope gamma (2 = isothermal); hidden from the regression.
    one_minus_q : (float, float) or None
        1 - q of the mass drawn uniformly between these limits, at a random angle, whatever the light.
    """

    z: tuple[float, float, float, float] = (0.45, 0.18, 0.1, 0.95)
    sigma_v: tuple[float, float, float, float] = (245.0, 45.0, 150.0, 400.0)
    theta_E: tuple[float, float] = (0.5, 3.0)
    flat_fraction: float = 0.5
    q_scatter: float = 0.1
    angle_scatter: float = 10.0
    centre_scatter: float = 0.05
    shear: float = 0.05
    population: Literal["normal", "collett2015"] = late("normal")
    slope: tuple[float, float] = late((2.0, 0.0))
    one_minus_q: tuple[float, float] | None = late(None)


@dataclass(frozen=True, slots=True)
class GalaxyPrior:
    """Light of the massive galaxies.

    Attributes
    ----------
    sersic_n : tuple of float
        Mean, standard deviation, minimum and maximum.
    double : float
        Share with a second, outer component.
    mag_scatter, colour_scatter : float
        Scatter about the magnitude-sigma_v relation, and of each colour about the track.
    mag : tuple of float
        Limits of the total magnitude in the reference band; what falls outside is drawn again.
    radius : tuple of float
        Limits of the half-light radius, arcsec.
    track : mapping
        ``z`` and, at these redshifts, colours (``g-r`` ...) and ``k_i`` = i - M_r - distance modulus.
    residual : float or None
        If given, the lens light is left only as this standard deviation times itself: imperfectly subtracted.
        Galaxies outside the limits of `mag` are then not drawn again but brought to them.
    """

    track: Mapping[str, tuple[float, ...]]
    sersic_n: tuple[float, float, float, float] = (4.0, 0.9, 2.0, 6.5)
    double: float = 0.4
    mag_scatter: float = 0.35
    colour_scatter: float = 0.05
    mag: tuple[float, float] = (17.0, 21.5)
    radius: tuple[float, float] = (0.3, 4.0)
    residual: float | None = late(None)


@dataclass(frozen=True, slots=True)
class SourcePrior:
    """Lensed sources.

    Attributes
    ----------
    z_max, z_median : float
        Largest and median redshift.
    mag : (float, float)
        Limits of the unlensed magnitude in the reference band.
    mag_slope : float
        Counts grow as 10^(slope m).
    red_fraction : float
        Share of red sources.
    radius, radius_scatter : float
        Half-light radius (arcsec) at magnitude 24, and its scatter in dex.
    clumps : float
        Share of clumpy sources.
    counts : str
        ``power``: magnitudes and redshifts from the numbers above, independent of each other.  ``lsst``: the
        counts and p(z | i) of the LSST Science Book (2009, section 3.7) between the limits `mag` (i band), sizes by
        Mosleh et al. 2012 with `radius_scatter`; z_median, mag_slope and radius are then not used.
    colours : str
        ``random``: a blue cloud and a red tail.  ``sed``: of redshifted galaxy spectra (red_fraction is not used).
    profile : str
        ``sersic``, or ``images``: the galaxy images of the folder `images`.
    images : str
        Folder of FITS images of real galaxies; they are turned at random and keep their own shape.
    part : str
        ``train`` or ``test``: four in five of those images, or the others, by a hash of file and extension.
    n : (float, float)
        Limits of the Sersic index.
    clump_count : int
        Clumps of a clumpy source; with more than two, each takes less light: together below a half.
    uniform_radius : (float, float) or None
        Half-light radius drawn uniformly between these limits (arcsec) instead, whatever the counts.
    position : str
        ``disc``: uniform within 0.85 theta_E of the lens.  ``caustic``: half uniform within the outer caustic
        grown by 0.15 arcsec, half Gaussian within 0.7 of the astroid (Hezaveh+2017).
    """

    z_max: float = 4.0
    z_median: float = 1.7
    mag: tuple[float, float] = (21.5, 25.0)
    mag_slope: float = 0.3
    red_fraction: float = 0.12
    radius: float = 0.3
    radius_scatter: float = 0.25
    clumps: float = 0.6
    counts: Literal["power", "lsst"] = late("power")
    colours: Literal["random", "sed"] = late("random")
    profile: Literal["sersic", "images"] = late("sersic")
    images: str = late("")
    part: Literal["", "train", "test"] = late("")
    n: tuple[float, float] = late((0.7, 1.8))
    clump_count: int = late(2)
    uniform_radius: tuple[float, float] | None = late(None)
    position: Literal["disc", "caustic"] = late("disc")


@dataclass(frozen=True, slots=True)
class ScenePrior:
    """What else is in a stamp, in every class.

    Attributes
    ----------
    density : float
        Field galaxies per arcmin^2 between the magnitude limits (reference band).
    mag : tuple of float
        Their magnitude limits.
    slope : float
        Counts grow as 10^(slope m).
    red_fraction : float
        Share of red ones among them.
    members : float
        Mean number of companions of the massive galaxy's own colour within `members_radius` arcsec.
    stars : float
        Stars per arcmin^2 between 16 and 23.
    """

    density: float = 0.0
    mag: tuple[float, float] = (18.0, 25.3)
    slope: float = 0.33
    red_fraction: float = 0.4
    members: float = 0.0
    members_radius: float = 12.0
    stars: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What "lens" means: the number of images, total magnification, arc S/N in the best band, resolved or not asked.

    A row whose class asks for a lens is drawn again up to `attempts` times; should all fail (one in thousands),
    it keeps the class of what was drawn last.
    """

    magnification: float = 3.0
    snr: float = 20.0
    snr_max: float = 1e9
    attempts: int = 60
    resolved: bool = late(True)
    images: tuple[int, int] = late((2, 9))


@dataclass(frozen=True, slots=True)
class EffectsPrior:
    """What detectors and pipelines do to images; each effect has a prior, and is off by default.

    Amplitudes are in units of the band's sigma, or of the peak where `unit` says so.

    Attributes
    ----------
    unit : str
        ``sigma``; or ``peak``: of `NoisePrior.peak`, the limits then those of a uniform distribution.
    cosmic_rays : (float, float, float, float)
        Probability per stamp and band, mean number, and limits (log-uniform) of the flux per pixel of the trail.
    hot_pixels : (float, float, float, float)
        The same, for single pixels.
    hot_columns : (float, float, float)
        Probability per stamp and band, and limits of the amplitude (either sign).
    bleed : float
        Probability per stamp and band that saturated pixels bleed along their columns.
    zero_bias : float
        Standard deviation of a constant added to the stamp, the same in all bands but for the unit.
    halo : (float, float)
        Probability, and largest depth (fraction of the object's surface brightness at two arcsec), of a bowl of
        background over-subtracted around the object.
    zero_point : float
        Standard deviation of each band's calibration, mag; it scales the light, not the noise.
    gain : float
        Standard deviation (fraction) of the scale of the whole stamp's light.
    astrometry : float
        Standard deviation of each band's offset per axis, arcsec.
    masks : (float, int, float, float)
        Probability, most circles, their radius (arcsec) and the largest share of the arcs' flux they may hide;
        masked pixels are missing.
    """

    unit: Literal["sigma", "peak"] = late("sigma")
    cosmic_rays: tuple[float, float, float, float] = (0.0, 1.0, 5.0, 50.0)
    hot_pixels: tuple[float, float, float, float] = (0.0, 1.0, 5.0, 50.0)
    hot_columns: tuple[float, float, float] = (0.0, 1.0, 5.0)
    bleed: float = 0.0
    zero_bias: float = 0.0
    halo: tuple[float, float] = (0.0, 0.0)
    zero_point: float = 0.0
    gain: float = 0.0
    astrometry: float = 0.0
    masks: tuple[float, int, float, float] = (0.0, 1, 0.2, 0.25)


@dataclass(frozen=True, slots=True)
class CanvasPrior:
    """Real survey stamps to paint on, for the classes ``painted`` and ``real``; empty = none.

    Attributes
    ----------
    catalog, survey, stamps : str
        As for ``lensscan scan``: a catalog, its survey (name or file) and the SPEC of its stamps.
    z, sigma_v : str
        Catalog columns of redshift and velocity dispersion (km/s); without them, and in rows where they hold
        nothing sensible, both are guessed from the galaxy's magnitudes by the recipe's own population.
    cut : str
        Name or file of a cut, for catalogs that hold more than massive galaxies; empty = all rows.
    part : str
        ``train`` or ``test``: four in five of the galaxies, or the others, by a hash of their id; empty = all.
    cells : float
        If positive, parts are of cells of the sky with sides of so many degrees instead of single galaxies, by a hash
        of the cell: neighbours share seeing, depth and sometimes pixels.
    """

    catalog: str = ""
    survey: str = ""
    stamps: str = ""
    z: str = ""
    sigma_v: str = ""
    cut: str = late("")
    part: Literal["", "train", "test"] = late("")
    cells: float = late(0.0)
