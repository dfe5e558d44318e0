"""What lies below the noise of mocks: the noiseless blend, the source alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.errors import ConfigError
from lensscan.mocks import simulate as module
from lensscan.mocks.recipes import CLASSES, load_recipe, make_recipe
from lensscan.mocks.simulate import simulate

N = 24


@pytest.fixture(scope="module")
def recipe():
    return make_recipe({"base": "slpipe2019", "name": "small", "title": "small", "size": 40}, "here")


@pytest.fixture(scope="module")
def mocks(recipe):
    return simulate(recipe, seed=4, n=N, layers=True)


def test_layers_change_nothing_else(recipe, mocks):
    plain = simulate(recipe, seed=4, n=N)
    assert torch.equal(plain.images, mocks.images)
    assert plain.blend is None
    assert plain.arcs is None


def test_the_blend_is_the_scene_without_noise(recipe, mocks):
    clean = simulate(recipe, seed=4, n=N, noise=False)
    torch.testing.assert_close(mocks.blend, clean.images)
    residual = (mocks.images - mocks.blend) / mocks.sigma[:, :, None, None]
    assert residual.mean().abs() < 0.02
    assert 0.95 < residual.std() < 1.3, "photon noise of bright galaxies comes on top"


def test_the_arcs_are_in_the_blend_and_hold_the_lensed_flux(recipe, mocks):
    rest = mocks.blend - mocks.arcs
    assert rest.min() > -1e-3 * mocks.blend.max()
    assert (mocks.arcs.amax(dim=(1, 2, 3)) > 0).all(), "both classes of this recipe have a source"
    lens = mocks.truth["is_lens"].bool()
    assert (mocks.truth["klass"][~lens] == CLASSES.index("unlensed_source")).all()
    whole = mocks.blend.sum(dim=(2, 3))
    for band, name in enumerate(recipe.bands):
        total = 10 ** (0.4 * (31.4 - mocks.truth[f"mag_{name}"].numpy()))
        share = whole[:, band].numpy() / total
        assert np.median(share) > 0.8, name
        assert share.max() < 1.02, name


def test_rows_without_a_source_have_no_arcs():
    mocks = simulate("des-griz", seed=3, n=64, layers=True)
    sourceless = ~np.isin(mocks.truth["klass"].numpy(), [CLASSES.index(k) for k in module_sourced()])
    assert sourceless.any()
    assert (mocks.arcs[torch.from_numpy(sourceless)] == 0).all()
    assert (mocks.blend[~mocks.present] == 0).all()


def module_sourced() -> tuple[str, ...]:
    return ("lens", "undetectable", "unlensed_arc", "unlensed_source")


def test_a_scale_to_the_peak_holds_for_the_layers_too():
    recipe = load_recipe("hezaveh2017-64")
    mocks = simulate(recipe, seed=2, n=8, layers=True)
    assert recipe.noise.relative is not None
    torch.testing.assert_close(mocks.blend.amax(dim=(1, 2, 3)), torch.full((8,), float(recipe.noise.peak)))


def test_real_stamps_have_no_layers(monkeypatch, recipe):
    monkeypatch.setattr(module, "takes_real", lambda _: True)
    with pytest.raises(ConfigError, match="real stamps"):
        simulate(recipe, seed=1, n=1, layers=True)
