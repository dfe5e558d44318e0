"""Augmentation: truth turns with the image, draws belong to rows, and nothing leaks where it must not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_mocks import PIXEL_SCALE, toy_source

from lensscan.nets.heads import to_latent
from lensscan.train.augment import Sample, augment, network_inputs, rank_seed, stated_sigma, step_seed
from lensscan.train.settings import LARGEST_SEED, Augmentation

OFF = Augmentation(noise=0, gain=0, sigma=0, fwhm=0, fwhm_missing=0, pixel_scale=0, band_missing=0, mask=0, mask_size=1)


def point_sources(n=200, size=33, pixel=0.25):
    """A point at (x, y) and an elongated pair of points along phi: position and spin-2 in one picture."""
    generator = torch.Generator().manual_seed(5)
    xy = torch.randint(-8, 9, (n, 2), generator=generator)
    images = torch.zeros(n, 1, size, size)
    centre = (size - 1) // 2
    for row, (x, y) in enumerate(xy.tolist()):
        images[row, 0, centre + y, centre + x] = 5.0
        images[row, 0, centre, centre + 12] += 1.0
        images[row, 0, centre, centre - 12] += 1.0
    one = torch.ones(n, dtype=torch.float64)
    truth = {"theta_E": one, "e1": 0.4 * one, "e2": 0 * one}
    truth |= {"x": xy[:, 0] * pixel, "y": xy[:, 1] * pixel, "sx": -xy[:, 0] * pixel, "sy": -xy[:, 1] * pixel}
    flags = torch.ones(n, 1, dtype=torch.bool)
    sample = Sample(images, flags, torch.ones(n, 1), torch.ones(n, dtype=torch.bool), to_latent(truth))
    return sample, pixel


def test_truth_turns_with_the_image():
    sample, pixel = point_sources()
    out = augment(sample, OFF, seed=1, step=0, first=0, total=200)
    size = out.images.shape[-1]
    axis = (torch.arange(size) - (size - 1) / 2) * pixel
    point = out.images[:, 0] == out.images[:, 0].amax(dim=(1, 2), keepdim=True)
    x, y = (point * axis[None, :]).sum((1, 2)), (point * axis[:, None]).sum((1, 2))
    torch.testing.assert_close(out.latent[:, 3], x)
    torch.testing.assert_close(out.latent[:, 4], y)
    torch.testing.assert_close(out.latent[:, 5:], -out.latent[:, 3:5])
    rest = out.images[:, 0] * ~point
    quadrupole = (rest * (axis[None, :] ** 2 - axis[:, None] ** 2)).sum((1, 2))
    assert (torch.sign(quadrupole) == torch.sign(out.latent[:, 1])).all(), "e1 must follow the image's axis"
    assert (out.latent[:, 1] > 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert len({tuple(row.tolist()) for row in out.latent[:, 3:5].sign() if row.all()}) == 4


def test_the_largest_seed_draws_noise_to_the_end_of_a_long_training():
    """A finish augments mocks of ten times the training's seed."""
    sample = toy_source(0, 4)
    out = augment(sample, dataclasses.replace(OFF, noise=1.0), 10 * LARGEST_SEED + 4, 10_000_000, 0, 4)
    assert not torch.equal(out.images, sample.images)


def test_input_is_left_alone():
    sample = toy_source(0, 32)
    before = dataclasses.replace(sample, images=sample.images.clone(), latent=sample.latent.clone())
    augment(sample, Augmentation(), 1, 0, 0, 32)
    assert torch.equal(sample.images, before.images)
    assert torch.equal(sample.latent.nan_to_num(), before.latent.nan_to_num())


@pytest.mark.parametrize("cut", [16, 13])
def test_draws_belong_to_rows_of_the_global_batch(cut):
    sample = toy_source(0, 48)
    strong = Augmentation(noise=1.0, gain=0.2, band_missing=0.5, mask=0.8, fwhm_missing=0.5, pad=0.5)
    whole = augment(sample, strong, 3, 11, 0, 48)

    def part(rows: slice) -> Sample:
        small = Sample(*(getattr(sample, name)[rows] for name in FIELDS))
        return augment(small, strong, 3, 11, rows.start, 48)

    parts = [part(slice(0, cut)), part(slice(cut, 48))]
    for name in (*FIELDS, "mask", "sigma_factor", "scale_factor"):
        joined = torch.cat([getattr(p, name) for p in parts])
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=0, equal_nan=True, msg=name)


FIELDS = ("images", "present", "fwhm", "is_lens", "latent")


def test_padded_stamps_show_a_centred_square_and_its_noise():
    sample = toy_source(0, 256)
    size = sample.images.shape[-1]
    out = augment(sample, dataclasses.replace(OFF, pad=0.5, pad_side=0.4), 1, 0, 0, 256)
    assert torch.equal(out.images, augment(sample, OFF, 1, 0, 0, 256).images), "only the mask says what is there"
    sides = []
    for mask in out.mask[:, 0]:
        there = ~mask
        side = int(there.any(dim=0).sum())
        low = (size - side) // 2
        assert there.sum() == side * side
        assert there[low : low + side, low : low + side].all()
        sides.append(side)
    assert (out.mask == out.mask[:, :1]).all()
    padded = np.array(sides) < size
    assert 0.35 < padded.mean() < 0.55
    assert 0.4 * size - 1 <= min(sides) < 0.5 * size
    ratio = (stated_sigma(out) / stated_sigma(augment(sample, OFF, 1, 0, 0, 256)))[torch.from_numpy(padded)]
    assert ratio.isfinite().all()
    assert 0.8 < float(ratio.median()) < 1.25


def test_another_step_is_another_draw():
    sample = toy_source(0, 32)
    first, again, later = (augment(sample, Augmentation(), 1, step, 0, 32) for step in (4, 4, 5))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, later.images)


def test_absent_bands_are_zero_and_never_all():
    out = augment(toy_source(0, 64), dataclasses.replace(OFF, band_missing=1.0, noise=0.5), 1, 0, 0, 64)
    assert (out.present.sum(dim=1) == 1).all()
    assert (out.images[~out.present] == 0).all()


def test_the_only_band_there_is_stays():
    sample = toy_source(0, 64)
    sample.present[:, 1] = False
    out = augment(sample, dataclasses.replace(OFF, band_missing=1.0), 1, 0, 0, 64)
    assert torch.equal(out.present, sample.present)


def test_masks_reach_the_network_as_zeros():
    sample = augment(toy_source(0, 64), dataclasses.replace(OFF, mask=1.0, mask_size=6), 1, 0, 0, 64)
    assert sample.mask.any(dim=(1, 2, 3)).all()
    images, scalars = network_inputs(sample, 2.0, PIXEL_SCALE)
    assert (images[sample.mask] == 0).all()
    spoilt = dataclasses.replace(sample, images=sample.images.masked_fill(sample.mask, 1e6))
    again, same = network_inputs(spoilt, 2.0, PIXEL_SCALE)
    assert torch.equal(again, images)
    assert torch.equal(same, scalars)


def test_training_sees_what_a_scan_sees():
    """Without augmentation the inputs are those of the scorer's own functions."""
    from lensscan.nets.normalise import estimate_sigma, normalise, scalar_inputs

    sample = toy_source(0, 8)
    sigma = estimate_sigma(sample.images)
    images, scalars = network_inputs(sample, 2.0, PIXEL_SCALE)
    assert torch.equal(images, normalise(sample.images, None, sigma, 2.0))
    assert torch.equal(scalars, scalar_inputs(sigma, sample.fwhm, sample.present, PIXEL_SCALE))


def test_missing_pixels_turn_with_the_image_and_reach_the_network():
    sample = toy_source(0, 64)
    sample.mask = sample.images > 40.0
    out = augment(sample, OFF, 1, 0, 0, 64)
    assert torch.equal(out.mask, out.images > 40.0)
    assert not torch.equal(out.mask, sample.mask)
    images, _ = network_inputs(out, 3.0, PIXEL_SCALE)
    assert float(images[out.mask].abs().max()) == 0.0
    hidden = dataclasses.replace(OFF, mask=1.0, mask_size=6)
    both = augment(sample, hidden, 1, 0, 0, 64)
    assert bool(both.mask[out.mask].all())
    assert int(both.mask.sum()) > int(out.mask.sum())


def test_what_networks_draw_is_another_at_every_rank_and_step():
    """A rank used to draw what the ranks 17 below it drew a step later; a lone process draws as it always has."""
    assert rank_seed(3, 40, 0) == step_seed(3, 40, 3)
    seeds = [rank_seed(seed, step, rank) for seed in (1, 25_000_000) for step in range(60) for rank in range(70)]
    draws = {int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed))) for seed in seeds}
    assert len(draws) == len(seeds)
