"""The settings of one training: TRAIN.toml, checked and frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lensscan.config import LATE, Range, build, check_ranges, digest, late
from lensscan.errors import ConfigError
from lensscan.metrics.calibration import Kind
from lensscan.mocks.seeds import PURPOSES, RESERVED
from lensscan.nets.architecture import NetworkConfig, network_config
from lensscan.nets.classic.combination import CombinationConfig
from lensscan.nets.modular import ModularConfig
from lensscan.nets.resnet import ResNetConfig

__all__ = ["Augmentation", "Finish", "Modules", "Optimiser", "Stream", "TrainSettings"]

POSITIVE, NOT_NEGATIVE, SHARE = Range(brackets="()"), Range(), Range(0, 1, "[]")
LEAST_FINISH = 40
"""Mocks that a finish can stand on: it scores a quarter of them in eight views, and needs lenses among those."""
LARGEST_SEED = 25_000_000
"""Ten times it (`lensscan.mocks.seeds`), with step and row of an augmentation, must fit in 64 bits."""
RANGES: Mapping[str, Range] = {
    name: allowed
    for allowed, names in {
        POSITIVE: "steps batch softening validate_every validation stream.chunk stream.window stream.reuse "
        "optimiser.lr augmentation.mask_size",
        NOT_NEGATIVE: "min_bands patience stream.chunks optimiser.warmup optimiser.weight_decay optimiser.decay "
        "optimiser.regression augmentation.noise augmentation.gain augmentation.sigma augmentation.fwhm "
        "augmentation.pixel_scale modules.denoise modules.deblend modules.heads modules.weight modules.beta "
        "finish.others",
        SHARE: "optimiser.final augmentation.fwhm_missing augmentation.band_missing augmentation.mask augmentation.pad",
        Range(0, 1, "(]"): "augmentation.pad_side",
        Range(0, 1): "optimiser.ema",
        Range(brackets="(]"): "optimiser.clip",
        Range(brackets="[]"): "checkpoint_seconds",
        Range(0, LARGEST_SEED, "[]"): "seed",
        Range(LEAST_FINISH): "finish.calibration finish.evaluation",
    }.items()
    for name in names.split()
}
"""What the numbers of a training file may be, but for those of the network, which checks its own."""


@dataclass(frozen=True, slots=True)
class Stream:
    """How mocks reach the network.

    Mocks are simulated in chunks on the fly; each step draws its batch from the newest `window` chunks.  With
    ``window = 1`` and ``reuse = 1`` every mock is used once.

    Attributes
    ----------
    chunk : int
        Mocks simulated at a time.
    window : int
        Chunks kept in memory, as float16.
    reuse : float
        How often a mock is drawn on average before it leaves the window.
    chunks : int
        Number of different chunks, after which they come again; 0 = ever new mocks.
    epochs : bool
        A fixed set instead: the first `window` chunks, once each in an order of its own in every epoch, as
        published trainings do.  `reuse` and `chunks` then mean nothing.
    split : bool
        Row i of the batch draws from the i-th of `batch` equal parts of each chunk, so that a rank simulates its
        share of the mocks only.  Other draws than without, but the same for any number of ranks.
    folder : str
        A folder that ``lensscan simulate`` wrote with the training's recipe, read instead of simulating: every mock
        once in each epoch, in an order of its own.  The settings above then mean nothing.
    content : str
        Hash of what is in the folder; found, never given (`lensscan.train.folder`).
    """

    chunk: int = 4096
    window: int = 8
    reuse: float = 2.0
    chunks: int = 0
    epochs: bool = late(False)
    split: bool = late(False)
    folder: str = late("")
    content: str = late("")


@dataclass(frozen=True, slots=True)
class Optimiser:
    """The optimiser and its loss, with linear warm-up, decay, clipping and a moving average of the weights.

    Attributes
    ----------
    kind : str
        ``adamw``, ``adam``, ``sgd`` or ``rmsprop``, see `lensscan.train.choices`.
    loss : str
        Of the classification: ``bce``, ``focal`` or ``mse``, see `lensscan.train.choices`.
    lr : float
        Peak learning rate.
    warmup : int
        Steps of the linear warm-up.
    final : float
        Learning rate at the end, as a fraction of the peak, at the end of half a cosine.
    decay : float
        If positive, the learning rate is instead lr / (1 + decay step).
    weight_decay : float
        Of the layers' weights; not of biases, gains and batch normalisations.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the moving average per step (shorter at the start).
    regression : float
        Weight of the posterior's loss beside the classification's.
    """

    lr: float = 2e-3
    warmup: int = 500
    final: float = 0.01
    weight_decay: float = 0.02
    clip: float = 1.0
    ema: float = 0.999
    regression: float = 0.1
    decay: float = late(0.0)
    kind: Literal["adamw", "adam", "sgd", "rmsprop"] = late("adamw")
    loss: Literal["bce", "focal", "mse"] = late("bce")


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of each stamp at each use, beside one of the eight dihedral views.

    Attributes
    ----------
    noise : float
        White noise added, uniform between 0 and this many sigma.
    gain : float
        Scatter (log-normal) of each band's flux scale.
    sigma : float
        Scatter (log-normal) of the noise estimate.
    fwhm : float
        Scatter (log-normal) of the stated seeing.
    fwhm_missing : float
        Probability that no seeing is stated.
    pixel_scale : float
        Scatter (log-normal) of the stated pixel scale.
    band_missing : float
        Probability that one band is absent.
    mask : float
        Probability of a masked rectangle, at most `mask_size` pixels wide.
    pad : float
        Probability that only a centred square is there, as of a smaller stamp that was padded; its side is uniform
        between `pad_side` of the frame's and all of it.
    """

    noise: float = 0.3
    gain: float = 0.03
    sigma: float = 0.05
    fwhm: float = 0.04
    fwhm_missing: float = 0.15
    pixel_scale: float = 0.01
    band_missing: float = 0.03
    mask: float = 0.1
    mask_size: int = 16
    pad: float = late(0.0)
    pad_side: float = late(0.5)


@dataclass(frozen=True, slots=True)
class Finish:
    """What follows the training: calibration and evaluation, each on mocks of a seed of its own.

    Attributes
    ----------
    calibration : int
        Mocks to calibrate logit and posterior and to fill the card's histogram and ranges.
    evaluation : int
        Mocks of the short evaluation in the card.
    kind : str
        Calibration of the logit, a kind of `lensscan.metrics.calibration.Calibration`.
    others : int
        Non-lenses besides, for the logit: the top of a survey's list is made of the rarest of them.
    """

    calibration: int = 20_000
    evaluation: int = 20_000
    kind: Kind = "bent"
    others: int = late(0)


@dataclass(frozen=True, slots=True)
class Modules:
    """How a modular network learns: its modules one after the other, then `steps` of all together.

    Attributes
    ----------
    denoise, deblend, heads : int
        Steps of each alone, in this order, on what the trained ones before it give; 0 leaves a stage out.
    loss : str
        Of the images: ``l1`` or ``mse``, between normalised images.
    weight : float
        Of the images' losses beside those of the heads, when all learn together.
    beta : float
        Weight of the bottleneck's information, see `lensscan.nets.bottleneck`.
    """

    denoise: int = 0
    deblend: int = 0
    heads: int = 0
    loss: Literal["l1", "mse"] = "l1"
    weight: float = 1.0
    beta: float = 0.01


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that defines a training.

    Attributes
    ----------
    name : str
        Name of the model.
    recipe : str
        Recipe of the mocks: shipped name or path.
    seed : int
        Of weights, mocks and augmentation.
    steps : int
        Optimiser steps.
    batch : int
        Stamps per step, over all ranks.
    version, notes : str
        Go into the card.
    softening : float
        k in asinh(f / (k sigma)).
    min_bands : int
        Fewest bands a stamp may have; 0 = all.
    views : int
        Dihedral views that a scan averages by default.
    validate_every, validation : int
        Steps between validations, and their number of mocks.
    checkpoint_seconds : float
        Time between checkpoints.
    precision : str
        Of the network's trunk: ``fp32``; ``bf16`` on GPUs and on CPUs with AVX512-BF16; ``tf32`` on GPUs.
    modules : Modules
        Of networks of kind ``modular`` only.
    patience : int
        Validations without a better `monitor` after which the training stops, with the averaged weights of the best
        one; 0 = never, and with the last weights.
    monitor : str
        ``auroc``, ``bce`` or ``nll`` of the validations.
    tensorboard : bool
        Whether the curves are written for TensorBoard too.
    """

    name: str
    recipe: str
    steps: int
    seed: int = 1
    batch: int = 128
    version: str = "1"
    notes: str = ""
    softening: float = 2.0
    min_bands: int = 0
    views: int = 1
    validate_every: int = 500
    validation: int = 4096
    checkpoint_seconds: float = 120.0
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    network: NetworkConfig = field(default_factory=ResNetConfig)
    stream: Stream = field(default_factory=Stream)
    optimiser: Optimiser = field(default_factory=Optimiser)
    augmentation: Augmentation = field(default_factory=Augmentation)
    finish: Finish = field(default_factory=Finish)
    modules: Modules = field(default_factory=Modules, metadata=LATE)
    patience: int = late(0)
    monitor: Literal["auroc", "bce", "nll"] = late("auroc")
    tensorboard: bool = late(False)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> TrainSettings:
        """Build from a TOML mapping.

        Raises
        ------
        ConfigError
            For unknown keys and impossible values.
        """
        network = network_config(mapping.get("network", {}), f"{where}: network")
        rest = {key: value for key, value in mapping.items() if key != "network"}
        settings = dataclasses.replace(build(cls, rest, where), network=network)
        check_ranges(settings, RANGES, where)
        if settings.stream.split and (settings.stream.epochs or settings.stream.chunk < settings.batch):
            raise ConfigError(f"{where}: stream.split needs chunks of at least batch mocks, and no epochs")
        _check_seed(settings, where)
        _check_folder(settings, where)
        if settings.views not in (1, 8):
            raise ConfigError(f"{where}: views must be 1 or 8, not {settings.views}")
        _check_modules(settings, where)
        _check_members(settings, where)
        return settings

    @property
    def digest(self) -> str:
        """Hash of everything that can change a weight but the recipe's numbers, which have a digest of their own.

        Of the recipe, of members and of mocks on disk it does not matter where they lie.
        """
        counted, network = self, self.network
        if self.recipe.endswith(".toml"):
            counted = dataclasses.replace(counted, recipe=Path(self.recipe).stem)
        if self.stream.content:
            counted = dataclasses.replace(counted, stream=dataclasses.replace(self.stream, folder=""))
        if isinstance(network, CombinationConfig) and network.hashes:
            counted = dataclasses.replace(counted, network=dataclasses.replace(network, members=()))
        unchanging = ("name", "version", "notes", "checkpoint_seconds", "views", "finish", "tensorboard")
        return digest(counted, without=unchanging)

    @property
    def seedless_digest(self) -> str:
        """Hash of the same but for the seed: trainings of one file share it."""
        return dataclasses.replace(self, seed=0).digest

    def mock_seed(self, purpose: str) -> int:
        """Return the seed of the mocks for one purpose, a key of `lensscan.mocks.seeds.PURPOSES`."""
        return 10 * self.seed + PURPOSES[purpose]

    def with_seed(self, seed: int) -> TrainSettings:
        """Return the training of another seed, under a name of its own."""
        settings = dataclasses.replace(self, seed=seed, name=f"{self.name}-seed-{seed}")
        _check_seed(settings, self.name)
        return settings


def _check_seed(settings: TrainSettings, where: str) -> None:
    for purpose in PURPOSES:
        if (taken := RESERVED.get(settings.mock_seed(purpose))) is not None:
            raise ConfigError(f"{where}: seed {settings.seed} would use mocks of {taken}; take another")


def _check_folder(settings: TrainSettings, where: str) -> None:
    """Raise a `ConfigError` for a folder of mocks beside what says how mocks are simulated."""
    stream = settings.stream
    if stream.content:
        raise ConfigError(f"{where}: stream.content is found in the folder; leave it out")
    if stream.folder and (stream.split or stream.chunks):
        raise ConfigError(f"{where}: stream.folder holds the mocks; leave out stream.split and stream.chunks")


def _check_members(settings: TrainSettings, where: str) -> None:
    """Raise a `ConfigError` for a combination that is not given by the files of its members."""
    network = settings.network
    if isinstance(network, CombinationConfig) and (network.networks or network.hashes):
        raise ConfigError(f"{where}: network: networks and hashes are read from the members' files; give members alone")


def _check_modules(settings: TrainSettings, where: str) -> None:
    """Raise a `ConfigError` for stages that the network has not."""
    modules, network = settings.modules, settings.network
    if not isinstance(network, ModularConfig):
        if modules != Modules():
            raise ConfigError(f"{where}: [modules] is for networks of kind modular; leave it out")
        return
    there = {"denoise": network.denoise_width > 0, "deblend": bool(network.deblend_widths), "heads": True}
    for name, found in there.items():
        steps = getattr(modules, name)
        if steps and not found:
            raise ConfigError(f"{where}: modules.{name} = {steps}, but the network has no such module; leave it out")
