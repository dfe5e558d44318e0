"""Test sets: sealed ones, simulated from recipe and seed and checked by hash, and folders of mocks.

``RECIPE:smoke``, ``RECIPE:medium`` and ``RECIPE:full`` stand in ``catalogs/testsets.toml``; ``RECIPE:tune`` has a
seed of its own and no seal.  A path names a folder made by ``lensscan simulate``.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensscan.config import build, read_toml, shipped
from lensscan.errors import ConfigError, VerificationError
from lensscan.mocks.batches import fill_batch
from lensscan.mocks.folder import hash_truth
from lensscan.mocks.recipes import Recipe, load_recipe
from lensscan.mocks.seeds import TESTSETS
from lensscan.mocks.simulate import Mocks, draw_truth, simulate
from lensscan.survey.stamps import Batch, Frame, allocate, check_scale

__all__ = ["SEEDS", "SIZES", "SealedSet", "TestSet", "hash_truth", "open_testset", "seal", "truth_hash"]

SIZES = {"smoke": 2_000, "medium": 10_000, "full": 100_000}
SEEDS = TESTSETS
TUNE = 10_000
OTHER_SCALE = "--transfer compares models across pixel scales, or take a model for this one"
"""What to do about pixels that a model does not take."""
CHUNK = 1024
Truth = dict[str, NDArray[Any]]


class TestSet(ABC):
    """Stamps with truth, read in the order of the truth table.

    Attributes
    ----------
    name : str
        As it was asked for.
    n : int
    sealed : bool
        Whether a hash vouches for its contents.
    """

    __test__ = False  # no test of pytest
    name: str
    n: int
    sealed: bool

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a report says of the set: seed, hashes, recipe, prior."""

    @abstractmethod
    def origin(self) -> Recipe:
        """Return the recipe that its mocks were made by; raise a one-line `ConfigError` if it cannot be had."""

    @abstractmethod
    def check(self, frame: Frame) -> None:
        """Raise a one-line `ConfigError` if the set lacks what a network wants."""

    @abstractmethod
    def batches(self, frames: tuple[Frame, ...], rows: int) -> Iterator[tuple[list[Batch], Truth]]:
        """Yield batches of at most `rows` stamps, one per frame and of a shape that never changes, and their truth."""

    @abstractmethod
    def stamps(self, rows: NDArray[np.int64], frame: Frame) -> Batch:
        """Return the stamps of some rows once more."""

    @abstractmethod
    def verify(self, truth: Truth) -> None:
        """Raise a one-line `VerificationError` if the truth is not that of the sealed set."""


@dataclass(frozen=True, slots=True)
class Seal:
    """One table of ``catalogs/testsets.toml``: how many rows, of which seed, recipe digest and hash of the truth."""

    n: int
    seed: int
    recipe: str
    sha256: str


class SealedSet(TestSet):
    """A set simulated on the fly from a recipe and a seed.

    Parameters
    ----------
    name : str
    recipe : Recipe
    n, seed : int
    sha256 : str, optional
        Hash of the truth; without it the set is not sealed.
    device : str
        Where images are made.
    resample : bool
        Take models as a scan with ``--resample`` does: other pixels, and fewer bands down to the card's limit.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        n: int,
        seed: int,
        sha256: str | None = None,
        device: str = "cpu",
        resample: bool = False,
    ) -> None:
        self.name, self.recipe, self.n, self.seed = name, recipe, n, seed
        self.sha256, self.device, self.resample = sha256, device, resample
        self.sealed = sha256 is not None

    def describe(self) -> dict[str, Any]:
        """Return name, recipe, seed and hashes."""
        return {
            "name": self.name,
            "sealed": self.sealed,
            "recipe": self.recipe.name,
            "title": self.recipe.title,
            "recipe_digest": self.recipe.digest,
            "seed": self.seed,
            "n": self.n,
            "sha256": self.sha256,
        }

    def origin(self) -> Recipe:
        """Return its recipe."""
        return self.recipe

    def check(self, frame: Frame) -> None:
        """Raise a `ConfigError` if a band is missing or pixels differ; with `resample`, if too few bands are there."""
        missing = [band for band in frame.bands if band not in self.recipe.bands]
        if self.resample and len(frame.bands) - len(missing) >= frame.min_bands:
            return
        if missing:
            raise ConfigError(
                f"test set {self.name} has bands {', '.join(self.recipe.bands)}, the model wants {missing[0]}; "
                "take a set of a recipe with the model's bands"
            )
        check_scale(self.recipe.pixel_scale, frame, False, f"test set {self.name}", OTHER_SCALE)

    def batches(self, frames: tuple[Frame, ...], rows: int) -> Iterator[tuple[list[Batch], Truth]]:
        """Simulate and yield."""
        slots = [allocate(rows, frame) for frame in frames]
        for start in range(0, self.n, CHUNK):
            count = min(CHUNK, self.n - start)
            mocks = self.make(start, count)
            for low in range(0, count, rows):
                part = slice(low, min(low + rows, count))
                for slot, frame in zip(slots, frames, strict=True):
                    fill_batch(slot, frame, self.recipe, [mocks], part, self.resample)
                yield slots, {key: value.numpy()[part] for key, value in mocks.truth.items()}

    def make(self, start: int, n: int) -> Mocks:
        """Simulate the rows [start, start + n)."""
        return simulate(self.recipe, seed=self.seed, start=start, n=n, device=self.device)

    def stamps(self, rows: NDArray[np.int64], frame: Frame) -> Batch:
        """Simulate single rows again."""
        slot = allocate(max(len(rows), 1), frame)
        mocks = [self.make(int(row), 1) for row in rows]
        if mocks:
            fill_batch(slot, frame, self.recipe, mocks, slice(0, len(rows)), self.resample)
        return slot

    def verify(self, truth: Truth) -> None:
        """Compare the truth's hash with the seal's."""
        found = hash_truth(truth)
        if self.sha256 is not None and found != self.sha256:
            raise VerificationError(
                f"test set {self.name}: its truth has the hash {found[:12]}, the seal says {self.sha256[:12]}: the "
                f"simulator has changed; train, then seal again with lensscan evaluate --seal {self.recipe.name}"
            )


def truth_hash(recipe: Recipe, seed: int, n: int) -> str:
    """Return `hash_truth` of rows 0 to n - 1 of a recipe, without making images."""
    drawn = draw_truth(recipe, seed=seed, n=n)
    return hash_truth({key: value for key, value in drawn.items() if key not in ("present", "fwhm", "sigma")})


def seal(recipe: str, names: tuple[str, ...] = tuple(SIZES)) -> str:
    """Return the lines that seal the test sets of a recipe, for ``catalogs/testsets.toml``.

    Raises
    ------
    ConfigError
        If there is no such recipe.
    """
    loaded = load_recipe(recipe)
    blocks = []
    for name in names:
        digest = truth_hash(loaded, SEEDS[name], SIZES[name])
        lines = (
            f"[{json.dumps(loaded.name)}.{name}]",
            f"n = {SIZES[name]}",
            f"seed = {SEEDS[name]}",
            f'recipe = "{loaded.digest}"',
            f'sha256 = "{digest}"',
        )
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def read_seals() -> dict[str, dict[str, Seal]]:
    """Return the seals by recipe and name."""
    path = importlib.resources.files("lensscan") / "catalogs" / "testsets.toml"
    found = read_toml(Path(str(path)))
    return {
        recipe: {name: build(Seal, values, f"{path}: {recipe}.{name}") for name, values in sets.items()}
        for recipe, sets in found.items()
    }


def _no_such_set(recipe: str, named: bool, seals: Mapping[str, Mapping[str, Seal]]) -> str:
    """Return what a recipe has for test sets; for an unknown one, which is nearest."""
    known = shipped("recipes")
    lacking = "" if named else "no folder of that name; "
    if recipe in known or Path(recipe).is_file():
        sets = ", ".join(f"{recipe}:{each}" for each in (*seals.get(recipe, {}), "tune[:N]"))
        return f"{lacking}of recipe {recipe} there are {sets}"
    near = difflib.get_close_matches(recipe, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else "write RECIPE:smoke, RECIPE:tune[:N] or a folder of mocks"
    return f"{lacking}no recipe {recipe} either; {hint}" if lacking else f"no recipe {recipe}; {hint}"


def open_testset(text: str, device: str = "cpu") -> TestSet:
    """Open a test set.

    Parameters
    ----------
    text : str
        ``RECIPE:smoke``, ``RECIPE:medium``, ``RECIPE:full``, ``RECIPE:tune`` or ``RECIPE:tune:N`` (N rows), or a
        folder made by ``lensscan simulate``.
    device : str
        Where the images of a simulated set are made.

    Raises
    ------
    ConfigError
        If there is no such set.
    VerificationError
        If its recipe is not the one that was sealed.
    """
    if Path(text).is_dir():
        from lensscan.evaluate.folders import FolderSet

        return FolderSet(text)
    name, colon, kind = text.partition(":")
    kind, _, number = kind.partition(":")
    seals = read_seals()
    counted = kind == "tune" and number.isascii() and number.isdigit() and int(number) > 0
    if not colon and "/" in text:
        raise ConfigError(f"test set {text!r}: no such folder; give one made by lensscan simulate, or RECIPE:smoke")
    if not colon or kind not in SEEDS or (number and not counted):
        raise ConfigError(f"test set {text!r}: {_no_such_set(name, bool(colon), seals)}")
    recipe = load_recipe(name)
    if kind == "tune":
        return SealedSet(text, recipe, int(number or TUNE), SEEDS["tune"], device=device)
    found = seals.get(recipe.name, {}).get(kind)
    if found is None:
        raise ConfigError(
            f"test set {text!r} is not sealed; add the lines that lensscan evaluate --seal {recipe.name} prints to "
            "catalogs/testsets.toml"
        )
    if recipe.digest != found.recipe:
        raise VerificationError(
            f"test set {text}: recipe {recipe.name} has the digest {recipe.digest[:12]}, the seal says "
            f"{found.recipe[:12]}: the recipe has changed; restore it, or train and seal again"
        )
    return SealedSet(text, recipe, found.n, found.seed, found.sha256, device)
