"""Architectures by name: from the ``[network]`` table of a training, or a card, to a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from lensscan.config import build, content
from lensscan.errors import ConfigError, ModelError
from lensscan.nets.blocks import Network
from lensscan.nets.classic.classifier import Classifier, PublishedConfig
from lensscan.nets.classic.combination import Combination, CombinationConfig
from lensscan.nets.classic.pointregressor import PointRegressor
from lensscan.nets.classic.registry import CLASSIFIERS, PUBLISHED
from lensscan.nets.modular import ModularConfig, ModularNet
from lensscan.nets.resnet import LensResNet, ResNetConfig
from lensscan.nets.trivial import Trivial

__all__ = ["NetworkConfig", "architecture", "build_network", "network_class", "network_config"]

NetworkConfig: TypeAlias = ResNetConfig | PublishedConfig | CombinationConfig
BUILT: Mapping[str, type[ResNetConfig | CombinationConfig]] = {
    "resnet": ResNetConfig,
    "modular": ModularConfig,
    "combination": CombinationConfig,
}
TRAINABLE = (*BUILT, *sorted(PUBLISHED))


def network_config(table: Mapping[str, Any], where: str) -> NetworkConfig:
    """Build the configuration of a network from a table; its `kind` is ``resnet`` where it names none.

    Raises
    ------
    ConfigError
        If the kind is unknown or the other keys do not fit it.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table, not {table!r}")
    arguments = dict(table)
    kind = str(arguments.pop("kind", "resnet"))
    if kind in BUILT:
        return build(BUILT[kind], arguments, where).checked(where)
    if kind in PUBLISHED:
        return build(PublishedConfig, table, where)
    raise ConfigError(f"{where}: unknown kind {kind!r}; choose one of {', '.join(TRAINABLE)}")


def architecture(config: NetworkConfig) -> dict[str, Any]:
    """Return a card's description of a network; what came later is mentioned where it is used."""
    if isinstance(config, PublishedConfig):
        return content(config)
    if isinstance(config, CombinationConfig):
        config = dataclasses.replace(config, members=(), hashes=())
    kind = next(name for name, owned in BUILT.items() if type(config) is owned)
    return {"kind": kind, **content(config)}


def build_network(architecture: Mapping[str, Any], n_bands: int, size: int, where: str = "model") -> Network:
    """Build the network that a card's `architecture` describes, with fresh weights.

    Raises
    ------
    ModelError
        If its kind is unknown or its arguments do not fit.
    """
    kind = architecture.get("kind")
    if kind == "trivial":
        return Trivial()
    if kind not in TRAINABLE:
        known = ", ".join((*TRAINABLE, "trivial"))
        raise ModelError(f"{where}: unknown architecture {kind!r}; this lensscan knows {known}")
    try:
        config = network_config(architecture, f"{where}: architecture")
    except ConfigError as error:
        raise ModelError(str(error)) from None
    kind_of: Any = network_class(config)
    return cast(Network, kind_of(n_bands, size, config))


def network_class(config: NetworkConfig) -> type[Network]:
    """Return the class of the network of a configuration, which says whether it scores and regresses."""
    if isinstance(config, ModularConfig):
        return ModularNet
    if isinstance(config, ResNetConfig):
        return LensResNet
    if isinstance(config, CombinationConfig):
        return Combination
    return Classifier if config.kind in CLASSIFIERS else PointRegressor
