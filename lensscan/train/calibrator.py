"""The calibrator of a recipe's difficulty: the network of the Argonne slides on its mocks, as a model to be kept.

`lensscan.evaluate.difficulty` trains it and measures it on new images; the model file lets it be measured on any other
set too, so that a report on a sealed one can serve as the baseline of ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensscan.mocks.recipes import Recipe
from lensscan.mocks.seeds import DIFFICULTY
from lensscan.nets.architecture import architecture
from lensscan.nets.card import Card
from lensscan.nets.model import Model
from lensscan.train.finish import CLASSIFIES
from lensscan.train.published import ARGONNE2017, Epoch, Fitted, fit_published
from lensscan.train.run import label_of

__all__ = ["CalibratorTraining", "calibrator_model"]


@dataclasses.dataclass(slots=True)
class CalibratorTraining:
    """Trains the network, seed after seed, and writes what comes out.

    Attributes
    ----------
    recipe : Recipe
        Of the stamps.
    epochs : int
    device : str
    folder : Path
        Gets the models; ``difficulty--RECIPE.run`` in it the checkpoints.
    written : list of Path
        Models so far.
    """

    recipe: Recipe
    epochs: int
    device: str
    folder: Path
    written: list[Path] = dataclasses.field(default_factory=list)

    @property
    def stem(self) -> Path:
        """What the names of all files begin with."""
        return self.folder / f"difficulty--{self.recipe.name}"

    @property
    def run(self) -> Path:
        """Folder of the checkpoints."""
        return self.stem.with_name(self.stem.name + ".run")

    def __call__(
        self,
        images: NDArray[np.float32],
        labels: NDArray[np.bool_],
        groups: NDArray[np.int64],
        seed: int,
        report: Callable[[Epoch], bool],
        restored: Callable[[int], None],
    ) -> Fitted:
        """Train, or go on training, and write the model; see `fit_published`."""
        fitted = fit_published(
            images,
            labels,
            dataclasses.replace(ARGONNE2017, epochs=self.epochs),
            seed=seed,
            groups=groups,
            device=self.device,
            report=report,
            checkpoint=self.run / f"seed-{seed}.ckpt",
            restored=restored,
        )
        path = self.stem.with_name(f"{self.stem.name}-seed-{seed}.safetensors")
        calibrator_model(fitted, self.recipe, len(images), seed).save(path)
        self.written.append(path)
        return fitted


def calibrator_model(fitted: Fitted, recipe: Recipe, n: int, seed: int) -> Model:
    """Return a network trained as published as a model; its logit is as it was trained, nothing is calibrated.

    Parameters
    ----------
    fitted : Fitted
    recipe : Recipe
    n : int
        Stamps that it was trained and validated on.
    seed : int
    """
    card = Card(
        name=fitted.config.kind,
        architecture=architecture(fitted.config),
        bands=recipe.bands,
        size=recipe.size,
        pixel_scale=recipe.pixel_scale,
        min_bands=len(recipe.bands),
        label=label_of(recipe),
        training={
            "recipe": recipe.name,
            "recipe_digest": recipe.digest,
            "mocks_of_seed": DIFFICULTY,
            "mocks": n,
            "seed": seed,
            "epochs": len(fitted.history),
        },
        evaluation={"posterior": CLASSIFIES},
        notes="A published network, trained as published: a yardstick, not a finder. Its logit is not calibrated.",
    )
    return Model(card, fitted.network)
