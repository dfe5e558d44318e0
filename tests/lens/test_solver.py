"""Every image found, none invented."""

import json

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM

from lensscan.lens import SIE, solver
from lensscan.lens.caustics import caustic, cut, image_number
from lensscan.lens.light import point_images
from lensscan.lens.solver import MOST_IMAGES

NAMES = ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2")


def random_lenses(n, seed, shear=0.2):
    rng = np.random.default_rng(seed)
    q = rng.uniform(0.2, 1.0, n)
    q[: n // 10], q[n // 10 : n // 5] = 1.0, 0.2
    e, phi, psi = (1 - q) / (1 + q), rng.uniform(0, np.pi, n), rng.uniform(0, np.pi, n)
    g = rng.uniform(0, shear, n) * (rng.uniform(size=n) < 0.7)
    return rng, SIE(
        rng.uniform(0.3, 3, n),
        e * np.cos(2 * phi),
        e * np.sin(2 * phi),
        rng.normal(0, 0.3, n),
        rng.normal(0, 0.3, n),
        g * np.cos(2 * psi),
        g * np.sin(2 * psi),
    )


def brute_force_count(lens, k, sx, sy, nodes=40001):
    """Count images by a dense scan of the angular equation, written independently of the solver."""
    phi = torch.linspace(0, 2 * torch.pi, nodes, dtype=torch.float64) + 0.00123
    c, s = torch.cos(phi), torch.sin(phi)
    centred = SIE(lens.theta_E[k], lens.e1[k], lens.e2[k], 0.0, 0.0)
    ax, ay = centred.deflection(c, s)
    shear = torch.tensor(
        [[1 - lens.gamma1[k], -lens.gamma2[k]], [-lens.gamma2[k], 1 + lens.gamma1[k]]], dtype=torch.float64
    )
    w = torch.linalg.solve(shear, torch.stack([sx[k] - lens.x[k] + ax, sy[k] - lens.y[k] + ay]))
    cross, dot = c * w[1] - s * w[0], c * w[0] + s * w[1]
    return int((((cross[1:] > 0) != (cross[:-1] > 0)) & (dot[1:] > 0)).sum())


def test_oracle_images_and_delays(shared_oracle):
    lenses = json.loads((shared_oracle / "oracle_sie.json").read_text(encoding="utf-8"))["lenses"]
    table = {
        k: np.array([lens[k] for lens in lenses])
        for k in ("theta_E", "e1", "e2", "x", "y", "source_x", "source_y", "z_l", "z_s")
    }
    sie = SIE(*(table[k] for k in ("theta_E", "e1", "e2", "x", "y")))
    images = sie.images(table["source_x"], table["source_y"])
    delays = sie.time_delays(
        table["source_x"], table["source_y"], table["z_l"], table["z_s"], FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    )
    assert images.count.tolist() == [lens["n_images"] for lens in lenses]
    for k, lens in enumerate(lenses):
        n = lens["n_images"]
        np.testing.assert_allclose(images.x[k, :n], lens["images"]["x"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(images.y[k, :n], lens["images"]["y"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(delays[k, :n], lens["images"]["time_delay_days"], rtol=0, atol=1e-5)
        assert torch.isnan(images.x[k, n:]).all()


def test_images_satisfy_the_lens_equation_and_the_order():
    rng, lens = random_lenses(2000, 1)
    r, phi = np.sqrt(rng.uniform(size=2000)) * 1.3 * lens.theta_E.numpy(), rng.uniform(0, 2 * np.pi, 2000)
    sx, sy = lens.x + torch.from_numpy(r * np.cos(phi)), lens.y + torch.from_numpy(r * np.sin(phi))
    images = lens.images(sx, sy)
    columns = SIE(*(getattr(lens, name)[:, None] for name in ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2")))
    bx, by = columns.source(images.x, images.y)
    found = torch.isfinite(images.x)
    assert float((bx - sx[:, None])[found].abs().max()) < 1e-11
    assert float((by - sy[:, None])[found].abs().max()) < 1e-11
    assert torch.equal(found.sum(1), images.count)
    steps = torch.diff(images.fermat, dim=1)
    assert bool((steps[torch.isfinite(steps)] >= 0).all())
    assert bool((images.magnification[:, 0] > 0).all()), "the first image is a minimum"


def test_no_image_is_missed_or_invented():
    rng, lens = random_lenses(300, 2)
    r, phi = np.sqrt(rng.uniform(size=300)) * 1.3 * lens.theta_E.numpy(), rng.uniform(0, 2 * np.pi, 300)
    sx, sy = lens.x + torch.from_numpy(r * np.cos(phi)), lens.y + torch.from_numpy(r * np.sin(phi))
    want = [brute_force_count(lens, k, sx, sy, 10001) for k in range(300)]
    assert lens.images(sx, sy).count.tolist() == want


@pytest.mark.parametrize("distance", [1e-3, 1e-4])
def test_sources_beside_a_caustic(distance):
    n = 200
    rng, lens = random_lenses(n, 3)
    phi = torch.from_numpy(rng.uniform(0, 2 * np.pi, n))
    low, high = torch.full((n,), 1e-3, dtype=torch.float64), torch.full((n,), 40.0, dtype=torch.float64)
    for _ in range(70):
        middle = 0.5 * (low + high)
        inside = lens.magnification(lens.x + middle * torch.cos(phi), lens.y + middle * torch.sin(phi)) < 0
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    bx, by = lens.source(lens.x + low * torch.cos(phi), lens.y + low * torch.sin(phi))
    angle = torch.from_numpy(rng.uniform(0, 2 * np.pi, n))
    sx, sy = bx + distance * torch.cos(angle), by + distance * torch.sin(angle)
    want = [brute_force_count(lens, k, sx, sy) for k in range(n)]
    assert lens.images(sx, sy).count.tolist() == want
    assert {2, 4} <= set(want)


def test_naked_cusps_give_three_images():
    lens = SIE(1.0, 0.6, 0.0, 0.0, 0.0, 0.15, 0.0)
    counts = {int(lens.images(x, 0.0).count) for x in np.linspace(0, 1.5, 61)} | {
        int(lens.images(0.0, y).count) for y in np.linspace(0, 1.5, 61)
    }
    assert {1, 3} <= counts


OPPOSED = (1.0, 0.1705, 0.2057, 0.0, 0.0, 0.1111, 0.1322)  # q = 0.58 and a shear of 0.17 along the same axis
IN_THE_BUTTERFLY = (-0.0020, 0.0073)


def test_shear_against_ellipticity_makes_eight_images_and_none_is_dropped():
    lens = SIE(*OPPOSED)
    images = lens.images(*IN_THE_BUTTERFLY)
    source = tuple(torch.tensor(v, dtype=torch.float64) for v in IN_THE_BUTTERFLY)
    assert int(images.count) == 8 == int(image_number(lens, *source, 200_001))
    assert torch.isfinite(images.x).all()
    bx, by = lens.source(images.x, images.y)
    assert float(torch.hypot(bx - source[0], by - source[1]).max()) < 1e-13
    assert int((images.magnification > 0).sum()) == 4, "four minima, four saddles"
    line = torch.linspace(0, 1, 400, dtype=torch.float64)
    counts = lens.images(line * IN_THE_BUTTERFLY[0] * 20, line * IN_THE_BUTTERFLY[1] * 20).count
    assert {2, 4, 6, 8} >= set(counts.tolist()) >= {2, 4, 8}


def test_more_images_than_there_is_room_for_are_an_error(monkeypatch):
    monkeypatch.setattr(solver, "MOST_IMAGES", 6)
    with pytest.raises(ArithmeticError, match="8 images"):
        SIE(*OPPOSED).images(*IN_THE_BUTTERFLY)


def opposed_systems(n, seed):
    """Lenses whose shear nearly cancels their ellipticity, where caustics have most cusps; sources inside them."""
    rng = np.random.default_rng(seed)
    q, phi = rng.uniform(0.2, 1.0, n), rng.uniform(0, np.pi, n)
    e = (1 - q) / (1 + q)
    g, psi = np.minimum(e * rng.normal(0.66, 0.12, n).clip(0), 0.3), phi + rng.normal(0, 0.03, n)
    shape = (e * np.cos(2 * phi), e * np.sin(2 * phi), np.zeros(n), np.zeros(n))
    lens = SIE(np.ones(n), *shape, g * np.cos(2 * psi), g * np.sin(2 * psi))
    x, y = caustic(lens, 91)
    rows, place = torch.arange(n), torch.from_numpy(rng.integers(0, 90, n))
    inwards = torch.from_numpy(rng.uniform(0, 1.1, n))
    return lens, inwards * x[rows, place], inwards * y[rows, place]


def test_opposed_systems_have_the_images_that_degree_theory_counts():
    lens, sx, sy = opposed_systems(3000, 4)
    found = lens.images(sx, sy).count
    want = winding_number_count(lens, sx, sy, found)
    assert torch.equal(found, want)
    assert {2, 4, 6, 8} >= set(want.tolist()) >= {4, 6, 8}


def test_without_shear_four_images_are_the_most():
    rng, lens = random_lenses(3000, 9, shear=0.0)
    r, phi = rng.uniform(size=3000) * 1.3 * lens.theta_E.numpy(), rng.uniform(0, 2 * np.pi, 3000)
    found = lens.images(lens.x + torch.from_numpy(r * np.cos(phi)), lens.y + torch.from_numpy(r * np.sin(phi))).count
    assert int(found.max()) == 4


def test_round_lens_exactly_behind_is_a_ring():
    images = SIE(1.0, 0.0, 0.0, 0.0, 0.0).images(0.0, 0.0)
    assert int(images.count) == 0


def test_shapes_broadcast():
    lens = SIE(np.ones((3, 1)), 0.1, 0.0, 0.0, 0.0)
    images = lens.images(np.zeros((1, 4)) + 0.1, 0.05)
    assert images.x.shape == (3, 4, MOST_IMAGES)
    assert images.count.shape == (3, 4)
    assert lens.images(np.zeros((3, 0)), 0.0).x.shape == (3, 0, MOST_IMAGES)


def part(lens, rows):
    return SIE(*(getattr(lens, name)[rows] for name in NAMES))


def hard_systems(n, seed):
    """Lenses with q = 1, q = 0.2 and shear 0.2 among them; every fourth source anywhere, the others 1e-6 to 1e-4
    arcsec from a fold, from a cusp and from the cut."""
    rng = np.random.default_rng(seed)
    q = rng.uniform(0.2, 1.0, n)
    q[: n // 10], q[n // 10 : n // 5] = 1.0, 0.2
    e, phi, psi = (1 - q) / (1 + q), rng.uniform(0, np.pi, n), rng.uniform(0, np.pi, n)
    g = rng.uniform(0, 0.2, n)
    g[::5], g[1::5] = 0.0, 0.2
    shape = (e * np.cos(2 * phi), e * np.sin(2 * phi), rng.normal(0, 0.3, n), rng.normal(0, 0.3, n))
    lens = SIE(rng.uniform(0.3, 3, n), *shape, g * np.cos(2 * psi), g * np.sin(2 * psi))
    r, angle = np.sqrt(rng.uniform(size=n)) * 1.4 * lens.theta_E.numpy(), rng.uniform(0, 2 * np.pi, n)
    s = torch.stack([lens.x + torch.from_numpy(r * np.cos(angle)), lens.y + torch.from_numpy(r * np.sin(angle))])
    folds, edge = torch.stack(caustic(lens, 2001)), torch.stack(cut(lens, 2001))
    steps = torch.linalg.vector_norm(torch.diff(folds, dim=2), dim=0)
    places = torch.from_numpy(rng.integers(0, 2000, n))
    quarter = torch.from_numpy(rng.integers(0, 4, n) * 500)
    cusps = quarter + torch.stack([steps[k, i : i + 500].argmin() for k, i in enumerate(quarter.tolist())])
    away = 10 ** torch.from_numpy(rng.uniform(-6, -4, n))
    step = away * torch.stack([torch.cos(torch.from_numpy(angle)), torch.sin(torch.from_numpy(angle))])
    rows, kind = torch.arange(n), torch.arange(n) % 4
    for number, (curve, place) in enumerate(((folds, places), (folds, cusps), (edge, places)), start=1):
        s = torch.where(kind == number, curve[:, rows, place] + step, s)
    return lens, s[0], s[1]


def winding_number_count(lens, sx, sy, found):
    """Count images by degree theory, with finer polygons where `found` disagrees with the coarse ones."""
    want = torch.cat([image_number(part(lens, k), sx[k], sy[k]) for k in torch.arange(len(sx)).split(200)])
    for k in torch.nonzero(want != found)[:, 0]:
        want[k] = image_number(part(lens, k), sx[k], sy[k], 2_000_001)
    return want


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_ten_thousand_hard_systems(seed):
    lens, sx, sy = hard_systems(5_000, seed)
    e, g = torch.hypot(lens.e1, lens.e2), torch.hypot(lens.gamma1, lens.gamma2)
    assert int((e == 0).sum()) == int(((e - 0.8 / 1.2).abs() < 1e-12).sum()) == 500, "q = 1 and q = 0.2"
    assert int(((g - 0.2).abs() < 1e-12).sum()) == 1000
    images = lens.images(sx, sy)
    want = winding_number_count(lens, sx, sy, images.count)
    assert torch.equal(images.count, want)
    assert {1, 2, 3, 4} <= set(want.tolist())
    bx, by = SIE(*(getattr(lens, name)[:, None] for name in NAMES)).source(images.x, images.y)
    found = torch.isfinite(images.x)
    left = torch.hypot(bx - sx[:, None], by - sy[:, None])
    assert float((left * images.magnification.abs())[found].max()) < 1e-8, "arcsec in the image plane"
    assert float(left[found & (images.magnification.abs() > 1e-3)].max()) < 1e-11, "arcsec in the source plane"
    apart = torch.hypot(images.x[:, :, None] - images.x[:, None], images.y[:, :, None] - images.y[:, None])
    assert float(apart.nan_to_num(1.0)[:, ~torch.eye(MOST_IMAGES, dtype=torch.bool)].min()) > 1e-9, "no image twice"
    minima, saddles = ((sign * images.magnification > 0).sum(1) for sign in (1, -1))
    assert torch.equal(minima - saddles, want % 2), "inside the cut as many minima as saddles, outside one more"


def triangle_search(lens, sx, sy, size, cells=600):
    """Find images by triangles of an image-plane grid that hold the source in the source plane, then Newton."""
    axis = torch.linspace(-size, size, cells + 1, dtype=torch.float64) + 0.0003
    px, py = torch.meshgrid(lens.x + axis, lens.y + axis, indexing="xy")
    bx, by = (v - s for v, s in zip(lens.source(px, py), (sx, sy), strict=True))

    def crosses(i, j):
        return bx[i] * by[j] - bx[j] * by[i]

    low, high = slice(None, -1), slice(1, None)
    corners = [(low, low), (low, high), (high, high), (high, low)]
    hits = []
    for i, j, k in ((0, 1, 2), (0, 2, 3)):
        a, b, c = corners[i], corners[j], corners[k]
        signs = torch.stack([crosses(a, b), crosses(b, c), crosses(c, a)]) > 0
        for row, column in torch.nonzero(signs.all(0) | (~signs).all(0)).tolist():
            hits.append((float(px[row, column]), float(py[row, column])))
    found = []
    for x, y in hits:
        for _ in range(60):
            f_xx, f_xy, f_yy = lens.hessian(x, y)
            rx, ry = (v - s for v, s in zip(lens.source(x, y), (sx, sy), strict=True))
            det = (1 - f_xx) * (1 - f_yy) - f_xy * f_xy
            step = complex((1 - f_yy) * rx + f_xy * ry, f_xy * rx + (1 - f_xx) * ry) / float(det)
            step *= min(1.0, size / cells / max(abs(step), 1e-300))  # half a cell at most
            x, y = x - step.real, y - step.imag
        left = np.hypot(*(float(v - s) for v, s in zip(lens.source(x, y), (sx, sy), strict=True)))
        if left < 1e-9 and all(np.hypot(x - u, y - v) > 1e-6 for u, v in found):
            found.append((x, y))
    return found


def test_same_images_as_a_triangle_search():
    rng, lens = random_lenses(40, 8)
    r, phi = np.sqrt(rng.uniform(size=40)) * 0.7 * lens.theta_E.numpy(), rng.uniform(0, 2 * np.pi, 40)
    sx, sy = lens.x + torch.from_numpy(r * np.cos(phi)), lens.y + torch.from_numpy(r * np.sin(phi))
    images = lens.images(sx, sy)
    for k in range(40):
        size = 4 * float(lens.theta_E[k])
        want = triangle_search(part(lens, k), sx[k], sy[k], size)
        # the grid is too coarse for the faint images beside the singular centre, where A changes within a cell
        bright = images.magnification[k].abs() > 0.05
        got = list(zip(images.x[k][bright].tolist(), images.y[k][bright].tolist(), strict=True))
        want = [place for place in want if abs(float(part(lens, k).magnification(*place))) > 0.05]
        assert len(got) == len(want)
        np.testing.assert_allclose(sorted(got), sorted(want), atol=1e-8)


def test_results_stay_on_the_device_of_the_sources():
    """A lens made of floats lies on the CPU; `meta` stands for any other device."""
    nowhere = torch.empty(0, device="meta")
    images = SIE(1.0, 0.1, 0.0, 0.0, 0.0).images(nowhere, nowhere)
    assert {value.device.type for value in (images.x, images.magnification, images.fermat, images.count)} == {"meta"}
    x, _, flux = point_images(SIE(1.0, 0.1, 0.0, 0.0, 0.0), nowhere, nowhere)
    assert (x.device.type, flux.device.type) == ("meta", "meta")
