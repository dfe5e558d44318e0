"""Lens light removed from simulated lenses with truth, by both methods, and everything that is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lenslight.toys import Truth, mock_lenses

from lensscan.errors import ConfigError
from lensscan.lenslight.match import match_bands
from lensscan.lenslight.shape import pixel_grid
from lensscan.lenslight.stage import REASONS, LensLight, remove_lens_light
from lensscan.lenslight.unmix import separate

N = 32


@pytest.fixture(scope="module")
def lenses() -> Truth:
    return mock_lenses(N)


@pytest.fixture(scope="module")
def by_colour(lenses: Truth) -> LensLight:
    return remove(lenses)


def remove(toy: Truth, rows: slice = slice(None), bands: list[int] | None = None, **settings: object) -> LensLight:
    chosen = [0, 1, 2, 3] if bands is None else bands
    arguments = {"pixel_scale": toy.pixel_scale, "method": "ica"} | settings
    return remove_lens_light(
        toy.images[rows][:, chosen], fwhm=toy.fwhm[rows][:, chosen], sigma=toy.sigma[rows][:, chosen], **arguments
    )


def matched(toy: Truth, images: torch.Tensor) -> torch.Tensor:
    return match_bands(images, torch.zeros_like(images, dtype=torch.bool), toy.fwhm, toy.pixel_scale).images


def figures(toy: Truth, arcs: torch.Tensor, truth: torch.Tensor, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return, per stamp and band: arc flux found over true arc flux where there are arcs; light left in the core."""
    seen = (truth / toy.sigma[: len(truth), :, None, None]).sum(dim=1, keepdim=True)
    bright = seen > 0.15 * seen.amax(dim=(2, 3), keepdim=True)
    recovered = (arcs * bright).sum(dim=(2, 3)) / (truth * bright).sum(dim=(2, 3))
    px, py = pixel_grid(*images.shape[2:], toy.pixel_scale, images)
    n = len(truth)
    away = torch.hypot(px - toy.x[:n, None, None], py - toy.y[:n, None, None])
    core = (away < 0.5 * toy.fwhm[:n].amax(dim=1)[:, None, None])[:, None]
    left = ((arcs - truth) * core).sum(dim=(2, 3)) / ((images - truth) * core).sum(dim=(2, 3))
    return recovered.numpy(), left.numpy()


def test_ica_recovers_arcs_and_empties_the_core(lenses: Truth, by_colour: LensLight) -> None:
    """Galaxies with bluer envelopes, neighbours, seeing of unknown wings; figures in docs/lenslight.md."""
    assert by_colour.ok.all()
    truth, images = matched(lenses, lenses.arcs), matched(lenses, lenses.images)
    recovered, left = figures(lenses, by_colour.arcs, truth, images)
    middle = np.median(recovered, axis=0)
    assert 0.85 < middle[0] < 1.45
    assert (middle[1:] > 0.5).all()
    assert (middle[1:] < 1.8).all()
    assert (np.abs(np.median(left, axis=0)) < [0.1, 0.04, 0.03, 0.03]).all()


def test_the_prior_on_the_arcs_colour_pays(lenses: Truth) -> None:
    """With both colours from ICA alone the arcs' light in the red bands is lost or doubled."""
    images = matched(lenses, lenses.images)
    light = remove(lenses)
    shape_of = {k: light.diagnostics[k] for k in ("x", "y", "e1", "e2")}
    from lensscan.lenslight.shape import Shape

    match = match_bands(lenses.images, torch.zeros_like(images, dtype=torch.bool), lenses.fwhm, lenses.pixel_scale)
    shape = Shape(*(v.double() for v in shape_of.values()), torch.ones(N, dtype=torch.float64))
    reach = torch.full((N,), 5.0, dtype=torch.float64)
    valid = torch.ones_like(images[:, 0])
    errors = []
    for blind in (True, False):
        parts = separate(
            images, lenses.sigma * match.noise, valid, shape, match.fwhm, lenses.pixel_scale, reach, blind=blind
        )
        recovered, _ = figures(lenses, images - parts.lens, matched(lenses, lenses.arcs), images)
        errors.append(np.median(np.abs(recovered[:, 2:] - 1)))
    assert errors[1] < 0.8 * errors[0]


def test_isophotes_do_what_one_colour_allows_and_ica_does_better(lenses: Truth, by_colour: LensLight) -> None:
    some = slice(0, 10)
    light = remove(lenses, some, [0], method="isophotes")
    assert light.ok.all()
    toy = Truth(*(v[some] for v in (lenses.images, lenses.arcs, lenses.fwhm, lenses.sigma, lenses.x, lenses.y)), 0.263)
    one = Truth(toy.images[:, :1], toy.arcs[:, :1], toy.fwhm[:, :1], toy.sigma[:, :1], toy.x, toy.y, toy.pixel_scale)
    recovered, _ = figures(one, light.arcs, one.arcs, one.images)
    assert 0.3 < np.median(recovered) < 1.2
    truth, images = matched(lenses, lenses.arcs), matched(lenses, lenses.images)
    better, _ = figures(lenses, by_colour.arcs, truth, images)
    assert np.median(np.abs(better[some, 0] - 1)) < np.median(np.abs(recovered - 1))


@pytest.mark.parametrize("method", ["ica", "isophotes"])
def test_lens_and_arcs_are_the_image(lenses: Truth, method: str) -> None:
    light = remove(lenses, slice(0, 3), method=method)
    images = matched(lenses, lenses.images)[:3].float() if method == "ica" else lenses.images[:3]
    torch.testing.assert_close(light.lens + light.arcs, images, atol=1e-3, rtol=1e-5)
    assert light.arcs.dtype == torch.float32


def test_sign_and_scale_are_those_of_light(lenses: Truth, by_colour: LensLight) -> None:
    colour = by_colour.diagnostics["lens_colour"]
    torch.testing.assert_close(colour.sum(dim=1), torch.ones(N, dtype=torch.float64))
    assert (colour > -0.02).all()
    assert (by_colour.diagnostics["core_flux"] > 0).all()
    assert (by_colour.diagnostics["arc_colour"] > 0).all()
    brighter = remove(Truth(lenses.images * 7, lenses.arcs, lenses.fwhm, lenses.sigma * 7, lenses.x, lenses.y, 0.263))
    torch.testing.assert_close(brighter.lens, 7 * by_colour.lens, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("method", ["ica", "isophotes"])
def test_the_same_again_and_alone(lenses: Truth, method: str) -> None:
    rows = slice(0, 3)
    one, two = remove(lenses, rows, method=method), remove(lenses, rows, method=method)
    assert torch.equal(one.arcs, two.arcs)
    alone = remove(lenses, slice(1, 2), method=method)
    error = (alone.arcs[0] - one.arcs[1]).abs().amax(dim=(1, 2)) / lenses.sigma[1]
    assert float(error.max()) < 1e-2


def test_numpy_in_numpy_out(lenses: Truth) -> None:
    light = remove_lens_light(
        lenses.images[:2].numpy(), pixel_scale=0.263, fwhm=lenses.fwhm[:2].numpy(), sigma=lenses.sigma[:2].numpy()
    )
    assert isinstance(light.arcs, np.ndarray)
    assert isinstance(light.diagnostics["x"], np.ndarray)
    np.testing.assert_array_equal(light.arcs, remove(lenses, slice(0, 2)).arcs.numpy())


@pytest.mark.parametrize("method", ["ica", "isophotes"])
def test_masked_pixels_are_not_read(lenses: Truth, method: str) -> None:
    images = lenses.images[:2].clone()
    mask = torch.zeros_like(images, dtype=torch.bool)
    mask[:, 1, 20:26, 36:44] = True
    arguments = {"pixel_scale": 0.263, "fwhm": lenses.fwhm[:2], "sigma": lenses.sigma[:2], "method": method}
    results = []
    for filling in (0.0, 1e8, math.nan):
        images[mask] = filling
        results.append(remove_lens_light(images, mask=mask, **arguments))
    assert results[0].ok.all()
    for other in results[1:]:
        assert torch.equal(results[0].arcs, other.arcs)
    left_out = results[0].missing[:, 1]
    assert left_out[:, 22, 40].all()
    assert results[0].mask_used[:, 22, 40].all()
    assert (results[0].arcs[:, 1][left_out] == 0).all()


def test_one_band_is_refused_by_ica_and_done_by_auto(lenses: Truth) -> None:
    rows = slice(0, 1)
    refused = remove(lenses, rows, [2])
    assert refused.reason.tolist() == ["one_band"]
    assert not refused.ok.any()
    assert torch.equal(refused.arcs, lenses.images[rows, 2:3])
    assert (refused.lens == 0).all()
    assert remove(lenses, rows, [2], method="auto").method.tolist() == ["isophotes"]


def test_stamps_that_cannot_be_done_say_why_and_leave_the_others_alone(lenses: Truth, by_colour: LensLight) -> None:
    images, fwhm = lenses.images[:5].clone(), lenses.fwhm[:5].clone()
    fwhm[0, 2] = math.nan
    images[1, :, 26:38, 26:38] = math.nan
    images[2] = (
        torch.randn(images[2].shape, generator=torch.Generator().manual_seed(1)) * lenses.sigma[2, :, None, None]
    )
    images[3, 1:] = math.nan
    light = remove_lens_light(images, pixel_scale=0.263, fwhm=fwhm, sigma=lenses.sigma[:5], method="ica")
    assert light.reason.tolist() == ["fwhm_unknown", "masked", "no_signal", "one_band", ""]
    assert light.ok.tolist() == [False, False, False, False, True]
    assert set(light.reason) <= set(REASONS)
    torch.testing.assert_close(light.arcs[4], by_colour.arcs[4], atol=0.05, rtol=1e-3)


def test_a_psf_that_cannot_be_reached_is_refused(lenses: Truth) -> None:
    rows = slice(0, 2)
    sharp = float(lenses.fwhm[rows].amin()) * 0.9
    refused = remove(lenses, rows, target=sharp)
    assert refused.reason.tolist() == ["psf_mismatch"] * 2
    assert (refused.diagnostics["mismatch"].amax(dim=1) > 0.05).all()
    assert remove(lenses, rows, target=1.5).ok.all()


def test_a_missing_band_leaves_the_others(lenses: Truth) -> None:
    images = lenses.images[:2].clone()
    images[:, 3] = math.nan
    light = remove_lens_light(images, pixel_scale=0.263, fwhm=lenses.fwhm[:2], sigma=lenses.sigma[:2])
    three = remove(lenses, slice(0, 2), [0, 1, 2])
    assert torch.equal(light.arcs[:, :3], three.arcs)
    assert light.missing[:, 3].all()
    assert light.diagnostics["lens_colour"][:, 3].isnan().all()


def test_the_noise_is_measured_where_it_is_not_given(lenses: Truth, by_colour: LensLight) -> None:
    light = remove_lens_light(lenses.images, pixel_scale=0.263, fwhm=lenses.fwhm, method="ica")
    truth, images = matched(lenses, lenses.arcs), matched(lenses, lenses.images)
    recovered, _ = figures(lenses, light.arcs, truth, images)
    assert 0.8 < np.median(recovered[:, 0]) < 1.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((2, 40, 40))}, "shape"),
        ({"images": np.zeros((2, 2, 8, 8))}, "16 pixels"),
        ({"fwhm": np.ones((3, 7))}, "fwhm"),
        ({"mask": np.zeros((2, 2, 4, 4), bool)}, "mask"),
        ({"method": "magic"}, "magic"),
        ({"pixel_scale": 0.0}, "positive"),
        ({"radius": -1.0}, "positive"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(change: dict[str, object], words: str) -> None:
    arguments = {"images": np.zeros((2, 2, 40, 40)), "pixel_scale": 0.2, "fwhm": 0.8} | change
    with pytest.raises(ConfigError, match=words) as caught:
        remove_lens_light(arguments.pop("images"), **arguments)
    assert "\n" not in str(caught.value)


def test_nothing_gives_nothing() -> None:
    light = remove_lens_light(np.zeros((0, 3, 32, 32)), pixel_scale=0.2, fwhm=0.8)
    assert light.arcs.shape == (0, 3, 32, 32)
    assert len(light.reason) == 0
