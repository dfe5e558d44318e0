"""Whether a training and its recipe fit together, asked before the first mock is made."""

from __future__ import annotations

from lensscan.errors import ConfigError
from lensscan.mocks.recipes import Recipe, kinds_of, without_lenses
from lensscan.nets.architecture import network_class
from lensscan.train.settings import TrainSettings

__all__ = ["check_fit", "figures"]


def check_fit(settings: TrainSettings, recipe: Recipe) -> None:
    """Raise a `ConfigError` for a training that its recipe has not the bands, the classes or the figures for."""
    if settings.min_bands > len(recipe.bands):
        what = f"training {settings.name}: min_bands = {settings.min_bands}"
        raise ConfigError(f"{what}, but recipe {recipe.name} has {len(recipe.bands)}; lower it, or 0 for all")
    network = network_class(settings.network)
    lenses, others = kinds_of(recipe)
    if not lenses or not (network.regresses or others):
        missing = "anything but lenses" if lenses else "lenses"
        what = f"training {settings.name}: recipe {recipe.name} has not {missing}, so this network learns nothing"
        raise ConfigError(f"{what}; change its [classes], or take another network")
    if settings.finish.others:
        without_lenses(recipe)  # raises where there are no others
    known = [name for name in figures(settings, recipe) if name in ("auroc", "bce", "nll")]
    if settings.patience and settings.monitor not in known:
        what = (
            f"training {settings.name}: patience waits for monitor = {settings.monitor!r}, which its validations lack"
        )
        raise ConfigError(f"{what} (network or recipe {recipe.name}); set monitor to {' or '.join(known)}")


def figures(settings: TrainSettings, recipe: Recipe) -> list[str]:
    """Return the names of what the validations of a training hold, as far as network and recipe allow."""
    network = network_class(settings.network)
    detects = network.scores and kinds_of(recipe)[1]
    return (["auroc", "bce", "tpr_2", "tpr_3"] if detects else []) + (
        ["nll", "theta_E_68"] if network.regresses else []
    )
