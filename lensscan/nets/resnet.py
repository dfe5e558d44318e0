"""The compact residual network: stamps and scalars in, logit and SIE posterior out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensscan.config import Range, check_ranges, late
from lensscan.errors import ConfigError
from lensscan.nets.blocks import Downsample, Modulation, Network, Outcome, ResidualBlock, StandardConv2d
from lensscan.nets.heads import FlowHead, LogitHead, PosteriorHead
from lensscan.nets.latent import N_LATENT
from lensscan.nets.normalise import n_scalars

__all__ = ["LensResNet", "ResNetConfig", "Trunk", "posterior_head"]

COUNTS = ("widths", "condition", "squeeze", "hidden", "components", "flow_layers", "flow_condition", "flow_hidden")
RANGES = dict.fromkeys(COUNTS, Range(1)) | {
    "depths": Range(),
    "dropout": Range(0, 1),
    "latent_scale": Range(0, brackets="()"),
}


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Shape of a `LensResNet`.

    Attributes
    ----------
    widths, depths : tuple of int
        Channels of each stage and residual blocks in it; the stem and each stage after the first halve the
        size.
    condition : int
        Length of the condition vector made of the scalars.
    squeeze : int
        Channels kept of the last map, which is flattened (not averaged) since positions matter.
    hidden : int
        Hidden units of each head.
    dropout : float
        Share of the features that a training step hides from both heads.
    latent_centre, latent_scale : tuple of 7 float
        Units of the posterior head.
    components : int
        Gaussians of the posterior head.
    head : str
        ``gaussian``, or ``flow``: a normalising flow bends the one Gaussian (`lensscan.nets.flow`).
    flow_layers, flow_condition, flow_hidden : int
        Of the flow: couplings, length of the condition that steers them, hidden units of each.
    """

    widths: tuple[int, ...] = (16, 32, 64, 96)
    depths: tuple[int, ...] = (1, 1, 1, 1)
    condition: int = 32
    squeeze: int = 32
    hidden: int = 128
    latent_centre: tuple[float, ...] = (0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    latent_scale: tuple[float, ...] = (0.4, 0.2, 0.2, 0.1, 0.1, 0.3, 0.3)
    components: int = late(1)
    dropout: float = late(0.0)
    head: Literal["gaussian", "flow"] = late("gaussian")
    flow_layers: int = late(4)
    flow_condition: int = late(16)
    flow_hidden: int = late(32)

    def checked(self, where: str) -> Self:
        """Return self, or raise a one-line `ConfigError` for a shape that no network has."""
        check_ranges(self, RANGES, where)
        if not self.widths or len(self.widths) != len(self.depths):
            counts = f"{len(self.widths)} and {len(self.depths)}"
            raise ConfigError(f"{where}: widths and depths need a number for each stage, as many of both, not {counts}")
        if {len(self.latent_centre), len(self.latent_scale)} != {N_LATENT}:
            counts = f"{len(self.latent_centre)} and {len(self.latent_scale)}"
            raise ConfigError(f"{where}: latent_centre and latent_scale need {N_LATENT} numbers each, not {counts}")
        if self.head == "flow" and self.components > 1:
            raise ConfigError(f'{where}: head = "flow" bends one Gaussian; leave components out')
        return self


class Trunk(Network):
    """The residual network up to its features; what stands on them is left to others.

    Parameters
    ----------
    n_bands, size : int
        Channels and side of the input.
    config : ResNetConfig
    """

    def __init__(self, n_bands: int, size: int, config: ResNetConfig) -> None:
        super().__init__()
        widths, self.dropout = config.widths, config.dropout
        self.embed = nn.Linear(n_scalars(n_bands), config.condition)
        self.stem = StandardConv2d(n_bands, widths[0], 5, stride=2)
        self.first = nn.Sequential(*(ResidualBlock(widths[0]) for _ in range(config.depths[0])))
        self.modulations = nn.ModuleList()
        self.stages = nn.ModuleList()
        side = (size + 1) // 2
        for n_in, n_out, depth in zip(widths[:-1], widths[1:], config.depths[1:], strict=True):
            blocks = [Downsample(n_in, n_out), *(ResidualBlock(n_out) for _ in range(depth))]
            self.modulations.append(Modulation(config.condition, n_in))
            self.stages.append(nn.Sequential(*blocks))
            side = (side + 1) // 2
        self.squeeze = StandardConv2d(widths[-1], config.squeeze, 1)
        self.n_features = config.squeeze * side * side + config.condition
        self.posterior: PosteriorHead

    @property
    def flow(self) -> FlowHead | None:
        """Head of a normalising flow, if it has one."""
        return self.posterior if isinstance(self.posterior, FlowHead) else None

    def outcome(self, logit: Tensor, features: Tensor) -> Outcome:
        """Return what a logit (n,) and the posterior head say together."""
        posterior = self.posterior(features)
        return Outcome(logit, *posterior) if self.flow else Outcome.mixture(logit, *posterior)

    def features(self, images: Tensor, scalars: Tensor) -> Tensor:
        """Map normalised images (n, C, S, S) and scalars (n, 4C + 1) to features (n, f), some hidden in training."""
        condition = F.relu(self.embed(scalars))
        x = self.first(self.stem(images))
        for modulate, stage in zip(self.modulations, self.stages, strict=True):
            x = stage(modulate(x, condition))
        maps = F.relu(self.squeeze(F.relu(x)))
        features = torch.cat([maps.contiguous().flatten(1), condition], dim=1)
        features = features.to(scalars.dtype)
        return F.dropout(features, self.dropout, self.training) if self.dropout > 0 else features


class LensResNet(Trunk):
    """The trunk with a logit head and a `posterior_head`; parameters as of `Trunk`."""

    def __init__(self, n_bands: int, size: int, config: ResNetConfig) -> None:
        super().__init__(n_bands, size, config)
        self.logit = LogitHead(self.n_features, config.hidden)
        self.posterior = posterior_head(self.n_features, config)

    def forward(self, images: Tensor, scalars: Tensor) -> Outcome:
        """Map what `features` takes to the outcome."""
        return self.heads(self.features(images, scalars))

    def heads(self, features: Tensor) -> Outcome:
        """Apply both heads in full precision, whatever the trunk has."""
        with torch.autocast(features.device.type, enabled=False):
            return self.outcome(self.logit(features), features)


def posterior_head(n_features: int, config: ResNetConfig) -> PosteriorHead:
    """Return the posterior head that a configuration asks for: one Gaussian, a mixture, or a normalising flow."""
    units = (config.latent_centre, config.latent_scale)
    if config.head == "flow":
        shape = (config.flow_layers, config.flow_condition, config.flow_hidden)
        return FlowHead(n_features, config.hidden, *units, *shape)
    return PosteriorHead(n_features, config.hidden, *units, config.components)
