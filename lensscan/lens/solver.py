"""All images of point sources behind isothermal ellipses with shear, by a batched search in one angle.

The deflection alpha of an isothermal ellipse depends on the polar angle phi about its centre only.  With
M = (1 - Gamma)^-1 and e the unit vector of phi, the lens equation says that w(phi) = M (beta + alpha(phi))
points along e; the image then lies at the radius e . w.  So images are the roots of g(phi) = e x w with
e . w > 0.  From d alpha / d phi = (b / psi) e_perp follow g' and g'' in closed form.  The roots of g'' are
bracketed on a grid, those of g' between them, and those of g between these: g is monotone in every bracket,
so pairs of images near folds, and triples near cusps, are found however close they are.

How many images there can be: g'' + g = -(b / psi^3) T(phi), with T a trigonometric polynomial of degree 2 in
2 phi, which changes its sign at most eight times round the circle (the cusps of the caustic).  By Rolle's theorem
for the operator D^2 + 1 on half circles, g then has ten roots at most.  More than eight images were never seen,
also where they are sought (shear that nearly cancels the ellipticity; docs/decisions.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lensscan.lens.sie import SIE

__all__ = ["MOST_IMAGES", "Images", "solve"]

MOST_IMAGES = 8
"""Width of the arrays of images; without shear there are four at most."""
GRID = 128
BRACKETS = 16
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Images:
    """Images of point sources, ordered by arrival time, NaN beyond `count`.

    Attributes
    ----------
    x, y : Tensor, shape (..., 8)
        Positions, arcsec.
    magnification : Tensor, shape (..., 8)
        Signed; negative for saddles.
    fermat : Tensor, shape (..., 8)
        Fermat potential |theta - beta|^2 / 2 - psi, arcsec^2.
    count : Tensor of int64, shape (...)
        Number of images; 0 for a source exactly behind a round lens, whose image is a ring.  Six or eight need
        a shear that counteracts the ellipticity.
    """

    x: Tensor
    y: Tensor
    magnification: Tensor
    fermat: Tensor
    count: Tensor


@dataclass(frozen=True, slots=True)
class _Lenses:
    """Lenses and sources as columns (n, 1): b = theta_E sqrt q, axes, M, and beta relative to the lens."""

    b: Tensor
    q: Tensor
    cos: Tensor
    sin: Tensor
    m11: Tensor
    m12: Tensor
    m22: Tensor
    bx: Tensor
    by: Tensor

    def functions(self, phi: Tensor, order: int) -> tuple[Tensor, ...]:
        """Return (r, g, g') for order 1, (r, g, g', g'') for order 2, at angles (n, k)."""
        c, s = torch.cos(phi), torch.sin(phi)
        major, minor = self.cos * c + self.sin * s, self.cos * s - self.sin * c
        psi = torch.sqrt((self.q * major) ** 2 + minor**2)
        f = torch.sqrt((1 - self.q) * (1 + self.q)).clamp_min(1e-12)
        a1, a2 = self.b / f * torch.atan(f * major / psi), self.b / f * torch.atanh(f * minor / psi)
        vx, vy = self.bx + self.cos * a1 - self.sin * a2, self.by + self.sin * a1 + self.cos * a2
        wx, wy = self.m11 * vx + self.m12 * vy, self.m12 * vx + self.m22 * vy
        r, g = c * wx + s * wy, c * wy - s * wx
        t = self.m11 * s * s - 2 * self.m12 * s * c + self.m22 * c * c
        bend = self.b / psi
        first = bend * t - r
        if order == 1:
            return r, g, first
        u = (self.m22 - self.m11) * s * c + self.m12 * (c * c - s * s)
        slope = (1 - self.q) * (1 + self.q) * major * minor / psi
        return r, g, first, -g - 3 * bend * u - bend / psi * slope * t


def solve(lens: SIE, sx: Tensor, sy: Tensor) -> Images:
    """Return all images of point sources at (`sx`, `sy`), arcsec.

    Parameters
    ----------
    lens : SIE
        Lenses; their parameters broadcast against the sources.
    sx, sy : Tensor
        Source positions, arcsec, in the frame of the lens centres.

    Returns
    -------
    Images
        In float64, with the broadcast shape of lenses and sources.

    Raises
    ------
    ArithmeticError
        If a source has more than `MOST_IMAGES` images: none is dropped in silence.
    """
    values = (lens.theta_E, lens.e1, lens.e2, lens.x, lens.y, lens.gamma1, lens.gamma2, sx, sy)
    device = next(
        (v.device for v in values if v.device.type != "cpu"), sx.device
    )  # lenses made of floats are on the CPU
    columns = torch.broadcast_tensors(*(v.to(device, torch.float64) for v in values))
    shape = columns[0].shape
    flat = [c.reshape(-1) for c in columns]
    parts = [_solve(*(c[i : i + CHUNK] for c in flat)) for i in range(0, flat[0].numel(), CHUNK)]
    if not parts:
        parts = [tuple(torch.zeros(0, MOST_IMAGES, dtype=torch.float64, device=device) for _ in range(4))]
    x, y, mu, fermat = (torch.cat([p[k] for p in parts]).view(*shape, MOST_IMAGES) for k in range(4))
    return Images(x, y, mu, fermat, torch.isfinite(x).sum(dim=-1))


def _solve(
    theta_E: Tensor, e1: Tensor, e2: Tensor, x: Tensor, y: Tensor, g1: Tensor, g2: Tensor, sx: Tensor, sy: Tensor
) -> tuple[Tensor, ...]:
    from lensscan.lens.sie import magnification, potential

    e = torch.sqrt(e1 * e1 + e2 * e2)
    q, axis = (1 - e) / (1 + e), 0.5 * torch.atan2(e2, e1)
    det = 1 - g1 * g1 - g2 * g2
    columns = (theta_E * torch.sqrt(q), q, torch.cos(axis), torch.sin(axis), (1 + g1) / det, g2 / det, (1 - g1) / det)
    lenses = _Lenses(*(c[:, None] for c in (*columns, sx - x, sy - y)))
    phi = _images(lenses)
    phi = torch.nn.functional.pad(phi, (0, max(MOST_IMAGES - phi.shape[1], 0)), value=torch.nan)
    r = lenses.functions(phi, 1)[0]
    r = torch.where(r > 0, r, torch.nan)
    dx, dy = r * torch.cos(phi), r * torch.sin(phi)
    lens = tuple(v[:, None] for v in (theta_E, e1, e2, torch.zeros_like(x), torch.zeros_like(y), g1, g2))
    fermat = 0.5 * ((dx - lenses.bx) ** 2 + (dy - lenses.by) ** 2) - potential(dx, dy, *lens)
    mu = magnification(dx, dy, *lens)
    most = int(torch.isfinite(fermat).sum(dim=1).max())
    if most > MOST_IMAGES:
        raise ArithmeticError(f"a source has {most} images, more than the {MOST_IMAGES} there is room for")
    order = torch.argsort(torch.where(torch.isnan(fermat), torch.inf, fermat), dim=1, stable=True)[:, :MOST_IMAGES]
    return tuple(torch.gather(v, 1, order) for v in (dx + x[:, None], dy + y[:, None], mu, fermat))


def _images(lenses: _Lenses) -> Tensor:
    """Return the roots of g, shape (n, BRACKETS), NaN where there are fewer."""
    n, device = len(lenses.b), lenses.b.device
    # The grid starts off the axes of the lens, so that symmetric sources have no roots on its nodes.
    grid = torch.arange(GRID + 1, device=device, dtype=torch.float64) * (2 * torch.pi / GRID) + 0.0123
    curve = lenses.functions(grid.expand(n, -1), 2)[3]
    low, high = _brackets(grid.expand(n, -1), curve)
    turns = _bisect(lenses, low, high, 3, 34)
    extrema = _between(lenses, turns, 2)
    return _between(lenses, extrema, 1)


def _brackets(nodes: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends (n, BRACKETS) of the cells in which `values` changes sign, NaN where there are fewer."""
    change = (values[:, :-1] > 0) != (values[:, 1:] > 0)
    change &= torch.isfinite(values[:, :-1]) & torch.isfinite(values[:, 1:])
    width = min(BRACKETS, change.shape[1])
    rank = torch.argsort((~change).to(torch.int8), dim=1, stable=True)[:, :width]
    valid = torch.gather(change, 1, rank)
    low, high = torch.gather(nodes[:, :-1], 1, rank), torch.gather(nodes[:, 1:], 1, rank)
    return torch.where(valid, low, torch.nan), torch.where(valid, high, torch.nan)


def _between(lenses: _Lenses, points: Tensor, which: int) -> Tensor:
    """Return the roots of function `which` between neighbouring `points` (n, k), taken round the circle."""
    last = torch.nan_to_num(points, nan=-torch.inf).amax(dim=1, keepdim=True)
    first = torch.nan_to_num(points, nan=torch.inf).amin(dim=1, keepdim=True)
    ordered = torch.sort(torch.where(torch.isnan(points), torch.inf, points), dim=1).values
    # The circle closes with the first point, one turn on; unused places repeat it, as empty intervals.
    closed = torch.cat([ordered, torch.full_like(first, torch.inf)], dim=1)
    nodes = torch.where(torch.isinf(closed), first + 2 * torch.pi, closed)
    nodes = torch.where(torch.isfinite(last), nodes, torch.nan)
    low, high = _brackets(nodes, lenses.functions(nodes, 1)[which])
    return _bisect(lenses, low, high, which, 8 if which == 1 else 34)


def _bisect(lenses: _Lenses, low: Tensor, high: Tensor, which: int, steps: int) -> Tensor:
    """Return roots of function `which` in brackets (n, k) by bisection; those of g are finished by bracketed Newton."""
    used = int(torch.isfinite(low).sum(dim=1).max()) if len(low) else 0
    low, high = low[:, : max(used, 1)], high[:, : max(used, 1)]
    order = 2 if which == 3 else 1
    rising = lenses.functions(high, order)[which] > 0
    newton = 26 if which == 1 else 0
    middle = 0.5 * (low + high)
    for step in range(steps + newton):
        values = lenses.functions(middle, order)
        above = (values[which] > 0) == rising
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        half = 0.5 * (low + high)
        if step < steps:
            middle = half
            continue
        guess = middle - values[1] / values[2]
        middle = torch.where((guess >= low) & (guess <= high), guess, half)
    return middle
