"""Effects: each has the statistics of its prior, costs nothing when off, and does not depend on the batch."""

import dataclasses

import numpy as np
import pytest
import torch

from lensscan.mocks import effects
from lensscan.mocks.priors import Draws
from lensscan.mocks.recipes import load_recipe
from lensscan.mocks.sky import observe
from lensscan.mocks.tables import EffectsPrior

RECIPE = dataclasses.replace(load_recipe("des-griz"), effects=EffectsPrior())
N, SIZE = 200, RECIPE.size
SIGMA = np.tile([1.0, 2.0, 4.0, 8.0], (N, 1))
AXIS = (torch.arange(SIZE) - (SIZE - 1) / 2) * RECIPE.pixel_scale


def recipe_with(saturation=0.0, **priors):
    bands = {name: dataclasses.replace(b, saturation=saturation) for name, b in RECIPE.band.items()}
    return dataclasses.replace(RECIPE, band=bands, effects=dataclasses.replace(RECIPE.effects, **priors))


def blob(n, flux=1e4, width=0.8):
    """Return frames (n, 4, S, S) of a round Gaussian in the middle."""
    image = torch.exp(-0.5 * (AXIS**2 + AXIS[:, None] ** 2) / width**2)
    return (flux * image / image.sum()).expand(n, 4, SIZE, SIZE).clone()


def call(name, recipe, frames, rows=slice(0, N)):
    """Apply an effect to the rows of a batch."""
    draws = Draws(recipe.digest, 1, np.arange(N)[rows])
    extra = {
        "calibrate": (),
        "add_halo": (np.linspace(-0.2, 0.2, N)[rows], np.linspace(0.3, -0.3, N)[rows]),
        "saturate": (),
    }.get(name, (SIGMA[rows],))
    result = getattr(effects, name)(frames[rows], recipe, draws, *extra)
    return result[0] if isinstance(result, tuple) else result


CASES = {
    "calibrate": {"zero_point": 0.05, "gain": 0.02},
    "add_halo": {"halo": (0.5, 0.3)},
    "add_cosmic_rays": {"cosmic_rays": (0.3, 2.0, 5.0, 50.0)},
    "add_hot_pixels": {"hot_pixels": (0.3, 3.0, 5.0, 50.0)},
    "add_hot_columns": {"hot_columns": (0.4, 1.0, 5.0)},
    "add_bias": {"zero_bias": 0.5},
    "saturate": {"saturation": 60.0, "bleed": 0.5},
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_the_same_in_any_batch(name):
    recipe, frames = recipe_with(**CASES[name]), blob(N)
    whole = call(name, recipe, frames)
    assert not torch.equal(whole, frames), "the effect shows"
    assert torch.equal(call(name, recipe, frames), whole), "exactly reproducible"
    for rows in (slice(0, 1), slice(37, 38), slice(100, 163)):
        part = call(name, recipe, frames, rows)
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-6 * float(whole.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_effects_that_are_off_touch_nothing(name):
    frames = blob(3)
    assert torch.equal(call(name, RECIPE, frames, slice(0, 3)), blob(3))
    assert not effects.flags_pixels(RECIPE)


def test_calibration_scales_bands_and_stamps():
    out = call("calibrate", recipe_with(zero_point=0.05), blob(N)).sum(dim=(2, 3)) / 1e4
    mag = -2.5 * torch.log10(out)
    assert float(mag.std()) == pytest.approx(0.05, rel=0.06)
    assert abs(float(torch.corrcoef(mag.T)[0, 1])) < 0.25
    gain = call("calibrate", recipe_with(gain=0.01), blob(N)).sum(dim=(2, 3)) / 1e4
    assert float(gain[:, 0].std()) == pytest.approx(0.01, rel=0.15)
    torch.testing.assert_close(gain[:, 0], gain[:, 3])


def test_halo_is_a_bowl_about_the_object():
    frames = blob(N, width=1.2)
    removed = frames - call("add_halo", recipe_with(halo=(0.5, 0.3)), frames)
    level = float(frames[0, 0, SIZE // 2, SIZE // 2]) * np.exp(-0.5 * (2 / 1.2) ** 2)
    depth = removed.amax(dim=(1, 2, 3))
    hit = depth > 0
    assert float(hit.float().mean()) == pytest.approx(0.5, abs=0.1)
    assert 0.2 < float(depth.max()) / level < 0.4, "at most 0.3 of the brightness at two arcsec"
    assert float(depth[hit].mean()) / level == pytest.approx(0.16, abs=0.03)
    last = torch.nonzero(hit)[-1, 0]
    row, column = divmod(int(removed[last, 0].argmax()), SIZE)
    place = np.linspace(-0.2, 0.2, N)[last], np.linspace(0.3, -0.3, N)[last]
    assert abs(float(AXIS[column]) - place[0]) < 0.15
    assert abs(float(AXIS[row]) - place[1]) < 0.15


def test_cosmic_rays_are_thin_straight_trails():
    frames = torch.zeros(N, 4, SIZE, SIZE)
    out = call("add_cosmic_rays", recipe_with(cosmic_rays=(0.3, 1.0, 5.0, 50.0)), frames)
    hit = out.amax(dim=(2, 3)) > 0
    assert float(hit.float().mean()) == pytest.approx(0.3, abs=0.04)
    peak = (out.amax(dim=(2, 3)) / torch.from_numpy(SIGMA))[hit]
    assert float(peak.max()) <= 50.0 * 1.0001
    assert float(peak.median()) == pytest.approx(np.sqrt(5 * 50), rel=0.4), "log-uniform"
    grid = torch.arange(SIZE, dtype=torch.float64)
    ratios = []
    for image in out[hit].double():
        total = image.sum()
        dx, dy = grid - (image.sum(0) * grid).sum() / total, grid - (image.sum(1) * grid).sum() / total
        xx, yy = (image.sum(0) * dx**2).sum() / total, (image.sum(1) * dy**2).sum() / total
        xy = (image * dx * dy[:, None]).sum() / total
        small = 0.5 * (xx + yy - torch.sqrt((xx - yy) ** 2 + 4 * xy**2))
        ratios.append(float(small))
    assert max(ratios) < 0.55, "narrower than a pixel across"


def test_cosmic_rays_come_in_the_stated_number():
    recipe = recipe_with(cosmic_rays=(1.0, 4.0, 1.0, 2.0))
    hits = effects._strike(Draws(recipe.digest, 1, np.arange(3000)), "effects.cosmic_rays", 1.0, 4.0, 4)
    count = np.bincount(hits.row * 4 + hits.band, minlength=12_000)
    assert count.min() >= 1
    assert count.mean() == pytest.approx(4.0, abs=0.06)
    assert count.var() == pytest.approx(3.0, abs=0.2)


def test_hot_pixels_are_single():
    out = call("add_hot_pixels", recipe_with(hot_pixels=(0.5, 3.0, 5.0, 50.0)), torch.zeros(N, 4, SIZE, SIZE))
    count = (out > 0).sum(dim=(2, 3))
    assert float((count > 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert float(count[count > 0].float().mean()) == pytest.approx(3.0, abs=0.3)
    flux = (out / torch.from_numpy(SIGMA)[..., None, None])[out > 0]
    assert float(flux.min()) >= 5.0
    assert float(torch.log(flux).mean()) == pytest.approx(0.5 * np.log(5 * 50), abs=0.1)


def test_hot_columns_run_from_edge_to_edge():
    out = call("add_hot_columns", recipe_with(hot_columns=(0.4, 1.0, 5.0)), torch.zeros(N, 4, SIZE, SIZE))
    assert torch.equal(out.amax(dim=2), out.amin(dim=2) + 0.0)
    lit = (out[:, :, 0] != 0).sum(dim=2)
    assert set(lit.unique().tolist()) == {0, 1}
    assert float(lit.float().mean()) == pytest.approx(0.4, abs=0.05)
    level = out[:, :, 0].sum(dim=2)[lit > 0] / torch.from_numpy(SIGMA)[lit > 0]
    assert 1.0 <= float(level.abs().min()) < float(level.abs().max()) <= 5.0
    assert float((level > 0).float().mean()) == pytest.approx(0.5, abs=0.1)


def test_bias_is_one_constant_in_units_of_sigma():
    out = call("add_bias", recipe_with(zero_bias=0.5), torch.zeros(N, 4, SIZE, SIZE))
    level = out[:, :, 0, 0] / torch.from_numpy(SIGMA)
    assert torch.equal(out, out[:, :, :1, :1].expand_as(out))
    torch.testing.assert_close(level[:, 0], level[:, 3], rtol=1e-5, atol=1e-7)
    assert float(level[:, 0].std()) == pytest.approx(0.5, rel=0.15)


def saturated(bleed, n=N):
    recipe = recipe_with(saturation=60.0, bleed=bleed)
    return effects.saturate(blob(n), recipe, Draws(recipe.digest, 1, np.arange(n)))


def test_saturated_pixels_are_clipped_and_flagged():
    frames, (out, full) = blob(N), saturated(0.0)
    assert torch.equal(full, frames >= 60.0)
    assert torch.equal(out, frames.clamp(max=60.0))
    peak = 1e4 * RECIPE.pixel_scale**2 / (2 * np.pi * 0.8**2)
    area = 2 * np.pi * 0.8**2 * np.log(peak / 60.0) / RECIPE.pixel_scale**2
    assert int(full[0, 0].sum()) == pytest.approx(area, abs=4)


def test_bleeding_spreads_the_charge_along_the_column():
    frames, (out, full) = blob(N), saturated(0.5)
    bled = (full.sum(dim=(2, 3)) > (frames >= 60.0).sum(dim=(2, 3))).float()
    assert float(bled.mean()) == pytest.approx(0.5, abs=0.05)
    row = int(torch.nonzero(bled[:, 0])[0, 0])
    middle = SIZE // 2
    column = full[row, 0, :, middle]
    assert 10 < int(column.sum()) < SIZE
    assert int(column.sum()) > int(full[row, 0, middle].sum()), "up and down, not sideways"
    assert float(out[row, 0].sum()) == pytest.approx(float(frames[row, 0].sum()), rel=0.15), "charge is kept"
    assert float(out.max()) <= 60.0
    assert torch.equal(column, column.flip(0))


def masks(share=0.25, most=29, radius=1.0, probability=0.5, arcs=None, rows=slice(0, N)):
    recipe = recipe_with(masks=(probability, most, radius, share))
    draws = Draws(recipe.digest, 1, np.arange(N)[rows])
    return effects.hide_circles(arcs, recipe, draws, torch.device("cpu"))


def test_circles_come_as_often_and_as_large_as_stated():
    alone = masks(most=1)
    area = alone.sum(dim=(1, 2)) * RECIPE.pixel_scale**2
    assert float((area > 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert float(area.max()) == pytest.approx(np.pi, rel=0.1), "pixels whose centres lie inside"
    many = masks(probability=1.0, radius=0.2).sum(dim=(1, 2)).float() / alone.sum(dim=(1, 2)).max() / 0.04
    assert 10 < float(many.mean()) < 20, "1 to 29 circles"
    assert torch.equal(masks(rows=slice(40, 60)), masks()[40:60])


def test_circles_never_hide_more_of_the_arcs_than_stated():
    radius = torch.hypot(AXIS, AXIS[:, None])
    arcs = torch.exp(-0.5 * ((radius - 1.5) / 0.3) ** 2).expand(N, SIZE, SIZE).clone()
    arcs[::4] = 0.0
    hidden = masks(probability=1.0, arcs=arcs)
    share = (arcs * hidden).sum(dim=(1, 2)) / arcs.sum(dim=(1, 2)).clamp_min(1e-9)
    assert float(share.max()) <= 0.25
    assert float(share.max()) > 0.15
    free = masks(probability=1.0)
    assert not bool((hidden & ~free).any()), "circles are only dropped"
    assert torch.equal(hidden[::4], free[::4]), "where no arc is, all stay"
    over = (arcs * free).sum(dim=(1, 2)) > 0.25 * arcs.sum(dim=(1, 2))
    assert bool(over.any())
    assert torch.equal(hidden[~over], free[~over])
    assert float(masks(probability=1.0, arcs=arcs, share=0.0)[1::4].float().mul(arcs[1::4]).sum()) == 0.0


def test_amplitudes_in_units_of_the_peak():
    """As Hezaveh+2017: uniform fractions of the brightest pixel."""
    recipe = recipe_with(unit="peak", hot_pixels=(1.0, 2.0, 0.0, 0.5))
    recipe = dataclasses.replace(recipe, noise=dataclasses.replace(recipe.noise, peak=400.0))
    sky = observe(Draws(recipe.digest, 1, np.arange(N)), recipe)
    out = effects.add_effects(torch.zeros(N, 4, SIZE, SIZE), recipe, Draws(recipe.digest, 1, np.arange(N)), sky)
    flux = out[out > 0]
    assert float(flux.mean()) == pytest.approx(100.0, rel=0.05)
    assert float(flux.quantile(0.99)) == pytest.approx(198.0, rel=0.05)
