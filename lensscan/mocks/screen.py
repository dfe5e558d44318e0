"""A quick look at lenses before they are measured: which could pass the label rule (numpy, float64).

The magnification is that of an isothermal sphere, 2 theta_E / b, levelled at the source's size; the noise that of
the arcs' area (brightness is conserved; 7 r^2 is about the noise-equivalent area of an exponential disc) and of the
PSF's, with the Poisson noise of arcs and lens.  Against the measured values both have a median ratio near one;
the slacks below are what one lens in a hundred needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensscan.lens.cosmology import ARCSEC, distances
from lensscan.lens.light import sersic_b
from lensscan.mocks import sed
from lensscan.mocks.earlytypes import absolute_magnitude, log_size, track
from lensscan.mocks.recipes import Recipe
from lensscan.survey.zeropoint import NJY_ZERO_POINT

__all__ = ["Screen"]

Array = NDArray[np.float64]
MAGNIFICATION = 1.5  # by which the estimates may fall short
SIGNAL = 1.3
MARGIN = 2.0  # scatters of the lens galaxy's magnitude allowed beyond its limits
CUSPS = 0.5  # beyond this fraction of theta_E quadruple images need a mass flatter than 0.53, or shear


@dataclass(frozen=True, slots=True)
class Screen:
    """The best that a recipe's stamps can show.

    Attributes
    ----------
    recipe : Recipe
    fwhm : float
        Best seeing of any band, arcsec; 0 where the recipe draws it otherwise.
    band : ndarray, shape (types, redshifts)
        The band (of `sed.BANDS`) that shows sources of this type and redshift best; and in it:
    colour : ndarray, shape (types, redshifts)
        Their flux relative to i.
    noise, poisson : ndarray, shape (types, redshifts)
        Noise (nJy per arcsec), and nJy per electron.
    """

    recipe: Recipe
    fwhm: float
    band: NDArray[np.int64]
    colour: Array
    noise: Array
    poisson: Array

    @classmethod
    def of(cls, recipe: Recipe) -> Screen:
        """Read the best seeing and depth off a recipe; no noise where it follows from the brightest pixel."""
        table, order = sed.table(), list(sed.BANDS)
        bands = [recipe.band[name] for name in recipe.bands]
        fwhm = min(band.fwhm[0] - 2.5 * band.fwhm[1] for band in bands)
        if recipe.psf.uniform is not None or recipe.psf.share < 1 or not recipe.label.resolved:
            fwhm = 0.0
        index = np.array([order.index(sed.near(name)) for name in recipe.bands])
        colour = 10.0 ** (-0.4 * (table.base[:, :, index] - table.base[:, :, [order.index("i")]]))
        real = float(recipe.noise.relative is None)
        noise = np.array([band.sigma[0] for band in bands]) / recipe.pixel_scale
        best = (noise / colour).argmin(axis=-1)
        poisson = np.array([band.poisson for band in bands])
        chosen = np.take_along_axis(colour, best[..., None], -1)[..., 0]
        return cls(recipe, max(fwhm, 0.0), index[best], chosen, real * noise[best], real * poisson[best])

    def promising(self, pairs: dict[str, Array]) -> NDArray[np.bool_]:
        """Tell which pairs (see `deflectors.draw_pairs`), of any shape, could pass the label rule."""
        rule, prior = self.recipe.label, self.recipe.source
        theta_E, radius = pairs["theta_E"], pairs["source_radius"]
        if prior.uniform_radius is not None:
            radius = np.full_like(radius, prior.uniform_radius[0])
        offset = pairs["source_distance"] if prior.position == "disc" else 0.0
        magnification = 0.3 + 2 / np.sqrt(offset**2 + (0.6 * radius / theta_E) ** 2)
        most = MAGNIFICATION * magnification
        mag = self._lens_magnitude(pairs)
        good = (most >= rule.magnification) & self._bright(pairs, radius, magnification, mag)
        galaxy = self.recipe.galaxy
        good &= (
            np.abs(mag - 0.5 * sum(galaxy.mag)) <= 0.5 * (galaxy.mag[1] - galaxy.mag[0]) + MARGIN * galaxy.mag_scatter
        )
        if rule.images[0] > 2 and prior.position == "disc":
            good &= offset < CUSPS
        if rule.resolved:
            good &= (most * radius > self.fwhm) & (theta_E**2 > radius**2 + 0.25 * self.fwhm**2)
        return good

    def _bright(self, pairs: dict[str, Array], radius: Array, magnification: Array, mag: Array) -> NDArray[np.bool_]:
        at = sed.table().nearest(pairs["source_type"], pairs["z_source"])
        noise, poisson = self.noise[at], self.poisson[at]
        signal = 10.0 ** (0.4 * (NJY_ZERO_POINT - pairs["source_mag"])) * self.colour[at] * magnification
        area = 7.0 * radius**2 * magnification + 2.266 * self.fwhm**2
        variance = (noise**2 + 0.5 * poisson * self._glare(pairs, self.band[at], mag)) * area + poisson * signal
        return (SIGNAL * signal) ** 2 >= self.recipe.label.snr**2 * variance

    def _lens_magnitude(self, pairs: dict[str, Array]) -> Array:
        """Return the median i magnitude of the lens galaxy."""
        v = np.log10(np.clip(pairs["sigma_v"], *self.recipe.lens.sigma_v[2:]))
        z = pairs["z_lens"]
        modulus = distances(self.recipe.cosmology).modulus(z)
        return absolute_magnitude(v) + modulus + track(self.recipe.galaxy, "k_i", z)

    def _glare(self, pairs: dict[str, Array], band: NDArray[np.int64], mag: Array) -> Array:
        """Return the median brightness (nJy per square arcsec) of the lens galaxy at theta_E."""
        z, table, galaxy = pairs["z_lens"], sed.table(), self.recipe.galaxy
        passive = table.base[0, table.nearest(z, z)[1]]
        colour = np.take_along_axis(passive, band[..., None], -1)[..., 0] - passive[..., list(sed.BANDS).index("i")]
        v = np.log10(np.clip(pairs["sigma_v"], *self.recipe.lens.sigma_v[2:]))
        arcsec = 1000 * distances(self.recipe.cosmology).angular(z) * ARCSEC
        radius = np.clip(10.0 ** log_size(v) / arcsec, *galaxy.radius)
        n = galaxy.sersic_n[0]
        b = sersic_b(n)
        peak = b ** (2 * n) / (2 * math.pi * n * math.gamma(2 * n)) / radius**2
        light = 10.0 ** (0.4 * (NJY_ZERO_POINT - mag - colour)) * peak
        return light * np.exp(-b * (pairs["theta_E"] / radius) ** (1 / n))
