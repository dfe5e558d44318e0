"""Galaxy images as sources: cleaned of sky, neighbours, noise and edges; brightness of unit flux at any point."""

from __future__ import annotations

import gzip
from pathlib import Path

import fitsio
import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError
from lensscan.mocks.denoise import Unusable, clean_galaxy, half_light_radius, on_grid
from lensscan.mocks.library import SIDE, load_sources, part_of

NOISE = 1.0


def disc(side: int, scale: float, x: float = 0.0, y: float = 0.0, q: float = 0.7, peak: float = 60.0) -> np.ndarray:
    """Return an exponential disc, offset from the centre by (x, y) pixels."""
    axis = np.arange(side) - (side - 1) / 2
    r = np.hypot(axis[None, :] - x, (axis[:, None] - y) / q)
    return peak * np.exp(-r / scale)


def noisy(image: np.ndarray, seed: int = 1, sky: float = 5.0) -> np.ndarray:
    return image + sky + np.random.default_rng(seed).normal(0, NOISE, image.shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten galaxies in one file beside its catalog, one in a gzipped file of its own, and unusable ones."""
    path = tmp_path_factory.mktemp("galaxies")
    with fitsio.FITS(str(path / "many.fits"), "rw") as fits:
        for k in range(10):
            fits.write(noisy(disc(60 + 2 * k, 4.0 + 0.3 * k, 1.3, -0.8), k).astype(">f4"))
    rows = {
        "IDENT": np.arange(10),
        "MAG": np.linspace(21, 24, 10),
        "GAL_FILENAME": np.array(["many.fits"] * 10),
        "GAL_HDU": np.arange(10),
    }
    fitsio.write(str(path / "catalog.fits"), rows)
    fitsio.write(str(path / "more.fits"), {"IDENT": np.arange(10)[::-1].copy(), "ZPHOT": np.linspace(0.5, 1.4, 10)})
    fitsio.write(str(path / "plain.fits"), noisy(disc(70, 5.0)), compress=None)
    (path / "one.fits.gz").write_bytes(gzip.compress((path / "plain.fits").read_bytes()))
    (path / "plain.fits").unlink()
    with fitsio.FITS(str(path / "unusable.fits"), "rw") as fits:
        fits.write(noisy(np.zeros((50, 50))))
        fits.write(disc(8, 2.0))
        fits.write(np.where(np.arange(50) < 5, np.nan, noisy(disc(50, 4.0))))
        fits.write(noisy(disc(30, 14.0, peak=200.0)))
        fits.write(noisy(disc(50, 4.0)), extname="PSF")
    (path / "broken.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 200)
    return path


def test_a_folder_of_any_layout_is_read_and_what_is_unusable_counted(folder: Path) -> None:
    library = load_sources(folder)
    assert len(library) == 11
    assert set(library.names) == {f"many.fits[{k}]" for k in range(10)} | {"one.fits.gz[0]"}
    assert library.left_out["no galaxy at the centre"] == 1
    assert library.left_out["too small"] == 1
    assert library.left_out["missing pixels"] == 1
    assert library.left_out["cut off by its image's border"] == 1
    assert library.left_out["unreadable file"] == 1
    assert sum(library.left_out.values()) == 5, "the PSF is no galaxy"
    assert library.images.shape == (11, SIDE, SIDE)
    np.testing.assert_allclose(library.images.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert library.images.min() == 0
    edge = np.ones((SIDE, SIDE), bool)
    edge[1:-1, 1:-1] = False
    assert not library.images[:, edge].any()
    assert load_sources(folder) is library


def test_images_are_centred_on_their_light(folder: Path) -> None:
    library = load_sources(folder)
    rows, columns = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    x, y = ((library.images * grid).sum(axis=(1, 2)) for grid in (columns, rows))
    assert np.abs(x).max() < 0.2
    assert np.abs(y).max() < 0.2


def test_catalogs_beside_the_images_are_joined(folder: Path) -> None:
    library = load_sources(folder)
    order = [library.names.index(f"many.fits[{k}]") for k in range(10)]
    np.testing.assert_allclose(library.magnitude[order], np.linspace(21, 24, 10))
    np.testing.assert_allclose(library.redshift[order], np.linspace(0.5, 1.4, 10)[::-1])
    assert np.isnan(library.magnitude[library.names.index("one.fits.gz[0]")])


def test_the_half_light_radius_is_that_of_the_galaxy() -> None:
    # the half-light ellipse of an exponential disc has the semi-major axis 1.678 scale lengths
    for scale in (3.0, 6.0):
        found = clean_galaxy(noisy(disc(120, scale, q=1.0))).radius
        assert found == pytest.approx(1.678 * scale, rel=0.08)
    round_disc = disc(201, 8.0, q=1.0)
    assert half_light_radius(round_disc, 100, 100) == pytest.approx(1.678 * 8, rel=0.01)


def test_noise_and_neighbours_are_gone_and_the_galaxy_is_not() -> None:
    truth = disc(90, 6.0)
    neighbour = disc(90, 2.5, 30, 28, peak=80.0)
    galaxy = clean_galaxy(noisy(truth + neighbour, 3))
    faint, bright = (truth > 2) & (truth < 15), truth > 15
    assert np.std((galaxy.image - truth)[faint]) < 0.35 * NOISE
    assert np.std((galaxy.image - truth)[bright]) < NOISE
    assert abs(np.mean((galaxy.image - truth)[faint])) < 0.25 * NOISE
    assert not galaxy.image[neighbour > 5].any()
    assert not galaxy.image[truth < 0.05].any()
    assert galaxy.image.sum() == pytest.approx(truth.sum(), rel=0.1)
    assert (galaxy.x, galaxy.y) == pytest.approx((44.5, 44.5), abs=0.3)


def test_knots_survive_the_cleaning() -> None:
    knots = disc(90, 1.2, 9, 3, q=1.0, peak=40.0) + disc(90, 1.2, -6, -7, q=1.0, peak=40.0)
    galaxy = clean_galaxy(noisy(disc(90, 7.0, peak=40.0) + knots, 4))
    for x, y in ((9, 3), (-6, -7)):
        window = galaxy.image[44 + y - 3 : 44 + y + 5, 44 + x - 3 : 44 + x + 5]
        assert window.max() > 1.5 * np.median(window)


def test_large_images_are_brought_to_the_grid_with_their_light_in_place() -> None:
    galaxy = clean_galaxy(noisy(disc(300, 20.0, peak=300.0)))
    grid, step = on_grid(galaxy, SIDE)
    assert step > 1.5
    centre = (SIDE - 1) / 2
    assert half_light_radius(grid.astype(float), centre, centre) * step == pytest.approx(galaxy.radius, rel=0.02)


def test_a_point_source_is_no_galaxy() -> None:
    with pytest.raises(Unusable, match="unresolved"):
        clean_galaxy(noisy(disc(40, 0.6, q=1.0, peak=4000.0)))


def test_brightness_has_unit_flux_half_of_it_within_the_radius(folder: Path) -> None:
    library = load_sources(folder)
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    number = torch.arange(len(library))
    value = library.brightness(number, axis[None, None, :].expand(len(library), 1, 401), axis[None, :, None])
    cell = (16 / 400) ** 2
    np.testing.assert_allclose(value.sum(dim=(1, 2)) * cell, 1, rtol=1e-3)
    inside = (axis[None, :] ** 2 + axis[:, None] ** 2) < 1
    np.testing.assert_allclose((value * inside).sum(dim=(1, 2)) * cell, 0.5, atol=0.01)
    assert not library.brightness(number, torch.full((11, 1), 50.0), torch.zeros(11, 1)).any()


def test_brightness_is_bilinear_differentiable_and_independent_of_the_batch(folder: Path) -> None:
    library = load_sources(folder)
    generator = torch.Generator().manual_seed(1)
    u, v = (torch.rand(3, 40, generator=generator, dtype=torch.float64) * 3 - 1.5 for _ in range(2))
    number = torch.tensor([4, 0, 9])
    value = library.brightness(number, u, v)
    assert torch.equal(library.brightness(number[1:], u[1:], v[1:]), value[1:])
    x, y = (c[0] * library.radius[4] + (SIDE - 1) / 2 for c in (u, v))
    image = torch.from_numpy(library.images[4]).double()
    i, j = y.floor().long(), x.floor().long()
    fy, fx = y - i, x - j
    expected = (1 - fy) * ((1 - fx) * image[i, j] + fx * image[i, j + 1])
    expected = expected + fy * ((1 - fx) * image[i + 1, j] + fx * image[i + 1, j + 1])
    torch.testing.assert_close(value[0], expected * library.radius[4] ** 2, rtol=1e-5, atol=1e-9)
    u.requires_grad_()
    assert torch.autograd.gradcheck(lambda u: library.brightness(number, u, v), (u,), eps=1e-7, atol=1e-4)


def test_parts_share_no_image_and_never_change(folder: Path) -> None:
    train, test = load_sources(folder, "train"), load_sources(folder, "test")
    assert set(train.names).isdisjoint(test.names)
    assert set(train.names) | set(test.names) == set(load_sources(folder).names)
    shares = [part_of(f"galaxy-{k}") == "test" for k in range(5000)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.02)
    assert [k for k in range(12) if part_of(f"a.fits[{k}]") == "test"] == [0, 7, 10]


def test_errors_say_what_to_do(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no folder .*; give a folder"):
        load_sources(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no usable galaxy image \(no image in it\)"):
        load_sources(tmp_path)
    with pytest.raises(ConfigError, match="must be train, test or empty"):
        load_sources(folder, "half")
    monkeypatch.setattr("lensscan.mocks.library.available_memory", lambda: 200_000)
    (tmp_path / "one.fits.gz").write_bytes((folder / "one.fits.gz").read_bytes())
    assert len(load_sources(tmp_path)) == 1
    (tmp_path / "many.fits").write_bytes((folder / "many.fits").read_bytes())
    with pytest.raises(ConfigError, match="more than 2 galaxies, which need more than half of the memory"):
        load_sources(tmp_path)


def test_cosmos_galaxies(shared_data: Path) -> None:
    """Radii agree with the published ones, which were measured on the images with their noise."""
    folder = shared_data / "cosmos_hst_galaxies"
    library = load_sources(folder)
    assert len(library) >= 75
    assert len(library) + sum(library.left_out.values()) == 100
    assert set(library.left_out) <= {"too faint", "cut off by its image's border", "unresolved"}
    table = fitsio.read(str(folder / "real_galaxy_catalog_26_extension_example_fits.fits"))
    number = [int(name.split("[")[1][:-1]) for name in library.names]
    ratio = library.radius * library.step / table["flux_radius"][number]
    assert 0.85 < np.median(ratio) < 1.1
    assert np.percentile(np.abs(np.log(ratio)), 68) < 0.2
    assert np.isfinite(library.redshift).all()
    assert np.all((library.magnitude > 18) & (library.magnitude < 26))
