"""The published networks by name."""

from __future__ import annotations

from collections.abc import Mapping

from lensscan.nets.classic.argonne import Argonne
from lensscan.nets.classic.body import Body, Regressor
from lensscan.nets.classic.deeplens import DeepLens
from lensscan.nets.classic.hezaveh import AlexNet, Ensai, OverFeat
from lensscan.nets.classic.holismokes import HolismokesCnn, HolismokesResNet
from lensscan.nets.classic.inception import InceptionV4
from lensscan.nets.classic.jacobs import Jacobs3, Jacobs4
from lensscan.nets.classic.resnet50 import ResNet50

__all__ = ["CLASSIFIERS", "PUBLISHED", "REGRESSORS"]

PUBLISHED: Mapping[str, type[Body]] = {
    "argonne": Argonne,
    "deeplens": DeepLens,
    "jacobs-3": Jacobs3,
    "jacobs-4": Jacobs4,
    "resnet50": ResNet50,
    "alexnet": AlexNet,
    "overfeat": OverFeat,
    "ensai": Ensai,
    "inception-v4": InceptionV4,
    "holismokes-cnn": HolismokesCnn,
    "holismokes-resnet": HolismokesResNet,
}
CLASSIFIERS: Mapping[str, type[Body]] = {name: kind for name, kind in PUBLISHED.items() if kind.task == "classify"}
REGRESSORS: Mapping[str, type[Regressor]] = {
    name: kind for name, kind in PUBLISHED.items() if issubclass(kind, Regressor)
}
