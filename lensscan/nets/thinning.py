"""Monte Carlo drop-out: a network trained with drop-out as several networks, each with some features left out for good.

Gal & Ghahramani 2016 (arXiv:1506.02142) keep drop-out at work when the network is used, and take the scatter over
passes for its uncertainty.  Here the choice of a pass is written into the weights of the layers that read the
features, once for all stamps: a pass is then a model like any other, the same bits for a stamp in any batch, and
passes are pooled and calibrated as an ensemble is.
"""

from __future__ import annotations

import copy
import dataclasses

import torch

from lensscan.errors import ModelError
from lensscan.nets.model import Model
from lensscan.nets.resnet import Trunk

__all__ = ["thinned"]


def thinned(model: Model, number: int, seed: int = 0) -> list[Model]:
    """Return a model's passes under drop-out.

    Parameters
    ----------
    model : Model
        Trained with ``[network] dropout`` above 0.
    number : int
        Passes.
    seed : int
        Chooses, with the number of the pass, the features left out.

    Returns
    -------
    list of Model
        Named ``<model>-drop1`` ...; their cards are the model's.

    Raises
    ------
    ModelError
        If the network has no drop-out.
    """
    network = model.module
    if not (isinstance(network, Trunk) and network.dropout > 0):
        raise ModelError(f"model {model.card.name} was trained without drop-out; train one with network.dropout = 0.1")
    return [_pass(model, network, k, seed) for k in range(1, number + 1)]


def _pass(model: Model, network: Trunk, number: int, seed: int) -> Model:
    """Return one pass: columns of the features left out are zero, the others as much heavier as in training."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + number)
    kept = torch.rand(network.n_features, generator=generator) >= network.dropout
    factor = kept.float() / (1 - network.dropout)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for head in ("logit", "posterior"):
            getattr(copied, head).hidden.weight *= factor
    card = dataclasses.replace(model.card, name=f"{model.card.name}-drop{number}", hash="")
    return Model(card, copied.eval(), model.novelty)
