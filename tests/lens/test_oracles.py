"""Images, magnifications, delays and rendered pictures beside independent codes, run live; skipped where they are
not installed.

Known defects that these tests keep clear of: lenstronomy's analytical solver misses images of (nearly) round
lenses, and the Hessian of its SIE is a coarse finite difference (its EPL with slope 2 is exact); caustics'
image finder fails unless the singular centre lies on a corner of its search grid.
"""

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM

from lensscan.lens import SIE
from lensscan.lens.epl import EPL
from lensscan.lens.light import clumpy_sersic, double_sersic, point_images, sersic_peak

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
NAMES = ("theta_E", "e1", "e2", "x", "y", "gamma1", "gamma2")


def systems(n, seed, shear):
    """Lenses away from round, with sources anywhere inside the Einstein radius."""
    rng = np.random.default_rng(seed)
    q, phi, psi = rng.uniform(0.3, 0.9, n), rng.uniform(0, np.pi, n), rng.uniform(0, np.pi, n)
    e, g = (1 - q) / (1 + q), shear * rng.uniform(0.2, 1, n)
    columns = [rng.uniform(0.5, 2, n), e * np.cos(2 * phi), e * np.sin(2 * phi), *rng.normal(0, 0.1, (2, n))]
    columns += [g * np.cos(2 * psi), g * np.sin(2 * psi)]
    r, a = 0.8 * np.sqrt(rng.uniform(size=n)) * columns[0], rng.uniform(0, 2 * np.pi, n)
    return np.stack(columns, axis=1), columns[3] + r * np.cos(a), columns[4] + r * np.sin(a)


def lenstronomy_keywords(row):
    epl = dict(zip(("theta_E", "e1", "e2", "center_x", "center_y"), row[:5], strict=True), gamma=2.0)
    return [epl, {"gamma1": row[5], "gamma2": row[6], "ra_0": row[3], "dec_0": row[4]}]


@pytest.mark.parametrize("shear", [0.0, 0.15])
def test_images_and_delays_as_lenstronomy(shear):
    solvers = pytest.importorskip(
        "lenstronomy.LensModel.Solver.lens_equation_solver", reason="lenstronomy comes with lensscan[test]"
    )
    from lenstronomy.LensModel.lens_model import LensModel

    rows, sx, sy = systems(6, 5, shear)
    model = LensModel(["EPL", "SHEAR"], z_lens=0.5, z_source=1.7, cosmo=COSMOLOGY)
    solver = solvers.LensEquationSolver(model)
    for row, bx, by in zip(rows, sx, sy, strict=True):
        lens, kwargs = SIE(*row), lenstronomy_keywords(row)
        images = lens.images(bx, by)
        n = int(images.count)
        x, y = solver.image_position_from_source(
            bx, by, kwargs, min_distance=0.02, search_window=8 * row[0], x_center=row[3], y_center=row[4],
            precision_limit=1e-11, num_iter_max=200, arrival_time_sort=True, magnification_limit=1e-3,
        )  # fmt: skip
        bright = images.magnification[:n].abs() > 1e-3
        ours = torch.stack([images.x[:n], images.y[:n]])[:, bright]
        assert len(x) == ours.shape[1]
        np.testing.assert_allclose(ours, [x, y], atol=1e-6)
        mu = model.magnification(ours[0].numpy(), ours[1].numpy(), kwargs)
        np.testing.assert_allclose(images.magnification[:n][bright], mu, rtol=1e-9 * max(1.0, np.abs(mu).max()))
        delays = lens.time_delays(bx, by, 0.5, 1.7, COSMOLOGY)[:n][bright]
        arrival = model.arrival_time(ours[0].numpy(), ours[1].numpy(), kwargs, x_source=bx, y_source=by)
        np.testing.assert_allclose(delays, arrival - arrival[0], rtol=2e-9, atol=1e-5)


@pytest.fixture
def double_precision():
    """Have caustics compute in float64 throughout."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double_precision")
def test_deflection_and_images_as_caustics():
    caustics = pytest.importorskip("caustics", reason="caustics comes with lensscan[test]")
    rows, sx, sy = systems(4, 6, 0.0)
    cosmology = caustics.FlatLambdaCDM(name="cosmo", h0=0.7, Om0=0.3)
    for row, bx, by in zip(rows, sx, sy, strict=True):
        q = (1 - np.hypot(row[1], row[2])) / (1 + np.hypot(row[1], row[2]))
        phi = 0.5 * np.arctan2(row[2], row[1])
        keywords = {"x0": 0.0, "y0": 0.0, "q": q, "phi": phi, "Rein": row[0], "z_l": 0.5, "z_s": 1.7}
        theirs = caustics.SIE(name="lens", cosmology=cosmology, **keywords)
        theirs.to(dtype=torch.float64)
        ours = SIE(row[0], row[1], row[2], 0.0, 0.0)
        grid = torch.linspace(-2.9, 3.1, 41, dtype=torch.float64)
        px, py = torch.meshgrid(grid, grid, indexing="xy")
        for a, b in zip(theirs.reduced_deflection_angle(px, py), ours.deflection(px, py), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
        u, v = bx - row[3], by - row[4]
        at = torch.tensor([u, v])
        x, y = theirs.forward_raytrace(at[0], at[1], epsilon=1e-5, fov=5 * row[0], divisions=100)
        images = ours.images(u, v)
        n = int(images.count)
        assert len(x) == n
        got, want = np.sort_complex(images.x[:n] + 1j * images.y[:n]), np.sort_complex(x.numpy() + 1j * y.numpy())
        np.testing.assert_allclose(got, want, atol=1e-5)


SIZE, PIXEL, RAYS = 41, 0.2, 4
SOURCE = {"e1": 0.15, "e2": -0.1, "half_light": 0.35, "n": 1.3}
CLUMPS = ((0.2, -0.15, 0.05), (0.1, 0.2, -0.3), (0.06, 0.1, 0.08), (0.15, 0.1, 0.2))
GALAXY = {"e1": (0.1, 0.2), "e2": (0.05, -0.1), "half_light": (0.5, 1.4), "n": (4.0, 1.0)}
SHARE, GALAXY_FLUX = 0.4, 30.0
MASS = {"theta_E": 1.3, "e1": 0.2, "e2": -0.1, "x": 0.13, "y": -0.07}
SHEAR = (0.05, -0.03)
AT = (0.21, -0.02)


def tensors(values):
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def point_spread():
    """A lopsided kernel of flux 1."""
    y, x = np.mgrid[-10:11, -10:11] * 1.0
    kernel = np.exp(-0.5 * (x**2 + 0.8 * y**2 + 0.3 * x * y) / 2.2**2) + 0.02 * np.exp(-0.1 * np.hypot(x - 1, y))
    return kernel / kernel.sum()


def our_picture(slope):
    """Lensed clumpy source and lens light, averaged from 4 x 4 rays a pixel and convolved; flux per pixel."""
    from scipy.signal import fftconvolve

    grid = (torch.arange(SIZE * RAYS, dtype=torch.float64) - (SIZE * RAYS - 1) / 2) * (PIXEL / RAYS)
    px, py = grid[None, :], grid[:, None]
    mass = tensors(MASS.values())
    ax, ay = EPL(*mass, *SHEAR, slope).deflection(px, py)
    light = clumpy_sersic(px - ax, py - ay, *tensors(AT), *tensors(SOURCE.values()), tuple(tensors(CLUMPS)), 0.0)
    galaxy = double_sersic(px, py, *mass[3:5], *tensors(GALAXY.values()), SHARE, 0.0)
    image = (light + GALAXY_FLUX * galaxy).view(SIZE, RAYS, SIZE, RAYS).mean(dim=(1, 3)) * PIXEL**2
    return fftconvolve(image.numpy(), point_spread(), mode="same")


def their_picture(slope):
    """The same by lenstronomy."""
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    def ellipse(e1, e2, half_light, n, x, y, flux):
        amp = flux * float(sersic_peak(*tensors((half_light, n)))) * np.exp(-(1.9992 * n - 0.3271))
        shape = {"e1": e1, "e2": e2, "center_x": x, "center_y": y}
        return {"amp": amp, "R_sersic": half_light, "n_sersic": n, **shape}

    start = -(SIZE - 1) / 2 * PIXEL
    frame = {"ra_at_xy_0": start, "dec_at_xy_0": start, "transform_pix2angle": PIXEL * np.eye(2)}
    data = ImageData(image_data=np.zeros((SIZE, SIZE)), **frame)
    source = [ellipse(*SOURCE.values(), *AT, 1 - sum(CLUMPS[3]))]
    for x, y, size, share in zip(*CLUMPS, strict=True):
        source.append({"amp": share, "sigma": size, "center_x": AT[0] + x, "center_y": AT[1] + y})
    galaxy = [
        ellipse(*(v[k] for v in GALAXY.values()), MASS["x"], MASS["y"], GALAXY_FLUX * (SHARE, 1 - SHARE)[k])
        for k in range(2)
    ]
    model = ImageModel(
        data,
        PSF(psf_type="PIXEL", kernel_point_source=point_spread(), kernel_point_source_normalisation=False),
        LensModel(["EPL", "SHEAR"]),
        LightModel(["SERSIC_ELLIPSE"] + ["GAUSSIAN"] * 3),
        LightModel(["SERSIC_ELLIPSE"] * 2),
        kwargs_numerics={"supersampling_factor": RAYS, "supersampling_convolution": False},
    )
    mass = dict(zip(("theta_E", "e1", "e2", "center_x", "center_y"), MASS.values(), strict=True), gamma=slope)
    shear = {"gamma1": SHEAR[0], "gamma2": SHEAR[1], "ra_0": MASS["x"], "dec_0": MASS["y"]}
    return model.image([mass, shear], source, galaxy)


@pytest.mark.parametrize("slope", [1.8, 2.0, 2.3])
def test_rendered_pictures_as_lenstronomy(slope):
    pytest.importorskip("lenstronomy", reason="lenstronomy comes with lensscan[test]")
    ours, theirs = our_picture(slope), their_picture(slope)
    assert theirs.max() > 0.1
    assert np.abs(ours - theirs).max() / theirs.max() < 1e-7


def test_point_images_as_lenstronomy():
    pytest.importorskip("lenstronomy", reason="lenstronomy comes with lensscan[test]")
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.PointSource.point_source import PointSource

    row = [*MASS.values(), *SHEAR]
    keywords = lenstronomy_keywords(row)
    points = PointSource(["SOURCE_POSITION"], lens_model=LensModel(["EPL", "SHEAR"]), fixed_magnification_list=[True])
    points.update_search_window(search_window=8, x_center=MASS["x"], y_center=MASS["y"], min_distance=0.02)
    source = [{"ra_source": AT[0], "dec_source": AT[1], "source_amp": 7.0}]
    (x,), (y,) = points.image_position(source, keywords)
    (flux,) = points.image_amplitude(source, keywords)
    images = point_images(SIE(*row), *tensors(AT), 7.0)
    got = [v[images[2] > 0] for v in images]
    assert len(x) == len(got[0]) == 4
    order, ours = np.argsort(x), torch.argsort(got[0])
    for mine, other, atol in zip(got, (x, y, flux), (1e-7, 1e-7, 1e-5), strict=True):
        np.testing.assert_allclose(mine[ours], np.asarray(other)[order], rtol=1e-7, atol=atol)
