"""A mock survey: a recipe's objects with lenses as rare as on the sky, scored by every model, and kept as scores.

Objects are drawn on the fly, in blocks.  A block is a pure function of recipe, seed and models, holds scores and
truths only, and appears by a rename: whoever dies is made up for by the same command, with any number of ranks.
Besides the survey's own objects, more lenses are scored than it holds: completeness at a threshold is known
from all of them, each with a weight below one, and what the survey itself happened to hold is stated beside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lensscan import faults
from lensscan.config import load_cut
from lensscan.errors import ConfigError, ExitCode, PlanMismatch
from lensscan.evaluate.members import Lineup
from lensscan.evaluate.predict import Scoring
from lensscan.evaluate.testsets import SealedSet
from lensscan.files import replacing
from lensscan.mocks.dataset import claim_folder, hash_files
from lensscan.mocks.recipes import Recipe, with_natural_lenses
from lensscan.mocks.seeds import MOCK_SURVEY
from lensscan.mocks.simulate import Mocks
from lensscan.mocks.tables import LENSES
from lensscan.mpi import World
from lensscan.nets.scorer import Scorer
from lensscan.schema import Status

__all__ = ["SEED", "Block", "Objects", "Part", "SurveySettings", "run_survey", "stated_prevalence", "survey_set"]

SEED = MOCK_SURVEY
BLOCKS = (128, 2048)
"""Fewest and most objects of a block; between, a sixteenth of the survey."""
FORMAT = 2
KEPT = {"is_lens": np.bool_, "klass": np.int8, "theta_E": np.float32, "snr_arc": np.float32, "stamp": np.int32}
"""Truths that a block keeps, and their types."""
Columns = dict[str, NDArray[Any]]
Progress = Callable[[int, int, int], None]
Stop = Callable[[], ExitCode | None]


@dataclass(frozen=True, slots=True)
class SurveySettings(Scoring):
    """What to survey; how is in `Scoring`.

    Attributes
    ----------
    lineup : Lineup
        Single models and ensembles.
    recipe : Recipe
        Its lenses as nature has them, and the shares of its non-lenses.
    prevalence : float
        Lenses per object.
    n : int
        Objects.
    lenses : int
        Lenses that are scored besides.
    """

    lineup: Lineup
    recipe: Recipe
    prevalence: float
    n: int = 1_000_000
    lenses: int = 10_000


class Part(SealedSet):
    """Rows of a recipe from `first` on."""

    def __init__(self, recipe: Recipe, first: int, n: int, device: str) -> None:
        super().__init__(f"mock survey of {recipe.name}", recipe, n, SEED, device=device)
        self.first = first

    def make(self, start: int, n: int) -> Mocks:
        """Simulate the rows [first + start, first + start + n)."""
        return super().make(self.first + start, n)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [start, start + n) of the survey, or of the lenses scored besides."""

    kind: str
    start: int
    n: int

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.kind}-{self.start:09d}.npz"


@dataclass(frozen=True, slots=True)
class Objects:
    """Scored objects: the survey's in order, then the lenses besides.

    Attributes
    ----------
    index : (n,) int64
        Row of the survey, or of the lenses besides.
    extra : (n,) bool
        Whether an object is one of the lenses besides.
    raw : (n, M) float32
        Logit of each single model before its calibration.
    truth : dict of (n,) arrays
        See `KEPT`.
    failed, vague : int
        Objects that a model could not score, and lensed systems below the label rule: left out of everything.
    """

    index: NDArray[np.int64]
    extra: NDArray[np.bool_]
    raw: NDArray[np.float32]
    truth: Columns
    failed: int = 0
    vague: int = 0


def stated_prevalence(recipe: Recipe, given: float | None) -> float:
    """Return the prevalence that was given, else that of the cut which the recipe's real galaxies went through.

    Raises
    ------
    ConfigError
        If none is stated, or it is no share.
    """
    stated = given
    if stated is None and recipe.canvas.cut:
        stated = load_cut(recipe.canvas.cut).prevalence
    if stated is None:
        raise ConfigError(f"recipe {recipe.name} names no cut with a prevalence; give --prevalence, such as 2.6e-4")
    if not 0 < stated < 1:
        raise ConfigError(f"--prevalence {stated:g}: must lie between 0 and 1")
    return stated


def rare(recipe: Recipe, prevalence: float) -> Recipe:
    """Return the recipe with nature's lenses at a prevalence, shares among them and among the others as they were.

    What a training adds of large rings (`flat_fraction`) is no part of a sky.

    Raises
    ------
    ConfigError
        If it does not make both.
    """
    sides = [{k: w for k, w in recipe.classes.items() if w > 0 and (k in LENSES) == lens} for lens in (True, False)]
    if not all(sides):
        raise ConfigError(f"recipe {recipe.name}: its mocks are of one kind; it needs lenses and others")
    classes: dict[str, float] = {}
    for side, whole in zip(sides, (prevalence, 1 - prevalence), strict=True):
        classes |= {name: whole * weight / sum(side.values()) for name, weight in side.items()}
    return dataclasses.replace(with_natural_lenses(recipe), classes=classes)


def lenses_of(recipe: Recipe) -> Recipe:
    """Return the recipe with nature's lenses alone."""
    return dataclasses.replace(
        with_natural_lenses(recipe), classes={k: w for k, w in recipe.classes.items() if k in LENSES}
    )


def survey_set(settings: SurveySettings) -> SealedSet:
    """Return the survey's own objects, to make some of their stamps again."""
    return Part(rare(settings.recipe, settings.prevalence), 0, settings.n, settings.device)


def blocks_of(settings: SurveySettings) -> list[Block]:
    """Return the blocks: those of the survey, then those of the lenses besides."""
    size = min(max(settings.n // 16, BLOCKS[0]), BLOCKS[1])
    return [
        Block(kind, start, min(size, n - start))
        for kind, n in (("survey", settings.n), ("lenses", settings.lenses))
        for start in range(0, n, size)
    ]


def run_survey(
    settings: SurveySettings,
    folder: Path,
    world: World | None = None,
    stop: Stop = lambda: None,
    progress: Progress = lambda done, total, new: None,
) -> Objects | ExitCode | None:
    """Score what `folder` does not hold yet, and read all of it.

    Parameters
    ----------
    settings : SurveySettings
    folder : Path
        Keeps the blocks, also afterwards.
    world : World, optional
        The ranks: each scores every R-th block.
    stop : callable
        Asked after every batch; its exit code ends the work, and the block under way is lost.
    progress : callable
        Told (done, total, done by this run) objects, on root.

    Returns
    -------
    Objects on root, an exit code after a stop, None on other ranks.

    Raises
    ------
    ConfigError
        If a model cannot take the recipe's stamps, or does not classify.
    PlanMismatch
        If the folder holds another survey.
    """
    world = world or World()
    work = _Work(settings, folder, stop)
    work.claim(world.rank == 0)
    mine = work.todo(world.rank, world.size)
    code = work.score(mine, world.size, progress if world.rank == 0 else lambda done, total, new: None)
    if code is not None:
        return code
    world.join()
    if world.rank != 0:
        return None
    code = work.score(work.todo(), 1, progress)  # of ranks that died
    return code if code is not None else work.read()


class _Work:
    """The folder of a survey, and what is still to be done in it."""

    def __init__(self, settings: SurveySettings, folder: Path, stop: Stop) -> None:
        self.settings, self.folder, self.stop = settings, folder, stop
        self.recipes = {"survey": rare(settings.recipe, settings.prevalence), "lenses": lenses_of(settings.recipe)}
        self.blocks = blocks_of(settings)
        self.record = self._record()
        self.key = hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()
        self.scorers: list[Scorer] = []

    def _record(self) -> dict[str, Any]:
        """Return all that can change a score, as plain values."""
        settings = self.settings
        return {
            "format": FORMAT,
            "recipe": settings.recipe.name,
            "digest": settings.recipe.digest,
            "prevalence": settings.prevalence,
            "n": settings.n,
            "lenses": settings.lenses,
            "block": self.blocks[0].n,
            "seed": SEED,
            "models": [f"{model.card.name} {model.card.hash}" for model in settings.lineup.singles],
            "views": settings.views,
            "device": settings.device,
            "batch": settings.batch,
        } | hash_files(settings.recipe)

    def claim(self, root: bool) -> None:
        """Check that the models take the stamps and that the folder is ours; root makes it."""
        part = Part(self.recipes["survey"], 0, 0, self.settings.device)
        for model in self.settings.lineup.singles:
            part.check(model.frame())
            if not model.scores:
                raise ConfigError(f"model {model.card.name} gives no scores; survey with models that classify")
        what = claim_folder(self.folder / "survey.json", self.record, root)
        if what:
            raise PlanMismatch(
                f"{self.folder} holds a mock survey with another {what}; give another folder by -o, or remove it"
            )

    def todo(self, rank: int = 0, size: int = 1) -> list[Block]:
        """Return those of a rank's blocks that do not stand yet."""
        return [block for block in self.blocks[rank::size] if self.load(block) is None]

    def load(self, block: Block) -> Columns | None:
        """Return a block's columns, None if it is missing, damaged or of another survey."""
        try:
            with open(self.folder / block.file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
                columns = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        whole = all(len(columns.get(name, ())) == block.n for name in ("raw", *KEPT))
        return columns if whole and str(columns.get("key", "")) == self.key else None

    def score(self, blocks: list[Block], ranks: int, progress: Progress) -> ExitCode | None:
        """Score blocks and write them; an exit code after a stop."""
        total = sum(block.n for block in self.blocks)
        begun = new = 0
        if blocks:
            begun = max(total - ranks * sum(block.n for block in blocks), 0)
        for block in blocks:
            parts: list[Columns] = []
            for columns in self._batches(block):
                parts.append(columns)
                new += len(columns["raw"])
                progress(min(begun + ranks * new, total - (ranks > 1)), total, ranks * new)
                code = self.stop()
                if code is not None:
                    return code
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            stored: dict[str, Any] = {"key": np.array(self.key)} | joined
            with replacing(self.folder / block.file) as path, open(path, "wb") as stream:
                np.savez(stream, **stored)
                faults.reach("survey:before_rename")
        return None

    def _batches(self, block: Block) -> Iterator[Columns]:
        """Simulate and score a block; yield the columns of each batch."""
        settings = self.settings
        models = settings.lineup.singles
        if not self.scorers:
            self.scorers = [
                Scorer([model], settings.device, settings.batch, views=settings.views, regress_above=math.inf)
                for model in models
            ]
        part = Part(self.recipes[block.kind], block.start, block.n, settings.device)
        for slots, truth in part.batches(tuple(model.frame() for model in models), settings.batch):
            pending = [scorer.submit(slot) for scorer, slot in zip(self.scorers, slots, strict=True)]
            raw = np.concatenate([each.result()["logit"] for each in pending], axis=1)
            good = np.all([slot.status == Status.PENDING for slot in slots], axis=0)
            raw = np.where(good[:, None], raw, np.nan).astype(np.float32)[: slots[0].n]
            yield {"raw": raw} | {name: np.array(truth[name], kind) for name, kind in KEPT.items()}

    def read(self) -> Objects:
        """Return all objects but those that failed and those below the label rule."""
        from lensscan.mocks.labels import ambiguous

        parts, index, extra = [], [], []
        for block in self.blocks:
            columns = self.load(block)
            if columns is None:
                raise PlanMismatch(f"{self.folder / block.file} is damaged; run the same command again")
            parts.append(columns)
            index.append(np.arange(block.start, block.start + block.n))
            extra.append(np.full(block.n, block.kind == "lenses"))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in ("raw", *KEPT)}
        rows, besides = np.concatenate(index), np.concatenate(extra)
        fine, vague = np.isfinite(joined["raw"]).all(axis=1), ambiguous(joined)
        keep = fine & ~vague & (joined["is_lens"] | ~besides)
        truth = {name: joined[name][keep] for name in KEPT}
        counts = int((~fine & ~besides).sum()), int((vague & fine & ~besides).sum())
        return Objects(rows[keep], besides[keep], joined["raw"][keep], truth, *counts)
