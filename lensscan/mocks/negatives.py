"""What fills the stamps: the central galaxies of every class, and the neighbours that all classes share.

Neighbours are drawn for every row in the same way, so that a neighbour never tells a lens from a non-lens.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.population import band_magnitudes, flux, random_colours, track_colours
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import CLASSES, Recipe
from lensscan.mocks.scene import FULL, LARGE, SMALL, Scene
from lensscan.mocks.systems import Systems

__all__ = ["compose"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
MOST = 18
LOCUS = (  # g-r, r-i, i-z along the stellar locus, from F stars to late M dwarfs (assumed, by eye from SDSS)
    (0.25, 0.05, 0.02),
    (0.45, 0.15, 0.05),
    (0.70, 0.26, 0.11),
    (1.00, 0.40, 0.19),
    (1.30, 0.60, 0.31),
    (1.42, 0.95, 0.48),
    (1.47, 1.40, 0.72),
    (1.55, 1.90, 0.98),
)


def compose(recipe: Recipe, seed: int, systems: Systems, margin: int) -> tuple[Scene, Array]:
    """Return the scene of all unlensed light and the central object's flux, shape (n, C), nJy.

    Parameters
    ----------
    margin : int
        Pixels around the frame in which neighbours are drawn too, so that their light reaches in.
    """
    draws = Draws(recipe.digest, seed, systems.index)
    scene = Scene(len(recipe.bands))
    total = np.zeros((len(systems.index), len(recipe.bands)))
    rows = np.flatnonzero(systems.massive)
    _massive(scene, recipe, systems, rows, draws.redraw(rows, 0), total)
    for name, add in (
        ("companions", _companions),
        ("merger", _merger),
        ("ring", _ring),
        ("tidal_arc", _tidal_arc),
        ("artefact", _artefact),
        ("spiral", _spiral),
        ("edge_on", _edge_on),
        ("star", _star),
        ("field", _field),
    ):
        rows = np.flatnonzero(systems.klass == CLASSES.index(name))
        if len(rows):
            add(scene, recipe, systems, rows, draws.redraw(rows, 0), total)
    _neighbours(scene, recipe, systems, draws, margin)
    return scene, total


def _massive(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add the massive galaxies: a Sersic body, and for some a bluer exponential envelope; or what subtraction left."""
    if not len(rows):
        return
    light = {k: v[rows] for k, v in systems.light.items()}
    f = flux(light["mags"])
    total[rows] = f
    if recipe.galaxy.residual is not None:
        dimmer = 10 ** (0.4 * (light["mag_i"] - np.clip(light["mag_i"], *recipe.galaxy.mag)))
        f = f * (dimmer * draws.normal("light.residual", 0.0, recipe.galaxy.residual))[:, None]
    outer = light["outer"][:, None] * 10 ** (0.4 * light["outer_bluer"][:, None] * np.linspace(1, -1, f.shape[1]))
    place = {"e1": light["e1"], "e2": light["e2"], "x": light["x"], "y": light["y"]}
    scene.add_galaxies(FULL, rows, f * (1 - outer), radius=light["radius"], n=light["n"], **place)
    two = light["outer"] > 0
    place = {k: v[two] for k, v in place.items()}
    scene.add_galaxies(FULL, rows[two], (f * outer)[two], radius=light["outer_radius"][two], n=1.0, **place)


def _shape(draws: Draws, name: str, low: float = 0.2, k: int | None = None) -> tuple[Array, Array]:
    q = draws.uniform(f"{name}.q", low, 1.0, k=k)
    return draws.spin2(f"{name}.angle", (1 - q) / (1 + q))


def _companions(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add one to four satellites at arc distance, red like the galaxy or blue like a source."""
    count = 1 + draws.choice("comp.count", np.array([0.5, 0.3, 0.15, 0.05]))
    k = 4
    mag = systems.light["mag_i"][rows][:, None] + draws.uniform("comp.dm", 1.0, 5.0, k=k)
    mag = np.minimum(mag, 24.5)
    own = systems.light["colours"][rows][:, None, :] + 0.08 * draws.normal("comp.c", k=3 * k).reshape(-1, k, 3)
    blue = random_colours(draws, "comp.blue", 0.2, k=k)
    colours = np.where((draws.uniform("comp.red", k=k) < 0.5)[..., None], own, blue)
    r, phi = draws.uniform("comp.r", 0.7, 4.0, k=k), draws.uniform("comp.phi", 0, 2 * math.pi, k=k)
    e1, e2 = _shape(draws, "comp", k=k)
    radius, n = 10 ** draws.uniform("comp.size", -0.9, -0.2, k=k), draws.uniform("comp.n", 0.8, 3.5, k=k)
    x, y = systems.light["x"][rows][:, None] + r * np.cos(phi), systems.light["y"][rows][:, None] + r * np.sin(phi)
    keep = np.arange(k) < count[:, None]
    where = np.broadcast_to(rows[:, None], keep.shape)[keep]
    scene.add_galaxies(
        LARGE,
        where,
        flux(band_magnitudes(recipe.bands, mag, colours))[keep],
        radius=radius[keep],
        n=n[keep],
        e1=e1[keep],
        e2=e2[keep],
        x=x[keep],
        y=y[keep],
    )


def _merger(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add one or two galaxies of similar mass in contact."""
    for part in range(2):
        own = draws.uniform(f"merge.{part}") < (1.0, 0.3)[part]
        light = {k: v[rows] for k, v in systems.light.items()}
        mag = light["mag_i"] + draws.uniform(f"merge.dm.{part}", -0.3, 2.0)
        r, phi = draws.uniform(f"merge.r.{part}", 0.6, 3.2), draws.uniform(f"merge.phi.{part}", 0, 2 * math.pi)
        colours = light["colours"] + np.array([-0.3, -0.1, -0.05]) * draws.uniform(f"merge.c.{part}")[:, None]
        f = flux(band_magnitudes(recipe.bands, mag, colours))
        e1, e2 = _shape(draws, f"merge.{part}", 0.3)
        radius = np.clip(light["radius"] * draws.uniform(f"merge.size.{part}", 0.4, 1.2), 0.2, 2.0)
        n = draws.uniform(f"merge.n.{part}", 1.0, 4.5)
        x, y = light["x"] + r * np.cos(phi), light["y"] + r * np.sin(phi)
        scene.add_galaxies(
            FULL, rows[own], f[own], radius=radius[own], n=n[own], e1=e1[own], e2=e2[own], x=x[own], y=y[own]
        )


def _ring(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add a blue ring of stars around the galaxy."""
    colours = random_colours(draws, "ring", 0.1)
    mag = systems.light["mag_i"][rows] + draws.uniform("ring.dm", 0.8, 3.0)
    f = flux(band_magnitudes(recipe.bands, mag, colours))
    e1, e2 = _shape(draws, "ring", 0.55)
    radius = draws.uniform("ring.radius", 0.9, 3.5)
    scene.add_discs(
        rows,
        f,
        radius=radius,
        e1=e1,
        e2=e2,
        x=systems.light["x"][rows],
        y=systems.light["y"][rows],
        ring=1.0,
        width=radius * draws.uniform("ring.width", 0.08, 0.25),
        arms=np.floor(draws.uniform("ring.m", 1.0, 4.0)),
        strength=draws.uniform("ring.strength", 0.0, 0.5),
        pitch=0.3,
        phase=draws.uniform("ring.phase", 0, 2 * math.pi),
    )
    total[rows] += f


def _tidal_arc(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add one or two tidal tails or shells: broad pieces of rings of the galaxy's own stars, a little bluer."""
    light = {k: v[rows] for k, v in systems.light.items()}
    first = draws.uniform("tidal.phase", 0, 2 * math.pi)
    for part in range(2):
        own = draws.uniform(f"tidal.{part}") < (1.0, 0.4)[part]
        mag = light["mag_i"] + draws.uniform(f"tidal.dm.{part}", 1.5, 4.0)
        colours = light["colours"] + np.array([-0.35, -0.12, -0.06]) * draws.uniform(f"tidal.c.{part}")[:, None]
        f = flux(band_magnitudes(recipe.bands, mag, colours))
        e1, e2 = _shape(draws, f"tidal.{part}", 0.4)
        radius = draws.uniform(f"tidal.radius.{part}", 1.5, 6.0)
        values = {
            "radius": radius,
            "e1": e1,
            "e2": e2,
            "x": light["x"] + draws.normal(f"tidal.x.{part}", 0.0, 0.5),
            "y": light["y"] + draws.normal(f"tidal.y.{part}", 0.0, 0.5),
            "width": radius * draws.uniform(f"tidal.width.{part}", 0.07, 0.25),
            "pitch": 10 ** draws.uniform(f"tidal.sharp.{part}", 0.0, 1.1),
            "phase": first + math.pi * part + draws.normal(f"tidal.turn.{part}", 0.0, 0.4),
        }
        kept = {name: value[own] for name, value in values.items()}
        scene.add_discs(rows[own], f[own], **kept, ring=2.0, arms=0.0, strength=0.0)
        total[rows] += f * own[:, None]


def _artefact(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add what is no light of the sky's own: a satellite trail, a ghost of a bright star, or a star's spikes.

    Trail and ghost are in one band only, because the bands were not exposed together.
    """
    width = len(recipe.bands)
    kind = draws.choice("artefact.kind", np.array([0.4, 0.25, 0.35]))
    one = np.eye(width)[draws.choice("artefact.band", np.ones(width))]
    sigma = systems.sky.sigma[rows]
    half = 0.5 * recipe.size * recipe.pixel_scale
    angle = draws.uniform("artefact.angle", 0, math.pi)
    x, y = (draws.uniform(f"artefact.{a}", -0.6, 0.6) * half for a in "xy")
    some = kind == 0
    peak = one * sigma * 10 ** draws.uniform("artefact.trail", 0.3, 1.5)[:, None] / recipe.pixel_scale**2
    thin = draws.uniform("artefact.width", 0.2, 0.6)
    scene.add_trails(rows[some], peak[some], x=x[some], y=y[some], angle=angle[some], width=thin[some], length=np.inf)
    some = kind == 1
    size = draws.uniform("artefact.ghost", 0.4, 1.5) * half
    thick = size * draws.uniform("artefact.thick", 0.1, 0.3)
    bright = one * sigma * (draws.uniform("artefact.depth", 0.5, 3.0) * size * thick)[:, None]
    ghost = {"radius": size, "x": x, "y": y, "width": thick, "phase": 2 * angle}
    scene.add_discs(
        rows[some],
        (bright * 15.7 / recipe.pixel_scale**2)[some],  # (2 pi)^1.5 r w: the area of a Gaussian ring
        **{k: v[some] for k, v in ghost.items()},
        e1=0.0,
        e2=0.0,
        ring=1.0,
        arms=1.0,
        strength=0.3,
        pitch=0.3,
    )
    some = kind == 2
    star = _star_flux(recipe, draws, "artefact.star", 15.0, 18.0)[some]
    edge = half + 5 * recipe.pixel_scale  # within the margin: a star beyond it would come in on the other side
    sx, sy = (edge * np.cos(2 * angle))[some], (edge * np.sin(2 * angle))[some]
    scene.add_stars(rows[some], star, sx, sy)
    for turn in (0.25 * math.pi, -0.25 * math.pi):
        scene.add_trails(rows[some], 2e-3 * star, x=sx, y=sy, angle=turn, width=0.15, length=0.4 * half)


def _disc_light(recipe: Recipe, draws: Draws, name: str, slope: float = 0.25) -> tuple[Array, Array, Array]:
    """Return flux of bulge and disc, (m, C) each, and the disc's half-light radius of a late-type galaxy."""
    mag = draws.power_law(f"{name}.mag", 17.0, 21.5, slope)
    z = draws.uniform(f"{name}.z", 0.05, 0.6)
    red = track_colours(recipe.galaxy, z)
    age = draws.uniform(f"{name}.age", 0.15, 0.75)[:, None]
    blue = red * age + np.array([0.25, 0.12, 0.08]) * (1 - age) + 0.05 * draws.normal(f"{name}.c", k=3)
    share = draws.uniform(f"{name}.bulge", 0.05, 0.5)
    bulge = flux(band_magnitudes(recipe.bands, mag - 2.5 * np.log10(share), red))
    disc = flux(band_magnitudes(recipe.bands, mag - 2.5 * np.log10(1 - share), blue))
    radius = np.clip(1.2 * 10 ** (-0.15 * (mag - 19.5)) * 10 ** draws.normal(f"{name}.size", 0.0, 0.12), 0.5, 4.0)
    return bulge, disc, radius


def _spiral(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add a red bulge in a blue disc with two to four arms."""
    bulge, disc, radius = _disc_light(recipe, draws, "spiral", 0.1)  # more bright ones than in life: their arms mislead
    e1, e2 = _shape(draws, "spiral", 0.35)
    x, y = systems.sky.x[rows], systems.sky.y[rows]
    scene.add_galaxies(
        FULL,
        rows,
        bulge,
        radius=radius * draws.uniform("spiral.rb", 0.12, 0.35),
        n=draws.uniform("spiral.n", 1.5, 4.0),
        e1=0.4 * e1,
        e2=0.4 * e2,
        x=x,
        y=y,
    )
    pitch = np.radians(draws.uniform("spiral.pitch", 10.0, 40.0)) * np.where(draws.uniform("spiral.hand") < 0.5, 1, -1)
    scene.add_discs(
        rows,
        disc,
        radius=radius,
        e1=e1,
        e2=e2,
        x=x,
        y=y,
        ring=0.0,
        width=1.0,
        arms=2.0 + draws.choice("spiral.m", np.array([0.65, 0.2, 0.15])),
        strength=draws.uniform("spiral.strength", 0.2, 0.95),
        pitch=pitch,
        phase=draws.uniform("spiral.phase", 0, 2 * math.pi),
    )
    total[rows] += bulge + disc


def _edge_on(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add a thin disc with a bulge."""
    bulge, disc, radius = _disc_light(recipe, draws, "edge")
    q = draws.uniform("edge.q", 0.1, 0.3)
    e1, e2 = draws.spin2("edge.angle", (1 - q) / (1 + q))
    x, y = systems.sky.x[rows], systems.sky.y[rows]
    scene.add_galaxies(FULL, rows, bulge, radius=0.3 * radius, n=2.0, e1=0.3 * e1, e2=0.3 * e2, x=x, y=y)
    scene.add_galaxies(FULL, rows, disc, radius=radius, n=1.0, e1=e1, e2=e2, x=x, y=y)
    total[rows] += bulge + disc


def _star_flux(recipe: Recipe, draws: Draws, name: str, low: float, high: float, k: int | None = None) -> Array:
    """Return fluxes of stars along the stellar locus (two thirds M dwarfs)."""
    mag = draws.power_law(f"{name}.mag", low, high, 0.12, k=k)
    place = draws.uniform(f"{name}.locus", 0.0, 1.0, k=k) ** 0.8 * (len(LOCUS) - 1)
    colours = np.stack([np.interp(place, np.arange(len(LOCUS)), np.asarray(LOCUS)[:, c]) for c in range(3)], axis=-1)
    return flux(band_magnitudes(recipe.bands, mag, colours + 0.03 * draws.normal(f"{name}.c", k=k)[..., None]))


def _star(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add a star in the centre; for half of them a galaxy beside it."""
    f = _star_flux(recipe, draws, "central", 17.0, 21.5)
    x, y = systems.sky.x[rows], systems.sky.y[rows]
    scene.add_stars(rows, f, x, y)
    total[rows] += f
    beside = draws.uniform("central.blend") < 0.5
    r, phi = draws.uniform("central.r", 0.5, 3.0), draws.uniform("central.phi", 0, 2 * math.pi)
    colours = random_colours(draws, "central.galaxy", 0.4)
    g = flux(band_magnitudes(recipe.bands, draws.uniform("central.gmag", 18.5, 22.5), colours))
    e1, e2 = _shape(draws, "central.galaxy")
    radius = draws.uniform("central.size", 0.3, 1.0)
    scene.add_galaxies(
        LARGE,
        rows[beside],
        g[beside],
        radius=radius[beside],
        n=1.5,
        e1=e1[beside],
        e2=e2[beside],
        x=(x + r * np.cos(phi))[beside],
        y=(y + r * np.sin(phi))[beside],
    )


def _field(scene: Scene, recipe: Recipe, systems: Systems, rows: Rows, draws: Draws, total: Array) -> None:
    """Add an ordinary galaxy of the survey's magnitudes: mostly a blue disc."""
    bulge, disc, radius = _disc_light(recipe, draws, "field")
    e1, e2 = _shape(draws, "field", 0.25)
    x, y = systems.sky.x[rows], systems.sky.y[rows]
    scene.add_galaxies(FULL, rows, bulge, radius=0.35 * radius, n=2.5, e1=0.5 * e1, e2=0.5 * e2, x=x, y=y)
    scene.add_galaxies(
        FULL, rows, disc, radius=0.9 * radius, n=draws.uniform("field.n", 0.8, 1.5), e1=e1, e2=e2, x=x, y=y
    )
    total[rows] += bulge + disc


def _neighbours(scene: Scene, recipe: Recipe, systems: Systems, draws: Draws, margin: int) -> None:
    """Add field galaxies, companions of the massive galaxy's colour, and stars, over the frame and its margin."""
    prior = recipe.scene
    half = 0.5 * (recipe.size + 2 * margin) * recipe.pixel_scale
    area = (2 * half) ** 2 / 3600
    everyone = np.arange(draws.n)
    drawn = systems.stamp < 0
    count = np.where(drawn, draws.poisson("near.count", prior.density * area, MOST), 0)
    mag = draws.power_law("near.mag", prior.mag[0], prior.mag[1], prior.slope, k=MOST)
    colours = random_colours(draws, "near", prior.red_fraction, k=MOST)
    x, y = (draws.uniform(f"near.{a}", -half, half, k=MOST) for a in "xy")
    _add_field(scene, recipe, draws, "near", everyone, np.arange(MOST) < count[:, None], mag, colours, x, y)
    few = 4
    count = np.where(systems.massive, draws.poisson("member.count", prior.members, few), 0)
    base = systems.light.get("mag_i", np.full(draws.n, np.nan))
    mag = np.clip(
        np.nan_to_num(base, nan=19.0)[:, None] + draws.power_law("member.dm", 0.3, 5.0, 0.2, k=few), 17.5, 24.5
    )
    own = np.nan_to_num(systems.light.get("colours", np.zeros((draws.n, 3))))
    colours = own[:, None, :] + 0.05 * draws.normal("member.c", k=3 * few).reshape(-1, few, 3)
    r = np.sqrt(draws.uniform("member.r", (2.5 / prior.members_radius) ** 2, 1.0, k=few)) * prior.members_radius
    phi = draws.uniform("member.phi", 0, 2 * math.pi, k=few)
    _add_field(
        scene,
        recipe,
        draws,
        "member",
        everyone,
        np.arange(few) < count[:, None],
        mag,
        colours,
        r * np.cos(phi),
        r * np.sin(phi),
    )
    count = np.where(drawn, draws.poisson("stars.count", prior.stars * area, few), 0)
    keep = np.arange(few) < count[:, None]
    where = np.broadcast_to(everyone[:, None], keep.shape)[keep]
    x, y = (draws.uniform(f"stars.{a}", -half, half, k=few) for a in "xy")
    scene.add_stars(where, _star_flux(recipe, draws, "stars", 16.0, 23.0, k=few)[keep], x[keep], y[keep])


def _add_field(
    scene: Scene,
    recipe: Recipe,
    draws: Draws,
    name: str,
    rows: Rows,
    keep: NDArray[np.bool_],
    mag: Array,
    colours: Array,
    x: Array,
    y: Array,
) -> None:
    """Add field galaxies with sizes that follow magnitude; faint ones in small patches."""
    k = keep.shape[1]
    radius = np.clip(0.55 * 10 ** (-0.12 * (mag - 21.5)) * 10 ** draws.normal(f"{name}.size", 0.0, 0.18, k=k), 0.1, 1.5)
    n = np.where(draws.uniform(f"{name}.type", k=k) < 0.3, draws.uniform(f"{name}.n", 2.0, 4.0, k=k), 1.0)
    e1, e2 = _shape(draws, name, 0.25, k=k)
    f = flux(band_magnitudes(recipe.bands, mag, colours))
    where = np.broadcast_to(rows[:, None], keep.shape)
    for kind, chosen in ((LARGE, keep & (mag < 22.8)), (SMALL, keep & (mag >= 22.8))):
        scene.add_galaxies(
            kind,
            where[chosen],
            f[chosen],
            radius=radius[chosen],
            n=n[chosen],
            e1=e1[chosen],
            e2=e2[chosen],
            x=x[chosen],
            y=y[chosen],
        )
