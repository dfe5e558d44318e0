"""Real stamps to paint on: read like a scan's, measured, turned, guessed, painted."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import fitsio
import numpy as np
import pytest
import torch
from tiny_survey import SURVEY, write_stamp

from lensscan.errors import CatalogError, ConfigError
from lensscan.mocks.lookalikes import Lookalikes
from lensscan.mocks.population import lens_mass, light_of
from lensscan.mocks.priors import Draws, row_keys
from lensscan.mocks.realsky import N_VIEWS, NO_GALAXY, load_real_sky, paint_on, turn_spin2, turn_vector
from lensscan.mocks.recipes import Recipe, make_recipe
from lensscan.mocks.shapes import measure_central
from lensscan.survey.noise import estimate_sigma

N = 24
SIDE = 41
SIZE = 32
PIXEL = 0.263
FWHM = 1.0
SIGMA = {"g": 2.0, "i": 3.0}  # counts
NJY = 10 ** (0.4 * (31.4 - 30.0))


def galaxy(x: float, y: float, e1: float, e2: float, size: float = 3.0, side: int = SIDE) -> np.ndarray:
    """Return a Gaussian galaxy of unit flux with a round PSF of FWHM 1 arcsec; position and `size` in pixels."""
    axis = np.arange(side) - (side - 1) / 2
    dx, dy = axis[None, :] - x, axis[:, None] - y
    e = math.hypot(e1, e2)
    q = (1 - e) / (1 + e)
    phi = 0.5 * math.atan2(e2, e1)
    turn = np.array([[math.cos(phi), -math.sin(phi)], [math.sin(phi), math.cos(phi)]])
    # The equivalent Gaussian of a Moffat PSF: what the measurement takes off.
    psf = (0.48 * FWHM / PIXEL) ** 2
    cov = turn @ np.diag([size**2 / q, size**2 * q]) @ turn.T + psf * np.eye(2)
    inverse = np.linalg.inv(cov)
    power = inverse[0, 0] * dx * dx + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy
    return np.exp(-0.5 * power) / (2 * math.pi * math.sqrt(np.linalg.det(cov)))


@dataclasses.dataclass
class Truth:
    folder: Path
    x: np.ndarray
    y: np.ndarray
    e1: np.ndarray
    e2: np.ndarray
    z: np.ndarray
    sigma_v: np.ndarray


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """A survey of N galaxies; stamp 3 is missing, 4 without a galaxy, 5 lacks band g, 6 has dead pixels."""
    folder = tmp_path_factory.mktemp("sky")
    (folder / "stamps").mkdir()
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-1.2, 1.2, (2, N))
    e, angle = rng.uniform(0, 0.3, N), rng.uniform(0, 2 * math.pi, N)
    z, sigma_v = rng.uniform(0.2, 0.7, N), rng.uniform(200, 320, N)
    z[0], sigma_v[0], sigma_v[1] = -9.0, 0.0, 850.0
    made = Truth(folder, x, y, e * np.cos(angle), e * np.sin(angle), z, sigma_v)
    for k in range(N):
        shape = galaxy(x[k], y[k], made.e1[k], made.e2[k]) * (k != 4)
        shape = shape + 0.5 * galaxy(9.0, -7.0, 0.0, 0.0, 1.0) * (k % 2)  # every other one has a neighbour
        images = {b: 8000 * f * shape + rng.normal(0, SIGMA[b], (SIDE, SIDE)) for b, f in (("g", 0.3), ("i", 1.0))}
        if k == 5:
            del images["g"]
        if k == 6:
            images["i"][15:17] = np.nan
        if k != 3:
            write_stamp(folder / "stamps" / f"{100 + k}.fits", images)
    mag = np.full(N, 30 - 2.5 * math.log10(8000))
    fitsio.write(
        str(folder / "catalog.fits"),
        {
            "id": np.arange(N) + 100,
            "ra": np.zeros(N),
            "dec": np.zeros(N),
            "mag_g": mag + 1.3,
            "mag_i": mag,
            "zed": z,
            "vdisp": sigma_v,
        },
    )
    (folder / "sky.toml").write_text(SURVEY.replace("stamp_size = 16", f"stamp_size = {SIDE}"))
    (folder / "seeing.toml").write_text(
        (folder / "sky.toml")
        .read_text(encoding="utf-8")
        .replace("zero_point = 30.0", f"zero_point = 30.0\nfwhm = {FWHM}")
    )
    return made


def recipe(folder: Path, size: int = SIZE, **canvas: str | float) -> Recipe:
    table = {
        "catalog": f"{folder}/catalog.fits",
        "survey": f"{folder}/seeing.toml",
        "stamps": f"stamps:{folder}/stamps/{{id}}.fits",
    }
    return make_recipe({"base": "des-griz", "bands": ["g", "i"], "size": size, "canvas": table | canvas}, "test")


@pytest.fixture(scope="module")
def known(truth: Truth) -> Recipe:
    return recipe(truth.folder, z="zed", sigma_v="vdisp")


def test_stamps_are_read_as_they_are_and_failures_counted(truth: Truth, known: Recipe) -> None:
    sky = load_real_sky(known.canvas, known)
    assert sky.left_out == {"missing_file": 1, NO_GALAXY: 1}
    kept = [k for k in range(N) if k not in (3, 4)]
    assert sky.ids.tolist() == [str(100 + k) for k in kept]
    with fitsio.FITS(str(truth.folder / "stamps" / "107.fits")) as fits:
        counts = fits["I"].read()
    # 41 pixels cut to 32: the frame's centre lies half a pixel before the stamp's
    np.testing.assert_allclose(sky.images[kept.index(7), 1], counts[4:36, 4:36] * NJY, rtol=1e-5)
    row = kept.index(5)
    assert sky.present[row].tolist() == [False, True]
    assert not sky.images[row, 0].any()
    assert np.isnan(sky.sigma[row, 0])
    row = kept.index(6)
    assert sky.missing is not None
    assert sky.missing[row, 1].sum() == 2 * SIZE
    assert not sky.images[row, 1][sky.missing[row, 1]].any()
    assert sky.missing.sum() == 2 * SIZE
    assert load_real_sky(known.canvas, known) is sky


def test_noise_is_that_of_the_networks(known: Recipe) -> None:
    sky = load_real_sky(known.canvas, known)
    expected = estimate_sigma(torch.from_numpy(sky.images), torch.from_numpy(sky.missing)).numpy()
    np.testing.assert_allclose(sky.sigma[sky.present], expected[sky.present], rtol=1e-6)
    np.testing.assert_allclose(np.nanmedian(sky.sigma, axis=0), np.array([2.0, 3.0]) * NJY, rtol=0.1)
    np.testing.assert_allclose(sky.fwhm[sky.present], FWHM)


def test_galaxies_are_measured(truth: Truth, known: Recipe) -> None:
    sky = load_real_sky(known.canvas, known)
    k = np.array([int(i) - 100 for i in sky.ids])
    half = 0.5 * PIXEL  # from the frame's centre to the stamp's
    for found, true in ((sky.x, truth.x), (sky.y, truth.y)):
        error = np.abs(found - true[k] * PIXEL - half)
        assert error[k != 6].max() < 0.03
        # dead rows are filled from across the nearest half pixel, a quarter of a pixel off at most
        assert error.max() < 0.25 * PIXEL
    assert np.std(sky.e1 - truth.e1[k]) < 0.02
    assert np.std(sky.e2 - truth.e2[k]) < 0.02
    assert abs(np.mean(sky.e1 - truth.e1[k])) < 0.01
    # the PSF of the galaxies is a Gaussian wider than its nominal FWHM, so that they come out a little large
    np.testing.assert_allclose(sky.radius, 1.1774 * 3.0 * PIXEL, rtol=0.15)
    np.testing.assert_allclose(sky.mag_i, 30 - 2.5 * math.log10(8000), rtol=1e-6)
    assert np.isnan(sky.colours).all(), "no colour of g and i alone is known"


def test_magnitudes_are_measured_where_the_catalog_has_none(truth: Truth) -> None:
    (truth.folder / "bare.toml").write_text(
        "\n".join(
            line
            for line in (truth.folder / "seeing.toml").read_text(encoding="utf-8").splitlines()
            if "mag" not in line
        )
    )
    bare = recipe(truth.folder, survey=f"{truth.folder}/bare.toml")
    sky = load_real_sky(bare.canvas, bare)
    mag = 30 - 2.5 * math.log10(8000)
    full = sky.present.all(axis=1) & (sky.ids != "106")
    np.testing.assert_allclose(sky.mag_i[full], mag, atol=0.06)
    np.testing.assert_allclose((sky.mags[:, 0] - sky.mags[:, 1])[full], -2.5 * math.log10(0.3), atol=0.05)
    assert np.isnan(sky.mags[~sky.present]).all()


def test_known_redshifts_are_kept_and_senseless_ones_guessed(truth: Truth, known: Recipe) -> None:
    sky = load_real_sky(known.canvas, known)
    number = np.arange(len(sky))
    z, sigma_v = sky.guess(number, np.full(len(sky), 0.4))
    k = np.array([int(i) - 100 for i in sky.ids])
    np.testing.assert_array_equal(z[1:], truth.z[k[1:]])
    np.testing.assert_array_equal(sigma_v[2:], truth.sigma_v[k[2:]])
    assert np.isnan(sky.sigma_v[:2]).all()
    assert 0.05 < z[0] < 1.2
    assert np.all((sigma_v[:2] > 100) & (sigma_v[:2] < 450))
    again = sky.guess(number[:1], np.full(1, 0.4))
    assert (again[0][0], again[1][0]) == (z[0], sigma_v[0])
    draws = sky.guess(np.zeros(1000, np.int64), (np.arange(1000) + 0.5) / 1000)[1]
    assert draws.std() > 5, "a guess has scatter"


def test_guesses_are_the_posterior_of_the_recipes_population() -> None:
    """Galaxies drawn from the population lie where their lookalikes say, as often as they should."""
    prior = make_recipe({"base": "des-griz", "lens": {"flat_fraction": 0.0}}, "test")
    draws = Draws("other universe", 5, np.arange(300, dtype=np.int64))
    mass = lens_mass(draws, prior)
    mags = light_of(draws, prior, mass["sigma_v"], mass["z_lens"])["mags"]
    mags[::10, 0] = np.nan
    unknown = np.full(300, np.nan)
    found = Lookalikes(prior, mags, unknown, unknown)
    number, u = np.repeat(np.arange(300), 64), np.tile((np.arange(64) + 0.5) / 64, 300)
    for values, true, error in zip(
        found.guess(number, u), (mass["z_lens"], mass["sigma_v"]), (0.08, 30.0), strict=True
    ):
        table = values.reshape(300, 64)
        low, high = np.percentile(table, [16, 84], axis=1)
        inside = np.mean((low <= true) & (true <= high))
        # wider than the posterior: the matching adds the error of real magnitudes
        assert 0.62 < inside < 0.92
        assert np.std(table.mean(axis=1) - true) < error
        assert np.std(table.mean(axis=1) - true) < 0.75 * np.std(true)
    given = Lookalikes(prior, mags, mass["z_lens"], unknown)
    z, sigma_v = given.guess(number, u)
    np.testing.assert_array_equal(z, mass["z_lens"][number])
    blind = found.guess(number, u)[1].reshape(300, 64).std(axis=1).mean()
    assert sigma_v.reshape(300, 64).std(axis=1).mean() < blind, "a known redshift narrows the guess"


def test_views_turn_everything_as_the_networks_do(known: Recipe) -> None:
    from lensscan.nets.dihedral import transform_images, transform_latent

    sky = load_real_sky(known.canvas, known)
    number = np.arange(8)
    for view in range(N_VIEWS):
        views = np.full(8, view)
        images, missing = sky.stamps(number, views)
        assert torch.equal(images, transform_images(torch.from_numpy(sky.images[:8]), view))
        assert torch.equal(missing, transform_images(torch.from_numpy(sky.missing[:8]), view))
        seen = sky.view(number, views)
        latent = torch.zeros(8, 7, dtype=torch.float64)
        for column, name in ((1, "e1"), (2, "e2"), (3, "x"), (4, "y")):
            latent[:, column] = torch.from_numpy(getattr(sky, name)[:8])
        turned = transform_latent(latent, view).numpy()
        for column, name in ((1, "e1"), (2, "e2"), (3, "x"), (4, "y")):
            np.testing.assert_allclose(seen[name], turned[:, column], atol=1e-15)
        for name in ("sigma", "fwhm", "mags", "mag_i", "colours", "radius", "z", "sigma_v", "present"):
            np.testing.assert_array_equal(seen[name], getattr(sky, name)[:8])


def test_a_turned_stamp_measures_as_its_turned_galaxy(known: Recipe) -> None:
    sky = load_real_sky(known.canvas, known)
    number, view = np.arange(16), np.arange(16) % 8
    images, missing = sky.stamps(number, view)
    seen = sky.view(number, view)
    found = measure_central(images.numpy(), missing.numpy(), seen["sigma"], seen["fwhm"], seen["x"], seen["y"], PIXEL)
    for name, tolerance in (("x", 0.01), ("y", 0.01), ("e1", 0.005), ("e2", 0.005)):
        np.testing.assert_allclose(getattr(found, name), seen[name], atol=tolerance)


def test_mixed_views_turn_every_row_by_its_own() -> None:
    rng = np.random.default_rng(1)
    x, y, e1, e2 = rng.normal(size=(4, 40))
    view = rng.integers(0, 8, 40)
    for one in range(40):
        alone = turn_vector(x[one : one + 1], y[one : one + 1], view[one : one + 1])
        both = turn_vector(x, y, view)
        assert (alone[0][0], alone[1][0]) == (both[0][one], both[1][one])
    a, b = turn_spin2(e1, e2, view)
    # spin 2: the angle of the ellipse turns with the position it points at
    phi = 0.5 * np.arctan2(e2, e1)
    px, py = turn_vector(np.cos(phi), np.sin(phi), view)
    turned = 2 * np.arctan2(py, px)
    np.testing.assert_allclose(a, np.hypot(e1, e2) * np.cos(turned), atol=1e-12)
    np.testing.assert_allclose(b, np.hypot(e1, e2) * np.sin(turned), atol=1e-12)


def test_painting_adds_the_arcs_and_their_photon_noise_alone() -> None:
    n, size = 400, 16
    rng = np.random.default_rng(3)
    stamps = torch.from_numpy(rng.normal(0, 5, (n, 2, size, size)).astype(np.float32))
    arcs = torch.zeros(n, 2, size, size)
    arcs[:, :, 4:9, 4:12] = 50.0
    poisson = torch.tensor([0.4, 0.0])
    keys = torch.from_numpy(row_keys("digest", 1, "photons", np.arange(n)))
    present = torch.ones(n, 2, dtype=torch.bool)
    painted = paint_on(stamps, arcs, poisson, keys, present)
    added = painted - stamps
    torch.testing.assert_close(added[:, 1], arcs[:, 1], rtol=0, atol=1e-5)
    assert not added[:, :, 10:].any()
    noise = (added - arcs)[:, 0, 4:9, 4:12]
    assert float(noise.var()) == pytest.approx(0.4 * 50, rel=0.03)
    assert abs(float(noise.mean())) < 4 * math.sqrt(20 / noise.numel())
    assert torch.equal(paint_on(stamps[7:9], arcs[7:9], poisson, keys[7:9], present[7:9]), painted[7:9])
    clean = paint_on(stamps, arcs, poisson, keys, present, noise=False)
    flux = (clean.double() - stamps.double()).sum(dim=(2, 3))
    torch.testing.assert_close(flux, arcs.double().sum(dim=(2, 3)), rtol=1e-6, atol=0)


def test_missing_pixels_and_absent_bands_stay_as_they_are() -> None:
    stamps, arcs = torch.zeros(3, 2, 8, 8), torch.full((3, 2, 8, 8), 10.0)
    present = torch.tensor([[True, True], [True, False], [True, True]])
    missing = torch.zeros(3, 2, 8, 8, dtype=torch.bool)
    missing[2, 0, :4] = True
    keys = torch.arange(3)
    painted = paint_on(stamps, arcs, torch.tensor([0.1, 0.1]), keys, present, missing)
    assert not painted[1, 1].any()
    assert not painted[2, 0, :4].any()
    assert (painted[2, 0, 4:] != 0).all()
    assert (painted[0] != 0).all()


def test_parts_share_no_galaxy(truth: Truth) -> None:
    whole, train, test = (recipe(truth.folder, part=part) for part in ("", "train", "test"))
    ids = [set(load_real_sky(r.canvas, r).ids.tolist()) for r in (whole, train, test)]
    assert ids[1].isdisjoint(ids[2])
    assert ids[1] | ids[2] == ids[0]
    assert ids[1]
    assert ids[2]


def test_parts_of_the_sky_share_no_cell(truth: Truth) -> None:
    """Two galaxies at each place of the sky stay together, whatever their ids."""
    table = fitsio.read(str(truth.folder / "catalog.fits"))
    table["ra"] = np.arange(N) // 2 * 5.0 + 0.1 * (np.arange(N) % 2)
    fitsio.write(str(truth.folder / "spread.fits"), table, clobber=True)
    catalog = f"{truth.folder}/spread.fits"
    parts = [recipe(truth.folder, catalog=catalog, part=part, cells=2.0) for part in ("train", "test")]
    ids = [load_real_sky(each.canvas, each).ids.astype(int) - 100 for each in parts]
    assert set(ids[0] // 2).isdisjoint(ids[1] // 2)
    assert len(ids[0]) + len(ids[1]) == N - 2
    single = [recipe(truth.folder, catalog=catalog, part=part) for part in ("train", "test")]
    alone = [load_real_sky(each.canvas, each).ids.astype(int) - 100 for each in single]
    assert set(alone[0] // 2) & set(alone[1] // 2), "by id alone they are torn apart"
    table["dec"][7] = np.nan
    fitsio.write(str(truth.folder / "holed.fits"), table, clobber=True)
    holed = recipe(truth.folder, catalog=f"{truth.folder}/holed.fits", part="train", cells=2.0)
    with pytest.raises(CatalogError, match=r"holed\.fits: 1 of 24 positions are not finite.*canvas\.cells") as error:
        load_real_sky(holed.canvas, holed)
    assert "\n" not in str(error.value)
    assert recipe(truth.folder).digest != recipe(truth.folder, cells=2.0).digest
    with pytest.raises(ConfigError, match=r"canvas\.cells must not be negative"):
        recipe(truth.folder, cells=-1.0)


def test_stamps_smaller_than_the_recipe_are_padded_and_keep_their_noise(truth: Truth) -> None:
    large, own = (recipe(truth.folder, size=size) for size in (60, SIDE))
    padded, whole = (load_real_sky(each.canvas, each) for each in (large, own))
    assert padded.ids.tolist() == whole.ids.tolist()
    np.testing.assert_array_equal(padded.sigma, whole.sigma)
    assert padded.sigma[:, 1] == pytest.approx(SIGMA["i"] * NJY, rel=0.2)


def test_stamps_without_seeing_or_noise_in_a_band_are_left_out(truth: Truth) -> None:
    blind = recipe(truth.folder, survey=f"{truth.folder}/sky.toml")
    with pytest.raises(ConfigError, match=r"seeing_unknown 23\); state bands.<name>.fwhm in the survey file"):
        load_real_sky(blind.canvas, blind)
    half = truth.folder / "half.toml"
    lines = (truth.folder / "seeing.toml").read_text(encoding="utf-8").splitlines()
    lines.remove(f"fwhm = {FWHM}")  # of band g, the first
    half.write_text("\n".join(lines))
    single = recipe(truth.folder, survey=str(half))
    assert load_real_sky(single.canvas, single).ids.tolist() == ["105"], "the stamp without band g needs its seeing not"
    padded = truth.folder / "padded"
    padded.mkdir()
    for k in (10, 11):
        with fitsio.FITS(str(truth.folder / "stamps" / f"{100 + k}.fits")) as fits:
            images = {band: fits[band.upper()].read() for band in "gi"}
        if k == 11:
            images["g"][:10] = images["g"][-10:] = images["g"][:, :10] = images["g"][:, -10:] = 0.0
        write_stamp(padded / f"{100 + k}.fits", images)
    sky = recipe(truth.folder, stamps=f"stamps:{padded}/{{id}}.fits")
    found = load_real_sky(sky.canvas, sky)
    assert found.ids.tolist() == ["110"]
    assert found.left_out["noise_unknown"] == 1


def test_a_cut_selects(truth: Truth) -> None:
    (truth.folder / "blue.toml").write_text('name = "blue"\n[[step]]\nvalue = "g - i"\nmax = 1.0\n')
    cut = recipe(truth.folder, cut=f"{truth.folder}/blue.toml")
    with pytest.raises(ConfigError, match=r"no usable stamp .*no row is left by cut and part"):
        load_real_sky(cut.canvas, cut)


def test_errors_are_one_line_that_say_what_to_do(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = dataclasses.asdict(recipe(truth.folder).canvas)
    wide = make_recipe({"base": "des-griz", "bands": ["g", "i"], "pixel_scale": 0.2, "canvas": canvas}, "test")
    with pytest.raises(ConfigError, match=r"pixels of 0\.263 arcsec, the recipe 0\.2; .* set the recipe's pixel_scale"):
        load_real_sky(wide.canvas, wide)
    bands = make_recipe({"base": "des-griz", "canvas": canvas}, "test")
    with pytest.raises(ConfigError, match=r"has no band 'r' \(it has g, i\)"):
        load_real_sky(bands.canvas, bands)
    lost = recipe(truth.folder, stamps=f"stamps:{truth.folder}/nowhere/{{id}}.fits")
    with pytest.raises(ConfigError, match=rf"no usable stamp in .* \(missing_file {N}\)"):
        load_real_sky(lost.canvas, lost)
    with pytest.raises(CatalogError, match="no column 'speed'"):
        load_real_sky(dataclasses.replace(recipe(truth.folder).canvas, sigma_v="speed"), recipe(truth.folder))
    monkeypatch.setattr("lensscan.mocks.canvas.available_memory", lambda: 300_000)
    other = recipe(truth.folder, size=30)
    with pytest.raises(ConfigError, match=r"24 x 2 bands x 30\^2 pixels x 5 bytes.*give a smaller catalog") as caught:
        load_real_sky(other.canvas, other)
    assert "\n" not in str(caught.value)


def test_des_stamps(shared_data: Path) -> None:
    """Real stamps of luminous red galaxies with measured velocity dispersions."""
    folder = shared_data / "des_stamps"
    table = {"catalog": f"{folder}/catalog.fits", "survey": "des", "stamps": f"stamps:{shared_data}/{{file}}"}
    with_v = make_recipe({"base": "des-griz", "canvas": table | {"sigma_v": "sigma_v_kms"}}, "test")
    sky = load_real_sky(with_v.canvas, with_v)
    assert len(sky) == 36
    catalog = fitsio.read(str(folder / "catalog.fits"))
    np.testing.assert_allclose(sky.sigma_v, catalog["sigma_v_kms"], rtol=1e-6)
    np.testing.assert_allclose(sky.mags[:, 2], catalog["mag_i"], rtol=1e-6)
    # the catalog's positions are unweighted centroids: blends differ by some tenths of an arcsecond
    for axis in "xy":
        offset = getattr(sky, axis) - (catalog[axis] - 44.5) * 0.263
        assert np.percentile(np.abs(offset), 68) < 0.08
        assert np.abs(offset).max() < 0.3
    assert np.all((sky.radius > 0.3) & (sky.radius < 3))
    assert np.median(np.hypot(sky.e1, sky.e2)) < 0.25
    without = make_recipe({"base": "des-griz", "canvas": table}, "test")
    blind = load_real_sky(without.canvas, without)
    number, u = np.repeat(np.arange(36), 64), np.tile((np.arange(64) + 0.5) / 64, 36)
    z, sigma_v = blind.guess(number, u)
    ratio = sigma_v.reshape(36, 64).mean(axis=1) / catalog["sigma_v_kms"]
    assert 0.85 < np.median(ratio) < 1.15
    assert np.percentile(np.abs(ratio - np.median(ratio)), 68) < 0.25
    assert 0.35 < np.median(z) < 0.55, "the colours of this sample are those of z = 0.45"


def test_gama_tile_with_a_cut(shared_data: Path) -> None:
    """Cut-outs of a tile about catalog positions: another pixel scale, zero points that differ by band."""
    folder = shared_data / "gama_grizy_tile_a"
    bands = {b: {"sigma": [1.0, 2.0, 3.0], "fwhm": [0.8, 0.1]} for b in "griz"}
    canvas = {
        "catalog": f"{folder}/catalog.fits",
        "survey": "gama",
        "stamps": f"tiles:{folder}/tile_{{band}}.fits.fz",
        "cut": "des-jacobs2019a-colours",
    }
    recipe = make_recipe(
        {"base": "des-griz", "pixel_scale": 0.339, "size": 48, "band": bands, "canvas": canvas}, "test"
    )
    sky = load_real_sky(recipe.canvas, recipe)
    assert len(sky) > 10
    assert np.isfinite(sky.mags).all()
    assert np.all(sky.mags[:, 0] - sky.mags[:, 2] > 1.8)
    assert np.percentile(np.hypot(sky.x, sky.y), 90) < 0.339, "catalog positions are the galaxies'"
    z, sigma_v = sky.guess(np.arange(len(sky)), np.full(len(sky), 0.5))
    assert np.isfinite(z).all()
    assert np.all((sigma_v > 100) & (sigma_v < 450))
