"""Models to evaluate: single ones, and ensembles, which are pooled from their members' predictions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lensscan.candidates.ensemble import Ensemble, read_ensemble
from lensscan.errors import ConfigError
from lensscan.evaluate.predict import Predictions
from lensscan.metrics.scalemixture import GAUSSIAN
from lensscan.nets.mixture import Mixture, widen
from lensscan.nets.model import Model

__all__ = ["Group", "Lineup", "line_up", "pool"]


@dataclass(frozen=True, slots=True)
class Group:
    """An ensemble in an evaluation.

    Attributes
    ----------
    ensemble : Ensemble
    model : Model
        Its card, as a report shows it, with the network of the first member.
    members : tuple of int
        Places of its members among the single models.
    """

    ensemble: Ensemble
    model: Model
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lineup:
    """What an evaluation is of: single models first, then ensembles."""

    singles: list[Model]
    groups: list[Group]

    @property
    def models(self) -> list[Model]:
        """One model for each report, in order."""
        return [*self.singles, *(group.model for group in self.groups)]

    def predictions(self, found: Sequence[Predictions]) -> list[Predictions]:
        """Return those of all, from those of the single models."""
        pooled = [pool(group, [found[k] for k in group.members]) for group in self.groups]
        return [*found, *pooled]


def line_up(names: Sequence[str], views: int | None) -> Lineup:
    """Load models and ensembles by name or path; an ensemble brings its members, unless they are named besides.

    Raises
    ------
    ConfigError
        If a model is named twice, or an ensemble was written by hand and does not name its members.
    ModelError
        If a file is no model, or an ensemble was fitted on others or other views.
    """
    singles: dict[str, Model] = {}

    def place(model: Model) -> int:
        singles.setdefault(model.card.hash, model)
        return list(singles).index(model.card.hash)

    for name in names:
        if name.endswith(".toml"):
            continue
        model = Model.load(name)
        if model.card.hash in singles:
            raise ConfigError(f"two models are called {model.card.name}; evaluate one at a time")
        place(model)
    groups = []
    for path in (name for name in names if name.endswith(".toml")):
        ensemble = read_ensemble(path)
        if not ensemble.models:
            raise ConfigError(f"{path} does not name its models; make it with lensscan ensemble")
        models = [Model.load(name) for name in ensemble.models]
        population = {key: value for key, value in models[0].card.training.items() if key == "recipe_digest"}
        ensemble.require([model.card for model in models], views or 0, path)
        card = dataclasses.replace(
            models[0].card,
            name=ensemble.name,
            version="1",
            architecture={"kind": "ensemble"},
            calibration=ensemble.calibration,
            f_lens=ensemble.f_lens,
            training=population,
            hash=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        )
        members = tuple(place(model) for model in models)
        groups.append(Group(ensemble, Model(card, models[0].module), members))
    return Lineup(list(singles.values()), groups)


def pool(group: Group, members: Sequence[Predictions]) -> Predictions:
    """Return what an ensemble says, pooled as in a scan: mean raw logit, posteriors that count alike."""
    ensemble, card = group.ensemble, group.model.card
    raw = sum(each.raw for each in members[1:]) + members[0].raw
    voices = [each for each in members if each.card.regresses] or list(members)
    posteriors, tail = [each.posterior for each in voices], ensemble.posterior_tail
    if not ensemble.posterior_scale:  # a card by hand leaves posteriors, and the tails of each member, alone
        posteriors, tail = [each.plain() for each in posteriors], GAUSSIAN
    cov = np.concatenate([np.asarray(each.cov) for each in posteriors], axis=1)
    return Predictions(
        card=card,
        logit=ensemble.calibration(raw / len(members)),
        posterior=Mixture(
            np.concatenate([each.mean for each in posteriors], axis=1),
            widen(cov, ensemble.posterior_scale),
            np.concatenate([each.weight for each in posteriors], axis=1) / len(voices),
            tail,
        ),
        flags=np.bitwise_or.reduce([each.flags for each in members]),
        fwhm=members[0].fwhm,
        views=members[0].views,
        raw=raw / len(members),
    )
