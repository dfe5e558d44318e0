"""Populations of lenses and sources: closed forms, what is conserved, where sources lie."""

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.config import find, read_toml
from lensscan.errors import ConfigError
from lensscan.lens import SIE
from lensscan.lens.caustics import image_number
from lensscan.lens.cosmology import distances, einstein_radius
from lensscan.mocks import counts, deflectors, earlytypes, placement, population
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import make_recipe


def recipe(**changes):
    mapping = read_toml(find("recipes", "des-griz"))
    mapping["lens"] |= {"population": "collett2015", "flat_fraction": 0.0, "sigma_v": [250.0, 50.0, 100.0, 400.0]}
    mapping["lens"] |= {"z": [0.5, 0.2, 0.01, 2.0], "theta_E": [0.3, 5.0]}
    mapping["source"] |= {"counts": "lsst", "colours": "sed", "mag": [20.0, 27.0]}
    for table, change in changes.items():
        mapping[table] = change if table == "classes" else mapping.get(table, {}) | change
    return make_recipe(mapping, "test")


def draws(n, name="population"):
    return Draws(name, 1, np.arange(n))


def unscreened(r, n):
    """Pairs without the choice among candidates."""
    return deflectors._pool(draws(n), r, None, 1)


def test_dispersion_function_is_normalised():
    """Choi et al. 2007: phi* galaxies in all, and the mean of sigma / sigma* is a ratio of gamma functions."""
    from scipy.special import gamma

    sigma = np.linspace(0.5, 900, 20000)
    phi = deflectors.dispersion_function(sigma)
    total = np.trapezoid(phi, sigma)
    assert total == pytest.approx(0.008, rel=1e-3)
    mean = np.trapezoid(phi * sigma, sigma) / total / 161
    assert mean == pytest.approx(gamma(3.32 / 2.67) / gamma(2.32 / 2.67), rel=1e-3)


def test_counts_are_those_of_the_science_book():
    table = counts.lsst_counts(18.0, 25.3, 6.0)
    assert table.number.sum() * 0.02 == pytest.approx(46 * 10 ** (0.31 * 0.3), rel=0.01), "56 per arcmin^2 to 25.3"
    z0 = 0.0417 * 25.3 - 0.744
    share = np.cumsum(table.number) / table.number.sum()
    assert np.interp(0.5, share, table.z + 0.01) == pytest.approx(2.674 * z0, abs=0.02)
    u, z = (np.arange(4000) + 0.5) / 4000, np.full(4000, 0.9)
    mag = table.magnitude(u, z)
    assert ((mag >= 18.0) & (mag <= 25.3)).all()
    assert (np.diff(mag) >= 0).all()
    faint = (mag > 24.3).mean()
    z0 = 0.0417 * np.array([24.3, 25.3]) - 0.744
    below = 10 ** (0.31 * np.array([24.3, 25.3])) * np.exp(-0.9 / z0) / z0**3
    assert faint == pytest.approx(1 - below[0] / below[1], abs=0.01)


def test_early_types_obey_the_relations_of_hyde_and_bernardi():
    v = np.log10(np.array([150.0, 200.0, 250.0, 300.0]))
    mag = earlytypes.absolute_magnitude(v)
    np.testing.assert_allclose(-2.97 - 0.37 * mag - 0.006 * mag**2, v, atol=1e-12)
    assert (np.diff(mag) < 0).all(), "the brighter of the two roots"
    assert 10 ** earlytypes.log_size(np.log10(326.5)) == pytest.approx(5.7, rel=0.02), (
        "kpc; LensPop: 0.98 arcsec at 0.452"
    )


def test_ellipticities_and_sizes_scatter_as_in_the_paper():
    r = recipe(galaxy={"mag_scatter": 0.0625})
    sigma, z = np.full(4000, 250.0), np.full(4000, 0.3)
    light = population.light_of(draws(4000), r, sigma, z)
    spread = 0.378 - 0.000572 * 250
    assert np.median(1 - light["q"]) == pytest.approx(spread * np.sqrt(2 * np.log(2)), rel=0.04)
    assert ((light["q"] > 0.2) & (light["q"] <= 1)).all()
    assert np.log10(light["radius"]).std() == pytest.approx(0.11, rel=0.05)
    assert light["mag_i"].std() == pytest.approx(0.0625, rel=0.05)


def test_lenses_are_weighted_with_volume_dispersions_and_cross_section():
    """The table's draws against brute force: galaxies by volume and dispersion, kept in proportion to theta_E^2."""
    r = recipe(source={"counts": "power", "colours": "random"}, lens={"theta_E": [1e-3, 9.0]})
    got = population.lens_mass(draws(20000), r)
    rng, table = np.random.default_rng(1), distances("Planck18")
    n = 600_000
    z = rng.uniform(0.01, 2.0, n)
    sigma, source = rng.uniform(100, 400, n), np.exp(rng.normal(np.log(1.7), 0.42, n))
    theta = einstein_radius(sigma, table.ratio(z, source))
    volume = table.transverse(z) ** 2 * np.gradient(table.comoving, table.z)[np.searchsorted(table.z, z)]
    weight = volume * deflectors.dispersion_function(sigma) * theta**2 * (source < 4.0)
    for key, value in (("z_lens", z), ("z_source", source), ("sigma_v", sigma), ("theta_E", theta)):
        order = np.argsort(value)
        want = np.interp((0.05, 0.5, 0.95), np.cumsum(weight[order]) / weight.sum(), value[order])
        np.testing.assert_allclose(np.percentile(got[key], (5, 50, 95)), want, rtol=0.05, err_msg=key)
    ratio = table.ratio(got["z_lens"], got["z_source"])
    np.testing.assert_allclose(einstein_radius(got["sigma_v"], ratio), got["theta_E"], rtol=1e-6)


def test_limits_hold_and_rows_stand_alone():
    r = recipe()
    got = population.lens_mass(draws(2000), r)
    assert ((got["theta_E"] > 0.29) & (got["theta_E"] < 5.1)).all()
    assert ((got["sigma_v"] >= 100) & (got["sigma_v"] <= 400)).all()
    assert ((got["z_source"] > got["z_lens"]) & (got["z_lens"] < 2.0)).all()
    assert ((got["source_mag"] >= 20) & (got["source_mag"] <= 27)).all()
    part = population.lens_mass(Draws("population", 1, np.array([1999, 3, 77])), r)
    for key, value in part.items():
        np.testing.assert_array_equal(value, got[key][[1999, 3, 77]], err_msg=key)


def test_flat_theta_E_conserves_the_population_at_each_theta_E():
    """Redshifts and dispersions at theta_E near 1.2 arcsec are those of the natural population there."""
    r = recipe(lens={"theta_E": [0.5, 2.0]}, source={"counts": "lsst"})
    natural = unscreened(r, 200_000)
    flat_recipe = dataclasses.replace(r, lens=dataclasses.replace(r.lens, flat_fraction=1.0))
    flat = deflectors._pool(draws(30000, "flat"), flat_recipe, None, deflectors.RESAMPLED)
    edges = np.histogram(flat["theta_E"], bins=5, range=(0.5, 2.0))[0]
    assert np.abs(edges / 6000 - 1).max() < 0.06, "theta_E itself is uniform"
    some, few = (np.abs(part["theta_E"] - 1.2) < 0.06 for part in (natural, flat))
    assert ((flat["sigma_v"] > 99) & (flat["sigma_v"] < 401)).mean() > 0.99
    for key in ("z_lens", "z_source", "sigma_v"):
        want, got = (np.percentile(part[key][which], (16, 50, 84)) for part, which in ((natural, some), (flat, few)))
        np.testing.assert_allclose(got, want, rtol=0.06, err_msg=key)


@pytest.mark.parametrize("source", ["power", "lsst"])
def test_flat_theta_E_needs_no_impossible_galaxy(source):
    r = recipe(lens={"flat_fraction": 1.0, "theta_E": [0.5, 3.0]}, source={"counts": source})
    got = population.lens_mass(draws(3000), r)
    assert (got["sigma_v"] < 401).mean() > 0.99, "a resampled galaxy has a dispersion of the population"


def test_the_screen_loses_few_lenses(monkeypatch):
    """Of the unscreened lenses that pass the label rule, the screen would have refused less than 4 in 100."""
    from lensscan.mocks.screen import Screen
    from lensscan.mocks.systems import draw_systems

    r = recipe(classes={"lens": 1.0}, label={"attempts": 0})
    screen = Screen.of(r)
    monkeypatch.setitem(deflectors._screens, r.digest, (None, 1))
    systems = draw_systems(r, 5, np.arange(16000))
    mag = systems.light["mag_i"]
    lens = (systems.klass == 0) & (mag >= r.galaxy.mag[0]) & (mag <= r.galaxy.mag[1])
    keys = ("z_lens", "z_source", "sigma_v", "theta_E")
    keys += ("source_mag", "source_type", "source_radius", "source_distance")
    pairs = {key: systems.mass[key] for key in keys}
    promising = screen.promising(pairs)
    assert lens.sum() > 100
    assert (promising & lens).sum() / lens.sum() > 0.96
    assert promising.mean() < 0.2, "and it passes over most of the others"


def test_sizes_follow_luminosity_and_redshift():
    r = recipe()
    mag, z, kind = np.full(2, 24.0), np.array([1.0, 1.0]), np.array([2.0, 2.0])
    size = counts.log_radius(r.cosmology, mag + np.array([0.0, 2.0]), z, kind)
    assert size[0] - size[1] == pytest.approx(0.5), "-M / 4"
    assert 10 ** size[0] == pytest.approx(0.3, abs=0.12), "arcsec"


def test_caustic_positions_lie_within_the_curves_and_fill_them():
    n = 1500
    theta_E, q, turn = np.full(n, 1.3), np.full(n, 0.6), np.full(n, 0.4)
    e = (1 - q) / (1 + q)
    e1, e2 = e * np.cos(2 * turn), e * np.sin(2 * turn)
    bx, by = placement.caustic_positions(draws(n), theta_E, e1, e2)
    lens = SIE(*(torch.tensor(v[0], dtype=torch.float64) for v in (theta_E, e1, e2, 0 * e, 0 * e)))
    number = image_number(lens, torch.tensor(bx), torch.tensor(by), points=1001).numpy()
    inner = draws(n).uniform("source.inner") < 0.5
    assert inner.mean() == pytest.approx(0.5, abs=0.03)
    assert (number[inner] == 4).all(), "inside 0.7 of the astroid there are four images"
    outside = number[~inner] == 1
    phi = np.linspace(0, 2 * np.pi, 4001)
    area = []
    for grown in (0.0, 0.15):
        x, y = placement.cut(0.6, phi, 1.3, grown)
        area.append(0.5 * np.abs(x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
    assert outside.mean() == pytest.approx(1 - area[0] / area[1], abs=0.03), "uniform in the grown cut"
    assert np.hypot(bx, by)[~inner][outside].min() > 0.9


def test_curves_are_those_of_the_lens_package():
    from lensscan.lens import caustics

    lens = SIE(*(torch.tensor(v, dtype=torch.float64) for v in (1.3, 0.25, 0.0, 0.0, 0.0)))
    phi = np.linspace(0, 2 * np.pi, 361)
    q = 0.75 / 1.25
    for ours, theirs in (
        (placement.cut(q, phi, 1.3), caustics.cut(lens)),
        (placement.astroid(q, phi, 1.3), caustics.caustic(lens)),
    ):
        got, want = np.stack(ours), np.stack([part.numpy() for part in theirs])
        flip = 1 if np.abs(got - want).max() < np.abs(got + want).max() else -1
        np.testing.assert_allclose(got, flip * want, atol=1e-9)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
def test_clumps_take_less_than_half_of_the_light(count):
    r = recipe(source={"clump_count": count, "clumps": 1.0, "uniform_radius": [0.2, 1.0], "n": [1.0, 1.0]})
    d = draws(3000)
    source = population.source_galaxy(d, r, population.lens_mass(d, r) | {"e1": np.zeros(3000), "e2": np.zeros(3000)})
    for key in ("share", "r", "phi", "size"):
        assert source[f"clump_{key}"].shape == (3000, count)
    assert source["clump_share"].sum(axis=1).max(initial=0) < 0.5
    assert ((source["radius"] >= 0.2) & (source["radius"] <= 1.0)).all()
    assert (source["n"] == 1.0).all()


def test_image_sources_are_numbered_and_turned():
    r = recipe(source={"profile": "images", "images": "somewhere"})
    d = draws(2000)
    source = population.source_galaxy(d, r, population.lens_mass(d, r))
    assert ((source["image"] > 0) & (source["image"] < 1)).all()
    assert np.abs(np.histogram(source["turn"], 4, (0, 2 * np.pi))[0] / 500 - 1).max() < 0.2
    assert not source["e1"].any()
    assert not source["e2"].any()


def test_colours_go_with_redshift():
    r = recipe()
    d = draws(6000)
    mass = population.lens_mass(d, r)
    source = population.source_galaxy(d, r, mass)
    near, far = mass["z_source"] < 0.9, (mass["z_source"] > 1.6) & (mass["z_source"] < 2.4)
    assert np.median(source["colours"][near, 1]) > np.median(source["colours"][far, 1]) + 0.3, "the break is in r-i"
    assert source["mags"].shape == (6000, 4)


def test_tracks_go_on_beyond_their_end():
    galaxy = recipe().galaxy
    z = np.array([1.09, 1.1, 1.11, 1.5, 1.9])
    colours = population.track_colours(galaxy, z)
    assert np.abs(np.diff(colours[:3], axis=0)).max() < 0.1
    assert colours[3, 2] > colours[1, 2] - 0.3
    k_i = earlytypes.track(galaxy, "k_i", z)
    assert (np.diff(k_i) > 0).all(), "galaxies fade in i as the break passes it"


def test_unknown_bands_are_named():
    with pytest.raises(ConfigError, match="'K'"):
        population.band_magnitudes(("g", "K"), np.array([20.0]), np.zeros((1, 3)))


@pytest.mark.parametrize(("lens", "source"), [("normal", "lsst"), ("collett2015", "power"), ("normal", "power")])
@pytest.mark.parametrize("colours", ["random", "sed"])
def test_every_mixture_of_populations_draws(lens, source, colours):
    r = recipe(lens={"population": lens, "flat_fraction": 0.5}, source={"counts": source, "colours": colours})
    d = draws(500)
    mass = population.lens_mass(d, r)
    galaxy = population.source_galaxy(d, r, mass)
    for table in (mass, galaxy):
        assert all(np.isfinite(value).all() for value in table.values())
    assert (mass["z_source"] > mass["z_lens"]).all()
