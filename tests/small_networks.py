"""Small networks with random weights: classifiers, regressors and networks that do both, saved as model files."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_survey import SIZE

from lensscan.nets.model import Card, Model, build_network

RESNET = {"kind": "resnet", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "squeeze": 16}
POINTS = {"kind": "holismokes-cnn"}
MEASURED = {"detection": "none: it only regresses", "parameters": {"theta_E": {"rms": 0.1}}}


def save_network(path: Path, seed: int = 1, architecture=RESNET, bands=("g", "i"), size=SIZE, **card) -> Model:
    """Save and load a network whose outputs differ between rows; its name is that of the file."""
    torch.manual_seed(seed)
    network = build_network(architecture, len(bands), size).eval()
    with torch.no_grad():
        if architecture["kind"] == "resnet":
            network.posterior.output.weight.mul_(30)
            network.logit.output.weight.mul_(30)
    Model(Card(path.stem, architecture, tuple(bands), size, 0.263, **card), network).save(path)
    return Model.load(path)
