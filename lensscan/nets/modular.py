"""The modular pipeline of Madireddy+2019 (arXiv:1911.03867): denoise, deblend, then classify and regress.

Read of the paper and of its public code (SLpipe): one module takes the noise off, the next the light of the lens
galaxy, each learns with a loss of its own and both together, the second sees what the first gives, the classifier and
the regressor see what the second gives; both end in variational information bottlenecks.  Theirs are image networks
of 16 residual blocks of 256 channels, and normalising flows as posteriors of the bottleneck.

Ours: the image modules are smaller (`lensscan.nets.imaging`); all images are normalised by the noise; the classifier
has a plain Gaussian bottleneck (`lensscan.nets.bottleneck`); the regressor is the posterior head of all our networks,
on the same features and without a bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from lensscan.config import Range, check_ranges
from lensscan.errors import ConfigError
from lensscan.nets.blocks import Outcome
from lensscan.nets.bottleneck import Belief, BottleneckHead, log_odds
from lensscan.nets.imaging import Deblender, Denoiser
from lensscan.nets.resnet import ResNetConfig, Trunk, posterior_head

__all__ = ["ModularConfig", "ModularNet", "Trace"]

RANGES = {"denoise_width": Range(), "denoise_depth": Range(), "deblend_widths": Range(1)}
RANGES |= {"latent": Range(1), "samples": Range(4)}


@dataclass(frozen=True, slots=True)
class ModularConfig(ResNetConfig):
    """Shape of a `ModularNet`; the fields of `ResNetConfig` are those of its classifier and regressor.

    Attributes
    ----------
    denoise_width, denoise_depth : int
        Channels and residual blocks of the denoiser; a width of 0 leaves it out.
    deblend_widths : tuple of int
        Channels of the deblender at each size; none leaves it out.
    latent : int
        Dimensions of the bottleneck.
    samples : int
        Points of the bottleneck that a logit is averaged over, even.
    """

    denoise_width: int = 32
    denoise_depth: int = 6
    deblend_widths: tuple[int, ...] = (24, 32, 48, 64)
    latent: int = 16
    samples: int = 32

    def checked(self, where: str) -> Self:
        """Return self, or raise a one-line `ConfigError` for a shape that no network has."""
        ResNetConfig.checked(self, where)
        check_ranges(self, RANGES, where)
        if self.samples % 2:
            raise ConfigError(f"{where}: samples must be even, not {self.samples}")
        return self


class Trace(NamedTuple):
    """Everything that a `ModularNet` makes of n stamps on its way.

    Attributes
    ----------
    denoised, deblended : (n, C, S, S)
        Normalised; what came before, where there is no such module.
    belief : Belief
    outcome : Outcome
    """

    denoised: Tensor
    deblended: Tensor
    belief: Belief
    outcome: Outcome


class ModularNet(Trunk):
    """Denoiser, deblender, and on the deblended stamp a trunk with a bottleneck head and a posterior head.

    Parameters
    ----------
    n_bands, size : int
    config : ModularConfig
    """

    def __init__(self, n_bands: int, size: int, config: ModularConfig) -> None:
        super().__init__(n_bands, size, config)
        self.logit = BottleneckHead(self.n_features, config.hidden, config.latent, config.samples)
        self.posterior = posterior_head(self.n_features, config)
        self.denoiser: nn.Module = nn.Identity()
        self.deblender: nn.Module = nn.Identity()
        if config.denoise_width:
            self.denoiser = Denoiser(n_bands, config.denoise_width, config.denoise_depth)
        if config.deblend_widths:
            self.deblender = Deblender(n_bands, config.deblend_widths)

    @property
    def modules_of_images(self) -> dict[str, nn.Module]:
        """The image modules that are there, by the name of their stage of a training."""
        both = {"denoise": self.denoiser, "deblend": self.deblender}
        return {name: module for name, module in both.items() if not isinstance(module, nn.Identity)}

    def forward(self, images: Tensor, scalars: Tensor) -> Outcome:
        """Map normalised images (n, C, S, S) and scalars (n, 4C + 1) to the outcome."""
        return self.trace(images, scalars).outcome

    def trace(self, images: Tensor, scalars: Tensor) -> Trace:
        """Map the same to everything made on the way."""
        denoised = self.denoiser(images)
        deblended = self.deblender(denoised)
        features = self.features(deblended, scalars)
        with torch.autocast(features.device.type, enabled=False):
            belief = self.logit(features)
            outcome = self.outcome(log_odds(belief.logits), features)
        return Trace(denoised, deblended, belief, outcome)
