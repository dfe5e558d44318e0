"""From samples of a posterior to a mixture of few Gaussians, row by row, the same bits for a row in any batch.

Expectation and maximisation (Dempster, Laird & Rubin 1977) in a fixed number of rounds, from a start that turns with
the samples.  Sums over samples run along the last axis of memory, all others term by term: torch sums other axes in an
order that depends on the neighbours and on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lensscan.metrics.factor import WEAKEST
from lensscan.nets.latent import FLOW_COMPONENTS, N_LATENT, TRIANGLE

__all__ = ["fit_gaussians"]

ROUNDS = 10
TURNS = 12
APART, NARROW = 1.2, 0.5
FLOOR = 1e-3
SHRINK = 0.3
ROWS, COLUMNS = (list(axis) for axis in zip(*TRIANGLE, strict=True))
DIAGONAL = [TRIANGLE.index((i, i)) for i in range(N_LATENT)]


def fit_gaussians(samples: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mixture of `FLOW_COMPONENTS` Gaussians that samples are likeliest under.

    Parameters
    ----------
    samples : Tensor, (n, S, 7)
    scale : Tensor, (7,)
        Units in which the widest axes are looked for.

    Returns
    -------
    mean, cov, weight : Tensor, (n, K, 7), (n, K, 28) and (n, K)
        Mean and covariance of the whole mixture are those of the samples.
    """
    turned = samples.transpose(1, 2).contiguous()
    centre = turned.mean(dim=-1)
    rest = turned - centre[..., None]
    spread = (rest[:, ROWS] * rest[:, COLUMNS]).mean(dim=-1)
    root = cholesky(spread)
    inverse = inverse_triangle(root)
    white = product(inverse, rest)
    features = torch.cat([torch.ones_like(white[:, :1]), white, white[:, ROWS] * white[:, COLUMNS]], dim=1)
    mean, cov, weight = _start(square(spread), inverse, scale)
    for _ in range(ROUNDS):
        mean, cov, weight = _maximise(features, _expect(features, mean, cov, weight))
    full = product(product(root[:, None], square(cov)), root[:, None].mT)
    return centre[:, None] + product(mean, root.mT), full[..., ROWS, COLUMNS], weight


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return matrix products (..., i, k) of (..., i, j) and (..., j, k), summed term by term."""
    total = left[..., :, 0, None] * right[..., 0, None, :]
    for j in range(1, left.shape[-1]):
        total = total + left[..., :, j, None] * right[..., j, None, :]
    return total


def square(packed: Tensor) -> Tensor:
    """Return symmetric matrices (..., 7, 7) of packed lower triangles (..., 28)."""
    index = [TRIANGLE.index((max(i, j), min(i, j))) for i in range(N_LATENT) for j in range(N_LATENT)]
    return packed[..., index].unflatten(-1, (N_LATENT, N_LATENT))


def cholesky(packed: Tensor) -> Tensor:
    """Return the lower Cholesky factors (..., 7, 7) of packed covariances (..., 28), elementwise.

    A pivot below its bound is set to it, and what is below it in its column, mere rounding, to zero.
    """
    factor = torch.zeros((*packed.shape[:-1], N_LATENT, N_LATENT), dtype=packed.dtype, device=packed.device)
    weak = torch.zeros(factor.shape[:-1], dtype=torch.bool, device=packed.device)
    for index, (i, j) in enumerate(TRIANGLE):
        rest = packed[..., index]
        for k in range(j):
            rest = rest - factor[..., i, k] * factor[..., j, k]
        if i == j:
            least = (WEAKEST * packed[..., index]).clamp(min=1e-12)
            weak[..., i] = rest < least
            factor[..., i, i] = torch.where(weak[..., i], least, rest).sqrt()
        else:
            factor[..., i, j] = (rest / factor[..., j, j]).masked_fill(weak[..., j], 0.0)
    return factor


def inverse_triangle(factor: Tensor) -> Tensor:
    """Return the inverses of lower triangular matrices (..., 7, 7), elementwise."""
    inverse = torch.zeros_like(factor)
    for i in range(N_LATENT):
        inverse[..., i, i] = 1.0 / factor[..., i, i]
        for j in range(i):
            known = sum(factor[..., i, k] * inverse[..., k, j] for k in range(j, i))
            inverse[..., i, j] = -known / factor[..., i, i]
    return inverse


def unit_trace(matrix: Tensor) -> Tensor:
    """Return matrices (n, 7, 7) over their trace."""
    return matrix / matrix.diagonal(dim1=-2, dim2=-1).contiguous().sum(dim=-1)[:, None, None]


def unit_length(vector: Tensor) -> Tensor:
    """Return vectors (n, 7, 1) over their length."""
    return vector / vector.square().mT.contiguous().sum(dim=-1, keepdim=True).sqrt()


def _start(spread: Tensor, inverse: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first guess in whitened space: means (n, K, 7), packed covariances (n, K, 28), weights (n, K)."""
    matrix = spread / (scale[:, None] * scale)
    matrix = unit_trace(matrix)
    mean = spread.new_zeros((len(spread), FLOW_COMPONENTS, N_LATENT))
    for k in (0, 1):
        power = matrix
        for _ in range(TURNS):  # the powers of a matrix become the projector on its widest axis
            power = unit_trace(product(power, power))
        column = power.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
        axis = unit_length(power.gather(2, column[:, None, None].expand(-1, N_LATENT, 1)))
        stretch = product(axis.mT, product(matrix, axis))
        matrix = matrix - stretch * axis * axis.mT
        direction = unit_length(product(inverse, scale[:, None] * axis))[..., 0]
        mean[:, 1 + 2 * k], mean[:, 2 + 2 * k] = APART * direction, -APART * direction
    cov = spread.new_zeros((len(spread), FLOW_COMPONENTS, len(TRIANGLE)))
    cov[..., DIAGONAL] = NARROW
    cov[:, 0, DIAGONAL] = 1.0
    return mean, cov, spread.new_full((len(spread), FLOW_COMPONENTS), 1.0 / FLOW_COMPONENTS)


def _expect(features: Tensor, mean: Tensor, cov: Tensor, weight: Tensor) -> Tensor:
    """Return the share (n, K, S) that each component has in each sample; features (n, 36, S)."""
    inverse = inverse_triangle(cholesky(cov))
    precision = product(inverse.mT, inverse)
    pull = product(precision, mean[..., None])[..., 0]
    log_det = inverse.diagonal(dim1=-2, dim2=-1).contiguous().log().sum(dim=-1)
    level = torch.log(weight) + log_det - 0.5 * (pull * mean).sum(dim=-1)
    curve = -precision[..., ROWS, COLUMNS]
    curve[..., DIAGONAL] *= 0.5
    form = torch.cat([level[..., None], pull, curve], dim=-1)
    level = product(form, features)
    share = torch.exp(level - level.amax(dim=1, keepdim=True))
    return share / sum(share[:, k, None] for k in range(FLOW_COMPONENTS))


def _maximise(features: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return means, packed covariances and weights of the components with these shares in the samples."""
    count = features.shape[-1]
    sums = torch.stack([(share[:, k, None] * features).sum(dim=-1) for k in range(FLOW_COMPONENTS)], dim=1)
    total = sums[..., 0].clamp(min=1e-6 * count)
    moments = sums[..., 1:] / total[..., None]
    mean = moments[..., :N_LATENT]
    cov = moments[..., N_LATENT:] - mean[..., ROWS] * mean[..., COLUMNS]
    weight = total / total.sum(dim=1, keepdim=True)
    shared = product(weight[:, None], cov)
    cov = (1 - SHRINK) * cov + SHRINK * shared
    cov[..., DIAGONAL] = cov[..., DIAGONAL] + FLOOR
    return mean, cov, weight
