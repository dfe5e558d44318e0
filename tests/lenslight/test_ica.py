"""FastICA against scikit-learn's, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensscan.lenslight.ica import fast_ica, whiten


def mixtures(
    n: int, bands: int, components: int, pixels: int = 2000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse independent sources, mixed differently in every stamp, with a little noise."""
    rng = np.random.default_rng(seed)
    sources = rng.exponential(1.0, (n, components, pixels)) * (rng.random((n, components, pixels)) < 0.3)
    mixing = rng.uniform(0.2, 1.0, (n, bands, components)) + 1.5 * np.eye(bands, components)
    data = mixing @ sources + 0.01 * rng.normal(size=(n, bands, pixels))
    return torch.from_numpy(data), torch.from_numpy(sources)


@pytest.mark.parametrize(("bands", "components"), [(2, 2), (4, 2), (4, 3)])
def test_the_same_components_as_scikit_learn(bands: int, components: int) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    data, _ = mixtures(4, bands, components)
    weight = torch.ones(data.shape[0], data.shape[2], dtype=torch.float64)
    white = whiten(data, weight, components)
    ours = fast_ica(white.pixels, weight, tolerance=1e-12)
    assert ours.converged.all()
    for row in range(len(data)):
        oracle = decomposition.FastICA(whiten=False, fun="logcosh", tol=1e-12, max_iter=1000, w_init=np.eye(components))
        theirs = oracle.fit_transform(white.pixels[row].numpy().T).T
        found = (ours.rotation[row] @ white.pixels[row]).numpy()
        agreement = np.abs(np.corrcoef(found, theirs)[:components, components:])
        # one partner each, whatever sign and order
        np.testing.assert_allclose(np.sort(agreement, axis=1)[:, -1], 1.0, atol=1e-9)
        assert len(set(agreement.argmax(axis=1))) == components


def test_sources_come_back_from_their_mixtures() -> None:
    data, sources = mixtures(6, 3, 2)
    weight = torch.ones(6, data.shape[2], dtype=torch.float64)
    white = whiten(data, weight, 2)
    found = fast_ica(white.pixels, weight).rotation @ white.pixels
    for row in range(6):
        agreement = np.abs(np.corrcoef(found[row].numpy(), sources[row].numpy())[:2, 2:])
        assert agreement.max(axis=1).min() > 0.99


def test_whitening_can_be_undone_and_is_white() -> None:
    data, _ = mixtures(3, 4, 4)
    weight = torch.ones(3, data.shape[2], dtype=torch.float64)
    white = whiten(data, weight, 4)
    covariance = white.pixels @ white.pixels.transpose(1, 2) / data.shape[2]
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.float64).expand(3, 4, 4), atol=1e-9, rtol=0)
    torch.testing.assert_close(white.back @ white.pixels + white.mean[..., None], data, atol=1e-9, rtol=0)


def test_pixels_without_weight_do_not_count() -> None:
    data, _ = mixtures(3, 2, 2)
    weight = torch.ones(3, data.shape[2], dtype=torch.float64)
    weight[:, ::5] = 0
    spoiled = torch.where(weight[:, None] > 0, data, torch.full_like(data, 1e6))
    one, other = (whiten(values, weight, 2) for values in (data, spoiled))
    torch.testing.assert_close(one.forward, other.forward)
    rotations = [fast_ica(white.pixels, weight).rotation for white in (one, other)]
    torch.testing.assert_close(*rotations)


def test_neighbours_in_the_batch_do_not_matter() -> None:
    data, _ = mixtures(5, 3, 2)
    weight = torch.ones(5, data.shape[2], dtype=torch.float64)
    white = whiten(data, weight, 2)
    together, again = fast_ica(white.pixels, weight), fast_ica(white.pixels, weight)
    assert torch.equal(together.rotation, again.rotation)
    for row in range(5):
        alone = fast_ica(white.pixels[row : row + 1], weight[:1])
        torch.testing.assert_close(alone.rotation[0], together.rotation[row], atol=1e-9, rtol=0)
        assert alone.iterations[0] == together.iterations[row]


def test_what_has_not_converged_says_so() -> None:
    data, _ = mixtures(2, 2, 2)
    weight = torch.ones(2, data.shape[2], dtype=torch.float64)
    white = whiten(data, weight, 2)
    result = fast_ica(white.pixels, weight, iterations=1, tolerance=0.0)
    assert not result.converged.any()
    assert (result.iterations == 1).all()
