"""One trial: a serial training in a folder of its own, that pauses at the end of a rung and goes on later."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lensscan.errors import ConfigError, ExitCode, ModelError, OutputError
from lensscan.mocks.recipes import Recipe
from lensscan.nets.classic.classifier import PublishedConfig
from lensscan.nets.classic.combination import CombinationConfig
from lensscan.nets.modular import ModularConfig
from lensscan.process import available_memory
from lensscan.train.augment import Sample
from lensscan.train.distributed import Serial
from lensscan.train.folder import with_folder
from lensscan.train.loop import Trainer
from lensscan.train.members import with_members
from lensscan.train.modular import Learned, ModularTrainer, learn_modules
from lensscan.train.run import SEEDS, make_modular_trainer, make_trainer, set_precision
from lensscan.train.settings import TrainSettings
from lensscan.train.stream import simulate_sample
from lensscan.train.units import with_units

__all__ = ["Bench", "costs_a_trial"]

FAILURES = (ModelError, ConfigError, ArithmeticError, ValueError, MemoryError, torch.OutOfMemoryError)
NO_MEMORY = "can't allocate memory"
"""What torch says, in an error of no kind of its own, where a CPU's memory is too small."""

Stop = Callable[[int], ExitCode | None]


def costs_a_trial(error: Exception) -> bool:
    """Tell whether a trial's own settings can cause an error: a loss not finite, no fit, no memory; not a device."""
    return isinstance(error, FAILURES) or (isinstance(error, RuntimeError) and NO_MEMORY in str(error))


class Bench:
    """Where this process trains one trial after the other; mocks that several need are simulated once.

    Parameters
    ----------
    recipe : Recipe
        All trials have the same, and the same seed: the same mocks.
    device : torch.device
    sharers : int
        Processes that share this machine's memory, or its GPUs.
    """

    def __init__(self, recipe: Recipe, device: torch.device, sharers: int = 1) -> None:
        self.recipe, self.device = recipe, device
        memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        self._room = memory // (4 * max(1, sharers))
        self._kept: dict[tuple[int, int, int], Sample] = {}
        self._units: dict[str, dict[str, Any]] = {}

    def check(self, settings: TrainSettings) -> None:
        """Raise the `ConfigError` or `ModelError` that all trials would: of a folder of mocks, or of members."""
        with_folder(with_members(settings, self.recipe), self.recipe)

    def advance(self, settings: TrainSettings, folder: Path, step: int, metric: str, stop: Stop) -> float | ExitCode:
        """Train, or go on training, to a step and return the metric there; or the code of a stop.

        Parameters
        ----------
        settings : TrainSettings
        folder : Path
            Of the trial; holds its checkpoint and curves.
        step : int
            Where to pause; the same weights come out as without a pause.
        metric : str
            A key of `METRICS`.
        stop : callable
            Takes the step just done; returns the exit code of a stop that was asked for, else None.

        Raises
        ------
        ModelError
            If loss or metric are not finite, or there is no such metric.
        OutputError, DiskError
            If the folder cannot be used, or mocks on disk cannot be read.
        """
        set_precision(self.device, settings.precision)
        settings = dataclasses.replace(self._with_units(settings), patience=0)  # the sweep itself stops what is worse
        earlier = self._stages(settings, folder, stop)
        if earlier.code != ExitCode.OK:
            return earlier.code
        trainer = make_trainer(settings, self.recipe, Serial(), folder, self.device, self._mocks)
        try:
            trainer.resume()
            if isinstance(trainer, ModularTrainer):
                trainer.go_on_from(earlier)
            if trainer.step < step:
                code = trainer.fit(lambda: self._pause(trainer, step, stop), lambda line: None)
                if code != ExitCode.OK:
                    return code
            if step not in trainer.history.column("valid", metric)[0]:
                trainer.validate(lambda line: None)
        except ConfigError as error:  # the settings have been found to fit: it is the mocks
            raise OutputError(str(error)) from None
        finally:
            trainer.stream.close()
        steps, values = trainer.history.column("valid", metric)
        if step not in steps:
            raise ModelError(f"a validation of this network has no {metric}")
        value = values[steps.index(step)]
        if not math.isfinite(value):
            raise ModelError(f"{metric} is not finite at step {step}")
        return value

    def _stages(self, settings: TrainSettings, folder: Path, stop: Stop) -> Learned:
        """Train the stages of a modular network that come before the common one, whole; others have none."""
        if not isinstance(settings.network, ModularConfig):
            return Learned()

        def make(stage_settings: TrainSettings, place: Path, stage: str) -> ModularTrainer:
            return make_modular_trainer(stage, stage_settings, self.recipe, Serial(), place, self.device)

        return learn_modules(settings, folder, make, lambda: stop(1), lambda line: None)

    @staticmethod
    def _pause(trainer: Trainer, step: int, stop: Stop) -> ExitCode | None:
        code = stop(trainer.step)
        return ExitCode.OK if code is None and trainer.step >= step else code

    def _with_units(self, settings: TrainSettings) -> TrainSettings:
        """Give the network its units, measured once for all trials: they have the same mocks."""
        network = settings.network
        if isinstance(network, CombinationConfig):
            return settings
        published = isinstance(network, PublishedConfig)
        names = ("mean", "std") if published else ("latent_centre", "latent_scale")
        key = network.scaling if isinstance(network, PublishedConfig) else "latent"
        if key not in self._units:
            measured = with_units(settings, self.recipe).network
            self._units[key] = {name: getattr(measured, name) for name in names}
        return dataclasses.replace(settings, network=dataclasses.replace(network, **self._units[key]))

    def _mocks(self, recipe: Recipe, seed: int, start: int, n: int, device: torch.device) -> Sample:
        """Return the mocks, kept for the next trial while a quarter of the memory lasts; validation always."""
        key = (seed, start, n)
        if key not in self._kept:
            sample = simulate_sample(recipe, seed, start, n, device)
            size = sample.images.numel() * sample.images.element_size()
            if size > self._room and seed % 10 != SEEDS["validation"]:
                return sample
            self._room -= size
            self._kept[key] = sample
        return dataclasses.replace(self._kept[key])
