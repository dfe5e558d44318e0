"""Training mocks from a folder that ``lensscan simulate`` wrote: checked, hashed, read by the scan's own readers.

Packs are mapped into memory and only the rows of a batch are touched, so that a set may be larger than memory; of
every mock only label, latent truth and place are held (about 100 bytes).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lensscan.errors import ConfigError
from lensscan.mocks.folder import MockFolder
from lensscan.mocks.labels import ambiguous
from lensscan.mocks.recipes import Recipe
from lensscan.mocks.seeds import PURPOSES, RESERVED
from lensscan.nets.heads import to_latent
from lensscan.nets.latent import PARAMETERS
from lensscan.nets.modular import ModularConfig
from lensscan.schema import Status
from lensscan.survey.pack import PackReader, list_packs
from lensscan.survey.packfile import PackFile
from lensscan.survey.stamps import Frame, Rows, StampSource, allocate
from lensscan.train.augment import Sample
from lensscan.train.settings import TrainSettings

__all__ = ["FolderMocks", "open_folder", "with_folder"]

WHAT = "stream.folder"
OPEN_PACKS = 512
"""Packs kept open: rows are drawn at random from all of them, and opening one takes as long as reading many."""


@dataclass(frozen=True, slots=True)
class Index:
    """What is held of a folder.

    Attributes
    ----------
    is_lens, vague : bool Tensor, (n,)
        See `Sample`.
    latent : Tensor, (n, 7)
        NaN for non-lenses.
    rows : Rows
        Where the stamps are.
    source : StampSource
    content : str
        SHA-256 of the folder's record and truth.
    digest, seed
        Of the recipe that wrote it, and of its mocks.
    """

    is_lens: Tensor
    vague: Tensor
    latent: Tensor
    rows: Rows
    source: StampSource
    content: str
    digest: str
    seed: int


class FolderMocks:
    """Mocks of a folder, by row; for one thread.

    Parameters
    ----------
    index : Index
    frame : Frame
    device : torch.device
        Where the samples are wanted.

    Attributes
    ----------
    n : int
    """

    def __init__(self, index: Index, frame: Frame, device: torch.device | str = "cpu") -> None:
        self.n = len(index.is_lens)
        self._index, self._frame, self._device = index, frame, device
        self._reader = index.source.reader()
        if isinstance(self._reader, PackReader):
            self._reader.open_packs = OPEN_PACKS

    def take(self, rows: Tensor) -> Sample:
        """Read some mocks, in the order given.

        Raises
        ------
        ConfigError
            If one of them cannot be read.
        """
        stored = torch.sort(rows)
        batch = allocate(len(rows), self._frame)
        self._reader.read(self._index.rows.take(stored.values.numpy()), 0, len(rows), batch)
        wrong = np.flatnonzero(batch.status != Status.PENDING)
        if len(wrong):
            reason = Status(int(batch.status[wrong[0]])).name.lower()
            row = int(stored.values[wrong[0]])
            place = self._index.rows.file[row]
            raise ConfigError(f"{WHAT}: mock {row} ({place or 'in no file'}) is {reason}; run lensscan simulate again")
        sample = Sample(
            images=torch.from_numpy(batch.images),
            present=torch.from_numpy(batch.present),
            fwhm=torch.from_numpy(batch.fwhm),
            is_lens=self._index.is_lens[stored.values],
            latent=self._index.latent[stored.values],
            mask=torch.from_numpy(batch.mask) if batch.masked else None,
            vague=self._index.vague[stored.values],
        )
        return sample.rows(torch.argsort(stored.indices)).to(self._device)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()


def open_folder(settings: TrainSettings, recipe: Recipe, device: torch.device | str = "cpu") -> FolderMocks:
    """Open the folder of a training, checked.

    Raises
    ------
    ConfigError
        If it is no complete folder of mocks, does not fit the recipe or the network, or holds mocks of a seed that is
        kept for something else.
    """
    index, frame = _read(settings, recipe), _frame(recipe)
    _check(index, settings, recipe)
    return FolderMocks(index, frame, device)


def with_folder(settings: TrainSettings, recipe: Recipe) -> TrainSettings:
    """Give a training from a folder the hash of what is in there; others stay as they are.

    Raises
    ------
    ConfigError
        As `open_folder`.
    """
    if not settings.stream.folder or settings.stream.content:
        return settings
    index = _read(settings, recipe)
    _check(index, settings, recipe)
    return dataclasses.replace(settings, stream=dataclasses.replace(settings.stream, content=index.content))


def _frame(recipe: Recipe) -> Frame:
    return Frame(recipe.bands, recipe.size, recipe.pixel_scale, 1)


def _read(settings: TrainSettings, recipe: Recipe) -> Index:
    folder = settings.stream.folder
    try:
        changed = tuple((Path(folder) / name).stat().st_mtime_ns for name in ("recipe.json", "truth.fits"))
    except OSError:
        changed = ()
    return _index(folder, changed, _frame(recipe), recipe.name)


@functools.lru_cache(maxsize=1)
def _index(folder: str, changed: tuple[int, ...], frame: Frame, recipe: str) -> Index:
    """Read the tables of a folder; `changed` is when they were written."""
    mocks = MockFolder(folder, WHAT)
    if not mocks.n:
        raise ConfigError(f"{mocks.name}: holds no mocks; run lensscan simulate again")
    _check_stamps(mocks, frame, recipe)
    source = mocks.source(frame)
    truth, record = mocks.truth(), mocks.record
    missing = [name for name in PARAMETERS if name not in truth]
    if missing:
        raise ConfigError(f"{mocks.name}: truth.fits lacks {missing[0]}; run lensscan simulate again")
    return Index(
        is_lens=torch.from_numpy(truth["is_lens"]),
        vague=torch.from_numpy(ambiguous(truth)),
        latent=to_latent({name: torch.from_numpy(truth[name]) for name in PARAMETERS}),
        rows=mocks.locate(source),
        source=source,
        content=mocks.content,
        digest=str(record.get("digest", "")),
        seed=int(record.get("seed", -1)),
    )


def _check_stamps(mocks: MockFolder, frame: Frame, recipe: str) -> None:
    """Raise a `ConfigError` for stamps of other bands, sizes or pixels than the recipe makes."""
    bands, size, scale = mocks.bands, frame.size, frame.pixel_scale
    found, wanted = " ".join(bands), _words(frame.bands, frame.size, frame.pixel_scale)
    if mocks.packs is not None:
        pack = PackFile.open(list_packs(mocks.packs)[0])
        size, scale = pack.rows.dtype["IMAGE"].shape[-1], pack.header.number("PIXSCALE") or scale
        pack.close()
        found = _words(bands, size, scale)
    if (bands, size, scale) != (frame.bands, frame.size, frame.pixel_scale):
        raise ConfigError(
            f"{mocks.name}: holds {found}, and the recipe {recipe} makes {wanted}; "
            "name the recipe that wrote the folder, or write another"
        )


def _check(index: Index, settings: TrainSettings, recipe: Recipe) -> None:
    """Raise a `ConfigError` if a training must not, or cannot, learn from a folder."""
    where = f"{WHAT} {settings.stream.folder}"
    if index.digest != recipe.digest:
        raise ConfigError(
            f"{where}: was written by a recipe of digest {index.digest[:12]}, {recipe.name} has {recipe.digest[:12]}; "
            "name the recipe that wrote it, or run lensscan simulate with this one"
        )
    own = {10 * settings.seed + offset: f"the {name} of this very training" for name, offset in PURPOSES.items()}
    kept = RESERVED | {seed: purpose for seed, purpose in own.items() if seed != 10 * settings.seed}
    if index.seed in kept:
        raise ConfigError(
            f"{where}: its mocks are of seed {index.seed}, kept for {kept[index.seed]}; "
            f"write a folder with another seed, such as lensscan simulate --seed {10 * settings.seed}"
        )
    network = settings.network
    if isinstance(network, ModularConfig) and (network.denoise_width or network.deblend_widths):
        raise ConfigError(f"{where}: holds no stamps without noise, which the image modules learn; leave it out")


def _words(bands: tuple[str, ...], size: int, pixel_scale: float) -> str:
    return f"{' '.join(bands)} at {size} pixels of {pixel_scale:g} arcsec"
