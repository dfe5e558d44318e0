"""One training from settings to model file: resume, train, finish, save; or finish a trained model anew."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import platform
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from lensscan import __version__
from lensscan.errors import ExitCode, ModelError, OutputError
from lensscan.files import make_folder
from lensscan.metrics.calibration import Calibration
from lensscan.metrics.scalemixture import GAUSSIAN
from lensscan.mocks.recipes import Recipe, held_out, load_recipe, without_lenses
from lensscan.mocks.seeds import PURPOSES
from lensscan.nets.architecture import architecture
from lensscan.nets.card import Card, LensDensity
from lensscan.nets.classic.combination import CombinationConfig
from lensscan.nets.dihedral import N_VIEWS
from lensscan.nets.latent import N_LATENT
from lensscan.nets.model import Model
from lensscan.nets.modular import ModularConfig
from lensscan.nets.prior import LENSES, theta_prior
from lensscan.train.augment import Sample
from lensscan.train.checks import check_fit
from lensscan.train.distributed import Engine, describe_device, start_engine
from lensscan.train.finish import calibrate, evaluate, fitted_on, headline, score_mocks
from lensscan.train.folder import open_folder, with_folder
from lensscan.train.kept import Kept, Stopped
from lensscan.train.loop import Trainer
from lensscan.train.members import with_members
from lensscan.train.modular import JOINT, Learned, ModularTrainer, learn_modules, stages_of, training_flops
from lensscan.train.novelty import MOCKS, add_novelty
from lensscan.train.settings import TrainSettings
from lensscan.train.split import galaxies_apart
from lensscan.train.stream import simulate_sample
from lensscan.train.units import with_units

__all__ = ["SEEDS", "Mocks", "TrainRun", "label_of", "make_trainer", "set_precision"]

log = logging.getLogger(__name__)

SEEDS = PURPOSES
TURNED = 5000
"""Most mocks whose eight views are scored, to calibrate their posterior."""
PLAIN: dict[str, Any] = {
    "calibration": Calibration(),
    "f_lens": LensDensity(),
    "posterior_scale": (1.0,) * N_LATENT,
    "posterior_scale_views": (),
    "posterior_tail": GAUSSIAN,
    "posterior_tail_views": GAUSSIAN,
}
"""What a finish fits, before it: a model that is finished anew is scored like one that never was."""
Mocks: TypeAlias = Callable[[Recipe, int, int, int, torch.device], Sample]
"""Makes the mocks [start, start + n) of a recipe and seed: recipe, seed, start, n, device."""


@dataclasses.dataclass(slots=True)
class TrainRun:
    """A training and where its results go.

    Attributes
    ----------
    settings : TrainSettings
    output : Path
        Model file; ``<output>.run`` holds checkpoint and curves.
    device : torch.device
    backend : str
        See `lensscan.train.distributed.BACKENDS`.
    stop : callable
        Returns the exit code of a stop that was asked for.
    report : callable
        Takes progress lines.
    hold : callable
        Takes the folder, and gives a context in which nobody else trains there.
    """

    settings: TrainSettings
    output: Path
    device: torch.device
    backend: str
    stop: Callable[[], ExitCode | None]
    report: Callable[[str], None]
    hold: Callable[[Path], AbstractContextManager[Any]] = contextlib.nullcontext

    @property
    def folder(self) -> Path:
        """Folder of checkpoint and curves."""
        return self.output.with_name(self.output.name + ".run")

    def run(self) -> ExitCode:
        """Train, or go on training, and write the model file; the same call again resumes.

        Raises
        ------
        OutputError
            If the output is the model of other settings.
        """
        recipe = self._prepare()
        if (card := self._standing(recipe)) is not None:
            changed = self._changed(card)
            remedy = f"; its {', '.join(changed)} differ: --finish {self.output} writes anew" if changed else ""
            self.report(f"{self.output} is complete, nothing to do{remedy}")
            return ExitCode.OK
        make_folder(self.folder)
        with self.hold(self.folder):
            return self._run(recipe)

    def _run(self, recipe: Recipe) -> ExitCode:
        """Train and finish in the folder that is held."""
        set_precision(self.device, self.settings.precision)
        engine = start_engine(self.backend, self.device)
        if engine.rank == 0 and (warning := galaxies_apart(recipe)):
            self.report(warning)
        settings = with_units(self.settings, recipe)
        trainer, code = self._train(settings, recipe, engine)
        if trainer is not None and engine.rank == 0:
            # before the model is there: whoever finds that has nothing more to do
            trainer.history.plot(self.folder / "curves.png", f"{settings.name}, step {trainer.step}")
        if trainer is not None and code == ExitCode.OK and engine.rank == 0:
            code = self._unless_stopped(lambda: self._finish(trainer, recipe, engine))
        engine.close()
        return code

    def _prepare(self) -> Recipe:
        """Return the recipe, with the settings as they count: they hold what members, and mocks on disk, are.

        Raises
        ------
        ConfigError
            If recipe and settings do not fit together.
        """
        recipe = load_recipe(self.settings.recipe)
        check_fit(self.settings, recipe)
        self.settings = with_folder(with_members(self.settings, recipe), recipe)
        return recipe

    def _train(self, settings: TrainSettings, recipe: Recipe, engine: Engine) -> tuple[Trainer | None, ExitCode]:
        """Train, the modules of a modular network first; no trainer if it stopped among those."""
        earlier = Learned()
        if isinstance(settings.network, ModularConfig):

            def make(stage_settings: TrainSettings, folder: Path, stage: str) -> ModularTrainer:
                return make_modular_trainer(stage, stage_settings, recipe, engine, folder, self.device)

            earlier = learn_modules(settings, self.folder, make, self.stop, self.report)
            if earlier.code != ExitCode.OK:
                return None, earlier.code
        trainer = make_trainer(settings, recipe, engine, self.folder, self.device)
        try:
            trainer.resume()
            if isinstance(trainer, ModularTrainer):
                trainer.go_on_from(earlier)
            return trainer, trainer.fit(self.stop, self.report)
        finally:
            trainer.stream.close()

    def finish(self, trained: Model) -> ExitCode:
        """Calibrate and evaluate a trained model anew and write it; its weights stay as they are.

        Parameters
        ----------
        trained : Model
            Made with these settings; what only the card holds (version, notes, views) and the sizes under
            ``[finish]`` may differ.

        Raises
        ------
        ModelError
            If it is the model of other settings.
        OutputError
            If the output is the model of other settings.
        """
        recipe = self._prepare()
        wrong = self._foreign(trained.card, recipe)
        if wrong:
            what = f"model {trained.card.name} is not of training {self.settings.name}"
            raise ModelError(f"{what}: its {wrong} differs; give the training file it was made with")
        self._standing(recipe)
        if warning := galaxies_apart(recipe):
            self.report(warning)
        settings = self.settings
        card = dataclasses.replace(
            trained.card,
            version=settings.version,
            notes=settings.notes,
            views=settings.views,
            training={
                **trained.card.training,
                "seedless_digest": settings.seedless_digest,
                "finish": dataclasses.asdict(settings.finish),
            },
            hash="",
        )
        make_folder(self.folder)
        with self.hold(self.folder):
            code = self._unless_stopped(lambda: self._write(Model(card, trained.module), recipe))
        with contextlib.suppress(OSError):  # there is more in the folder of a training than of a finish alone
            self.folder.rmdir()
        return code

    @staticmethod
    def _unless_stopped(work: Callable[[], None]) -> ExitCode:
        """Do the work; return ``OK``, or the exit code of a stop that came between."""
        try:
            work()
        except Stopped as stopped:
            return stopped.code
        return ExitCode.OK

    def _identity(self, recipe: Recipe) -> dict[str, str]:
        return {"settings_digest": self.settings.digest, "recipe_digest": recipe.digest}

    def _standing(self, recipe: Recipe) -> Card | None:
        """Return the card of the output if it is already this training's model, None if there is no output."""
        if not self.output.exists():
            return None
        card = Model.load(str(self.output)).card
        if self._foreign(card, recipe):
            raise OutputError(f"{self.output} is the model of other settings; remove it or give another -o")
        return card

    def _changed(self, card: Card) -> list[str]:
        """Return the settings that no weight depends on and that a card has otherwise; older ones keep no [finish]."""
        changed = [
            key for key in ("name", "version", "notes", "views") if getattr(card, key) != getattr(self.settings, key)
        ]
        made, wanted = card.training.get("finish", {}), dataclasses.asdict(self.settings.finish)
        return changed + [f"finish.{key}" for key, value in wanted.items() if made.get(key, value) != value]

    def _foreign(self, card: Card, recipe: Recipe) -> str:
        """Return the name of what shows that a card is not of this training; empty if it is."""
        for key, value in self._identity(recipe).items():
            if card.training.get(key) != value:
                return key
        return ""

    def _finish(self, trainer: Trainer, recipe: Recipe, engine: Engine) -> None:
        """Make the card of the averaged network, and write the model."""
        settings = trainer.settings
        card = Card(
            name=settings.name,
            version=settings.version,
            architecture=architecture(settings.network),
            bands=recipe.bands,
            size=recipe.size,
            pixel_scale=recipe.pixel_scale,
            min_bands=settings.min_bands or len(recipe.bands),
            softening=settings.softening,
            views=settings.views,
            label=label_of(recipe),
            notes=settings.notes,
            training=self._provenance(trainer, recipe, engine),
        )
        self._write(Model(card, trainer.average.cpu().eval()), recipe)

    def _provenance(self, trainer: Trainer, recipe: Recipe, engine: Engine) -> dict[str, Any]:
        """Return what the card says of the training: the steps really taken, and what follows from their number."""
        settings = dataclasses.replace(trainer.settings, steps=trainer.step)
        return (
            {
                **self._identity(recipe),
                "seedless_digest": self.settings.seedless_digest,
                "recipe": recipe.name,
                "seed": settings.seed,
                "steps": settings.steps,
                "batch": settings.batch,
                "mocks": trainer.stream.mocks_of(max(stages_of(settings).values())),
                "ranks": engine.size,
                "backend": engine.name,
                "device": describe_device(self.device),
                "hours": round(trainer.seconds / 3600, 2),
                "finish": dataclasses.asdict(self.settings.finish),
                "versions": {
                    "lensscan": __version__,
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                },
            }
            | ({"best_step": trainer.best.step} if settings.patience else {})
            | _stages(settings, recipe)
            | _members(settings)
            | _folder(settings)
        )

    def _write(self, model: Model, recipe: Recipe) -> None:
        """Calibrate, evaluate and save a model; what was scored is kept beside until it is saved."""
        recipe = held_out(recipe)
        settings, finish = self.settings, self.settings.finish
        card = dataclasses.replace(model.card, **PLAIN)
        if model.module.regresses:
            card = dataclasses.replace(card, theta_E_prior=theta_prior(recipe, n=min(LENSES, finish.calibration)))
        model = Model(card, model.module)
        kept = Kept(self.folder / "finish", self.stop)
        score = functools.partial(score_mocks, recipe=recipe, report=self.report, device=self.device, kept=kept)
        seed = settings.mock_seed("calibration")
        scored = score([model], seed=seed, n=finish.calibration, views=1)
        logits = turned = others = None
        if model.module.scores and settings.views > 1:
            logits = turned = score([model], seed=seed, n=finish.calibration, views=settings.views)
        elif model.module.regresses:
            few = min(TURNED, max(1, finish.calibration // 4))
            turned = score([model], seed=seed, n=few, views=N_VIEWS)
        if scored.detected and finish.others:
            alone = without_lenses(recipe)
            others = score([model], recipe=alone, seed=seed, n=finish.others, views=settings.views)
        model = calibrate(model, scored, finish, settings.augmentation, turned, logits, others)
        words = {"calibrated_on": fitted_on(scored if logits is None else logits, card.theta_E_prior)}
        if turned is not None:
            words["calibrated_on_views"] = fitted_on(turned, card.theta_E_prior)
        seed = settings.mock_seed("evaluation")
        scored = score([model], seed=seed, n=finish.evaluation)
        evaluation = {"mocks_of_seed": seed, **words, **evaluate(model.card, scored)}
        model = Model(dataclasses.replace(model.card, evaluation=evaluation), model.module)
        if model.module.scores:  # a scan needs a score, and only a scan tells what is unlike the training
            few = min(MOCKS, finish.calibration // 2)
            seed = settings.mock_seed("novelty")
            model = add_novelty(model, recipe, seed, few, settings.augmentation, self.report, self.device, kept)
        digest = model.save(self.output)
        shutil.rmtree(self.folder / "finish", ignore_errors=True)
        self.report(f"wrote {self.output}, sha256 {digest[:12]}, {headline(evaluation)}")


def label_of(recipe: Recipe) -> str:
    """Say in words what "lens" means in a recipe."""
    rule = recipe.label
    return (
        f"recipe {recipe.name}: lensed source with at least two images, magnification above {rule.magnification:g}, "
        f"arc S/N above {rule.snr:g} in the best band, resolved"
    )


def make_trainer(
    settings: TrainSettings,
    recipe: Recipe,
    engine: Engine,
    folder: Path,
    device: torch.device,
    mocks: Mocks = simulate_sample,
) -> Trainer:
    """Return the trainer of settings that have their units, on mocks made by `mocks`."""
    settings = with_folder(with_members(settings, recipe), recipe)
    if isinstance(settings.network, ModularConfig):
        return make_modular_trainer(JOINT, settings, recipe, engine, folder, device)
    return Trainer(settings, *_surroundings(settings, recipe, engine, folder, device, mocks))


def make_modular_trainer(
    stage: str, settings: TrainSettings, recipe: Recipe, engine: Engine, folder: Path, device: torch.device
) -> ModularTrainer:
    """Return the trainer of one stage of a modular network; its mocks have layers if it has image modules."""
    config = settings.network
    assert isinstance(config, ModularConfig)
    layers = bool(config.denoise_width or config.deblend_widths)
    mocks = functools.partial(simulate_sample, layers=layers)
    return ModularTrainer(stage, settings, *_surroundings(settings, recipe, engine, folder, device, mocks))


def _surroundings(
    settings: TrainSettings, recipe: Recipe, engine: Engine, folder: Path, device: torch.device, mocks: Mocks
) -> tuple[Any, ...]:
    """Return what a trainer needs besides its settings."""

    def simulated(start: int, n: int) -> Sample:
        return mocks(recipe, settings.mock_seed("training"), start, n, device)

    return (
        len(recipe.bands),
        recipe.size,
        recipe.pixel_scale,
        open_folder(settings, recipe, device) if settings.stream.folder else simulated,
        lambda: mocks(recipe, settings.mock_seed("validation"), 0, settings.validation, device),
        engine,
        folder,
        device,
        recipe.digest,
    )


def set_precision(device: torch.device, precision: str) -> None:
    """Let a GPU round as a training's precision allows (`TrainSettings.precision`), also after a scorer's exactness."""
    if device.type == "cuda":
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
        torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = precision != "fp32"


def _folder(settings: TrainSettings) -> dict[str, Any]:
    """Return what the card of a training from disk says besides: the folder, and the hash of what is in there."""
    stream = settings.stream
    return {"folder": {"path": stream.folder, "content": stream.content}} if stream.folder else {}


def _stages(settings: TrainSettings, recipe: Recipe) -> dict[str, Any]:
    """Return what the card of a modular network says besides: steps and operations of every stage."""
    if not isinstance(settings.network, ModularConfig):
        return {}
    return {"stages": stages_of(settings), "flops": training_flops(settings, len(recipe.bands), recipe.size)}


def _members(settings: TrainSettings) -> dict[str, Any]:
    """Return what the card of a combination says besides: files and hashes of its members, in order."""
    network = settings.network
    if not isinstance(network, CombinationConfig):
        return {}
    return {"members": [list(member) for member in zip(network.members, network.hashes, strict=True)]}
