"""The members of a trained combination: read from their model files, checked against each other and the training."""

from __future__ import annotations

import dataclasses

from lensscan.errors import ConfigError, ModelError
from lensscan.mocks.recipes import Recipe
from lensscan.nets.architecture import NetworkConfig, network_config
from lensscan.nets.blocks import Network
from lensscan.nets.classic.classifier import PublishedConfig
from lensscan.nets.classic.combination import CONVENTION, Combination, CombinationConfig
from lensscan.nets.classic.pointregressor import PointRegressor
from lensscan.nets.model import Model
from lensscan.train.settings import TrainSettings

__all__ = ["load_members", "with_members"]


def with_members(settings: TrainSettings, recipe: Recipe) -> TrainSettings:
    """Give a combination what the files of its members hold, and their hashes; other trainings stay as they are.

    Raises
    ------
    ConfigError
        If a file does not exist, or two are the same.
    ModelError
        If one is no model, or does not fit the training or the first one.
    """
    config = settings.network
    if not isinstance(config, CombinationConfig) or config.hashes:
        return settings
    networks: list[PublishedConfig] = []
    hashes: list[str] = []
    for name in config.members:
        model = _read(name, settings)
        if wrong := _fault(model, settings, recipe):
            raise ModelError(f"{name} cannot be a member of {settings.name}: {wrong}")
        network = network_config(model.card.architecture, name)
        assert isinstance(network, PublishedConfig)
        if networks and (network.scaling == "noise") != (networks[0].scaling == "noise"):
            first = f"{config.members[0]} has {networks[0].scaling!r}"
            raise ModelError(
                f"{name} cannot be a member of {settings.name}: it has scaling {network.scaling!r}, {first}; "
                "all must have noise, or none"
            )
        if model.card.hash in hashes:
            raise ConfigError(f"{settings.name}: network.members: {name} is given twice; name each network once")
        networks.append(network)
        hashes.append(model.card.hash)
    config = dataclasses.replace(config, networks=tuple(networks), hashes=tuple(hashes))
    return dataclasses.replace(settings, network=config)


def load_members(network: Network, config: NetworkConfig) -> None:
    """Give a combination the weights of its members; other networks stay as they are.

    Raises
    ------
    ConfigError, ModelError
        If a file is no longer there, or no longer what it was.
    """
    if not isinstance(network, Combination):
        return
    assert isinstance(config, CombinationConfig)
    for name, expected, member in zip(config.members, config.hashes, network.members, strict=True):
        model = Model.load(name)
        if model.card.hash != expected:
            raise ModelError(f"{name} has changed since this training began; run it again")
        member.load_state_dict(model.module.state_dict())


def _read(name: str, settings: TrainSettings) -> Model:
    try:
        return Model.load(name)
    except ConfigError as error:
        raise ConfigError(f"{settings.name}: network.members: {error}") from None


def _fault(model: Model, settings: TrainSettings, recipe: Recipe) -> str:
    """Return why a model cannot be a member of a training; empty if it can."""
    card, module = model.card, model.module
    if not isinstance(module, PointRegressor):
        return f"its network, {card.architecture.get('kind')}, is no published regressor; train one by itself first"
    if module.convention != CONVENTION:
        return f"its parameters are those of {module.convention}, a combination's those of {CONVENTION}"
    frame, wanted = ((each.bands, each.size, each.pixel_scale) for each in (card, recipe))
    if frame != wanted:
        return f"it takes {_words(*frame)}, and the recipe {recipe.name} makes {_words(*wanted)}"
    if module.normalised and card.softening != settings.softening:
        return f"its softening is {card.softening:g}, the training's {settings.softening:g}; set softening"
    if (settings.min_bands or len(recipe.bands)) < card.min_bands:
        return f"it needs {card.min_bands} bands, the training gives {settings.min_bands}; set min_bands"
    if (card.training.get("recipe_digest"), card.training.get("seed")) == (recipe.digest, settings.seed):
        return f"it was trained on the mocks of seed {settings.seed}, which flatter it; give the training another seed"
    return ""


def _words(bands: tuple[str, ...], size: int, pixel_scale: float) -> str:
    return f"{' '.join(bands)} at {size} pixels of {pixel_scale:g} arcsec"
