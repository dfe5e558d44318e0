"""Training of a modular network: each module alone, on what the trained ones before it give, then all together.

Every stage is a training of its own (`lensscan.train.loop`), with its own steps, learning rates from the warm-up on,
checkpoint and curves, and begins with the averaged weights of the one before.  A module alone learns the noiseless
stamp, or the source's light alone, normalised as the stamp itself; the other modules are held fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lensscan.errors import ExitCode, ModelError
from lensscan.files import make_folder
from lensscan.metrics.images import psnr
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.bottleneck import rate
from lensscan.nets.latent import N_LATENT
from lensscan.nets.modular import ModularNet, Trace
from lensscan.nets.normalise import n_scalars, normalise
from lensscan.train.augment import Sample, network_inputs, rank_seed, stated_sigma
from lensscan.train.choices import training_loss
from lensscan.train.loop import VALIDATION_BATCH, Trainer, evaluate
from lensscan.train.losses import classification_loss, posterior_loss
from lensscan.train.settings import TrainSettings

__all__ = [
    "IMAGES",
    "JOINT",
    "Learned",
    "ModularTrainer",
    "StageMaker",
    "image_targets",
    "learn_modules",
    "stage_losses",
    "stages_of",
    "training_flops",
]

JOINT = "joint"
IMAGES = {"denoise": "blend", "deblend": "arcs"}
"""What each image module learns, of a `Sample`."""
StageMaker = Callable[[TrainSettings, Path, str], "ModularTrainer"]
"""Makes the trainer of a stage: settings with the stage's steps, folder, stage."""


def stages_of(settings: TrainSettings) -> dict[str, int]:
    """Return the steps of each stage, in order; the last is the common one, and the only one but of modular networks.

    Each draws the mocks from the first on.
    """
    modules = settings.modules
    steps = {"denoise": modules.denoise, "deblend": modules.deblend, "heads": modules.heads}
    return {name: count for name, count in steps.items() if count} | {JOINT: settings.steps}


def learned(network: ModularNet, stage: str) -> list[nn.Module]:
    """Return the parts of a network that a stage changes."""
    images = network.modules_of_images
    if stage in images:
        return [images[stage]]
    fixed = set(images.values()) if stage == "heads" else set()
    return [child for child in network.children() if child not in fixed]


def hold_others(network: ModularNet, stage: str) -> None:
    """Let only what a stage learns have gradients."""
    network.requires_grad_(False)
    for part in learned(network, stage):
        part.requires_grad_(True)


def image_targets(sample: Sample, softening: float) -> dict[str, Tensor]:
    """Return what each image module should give of a sample, normalised as the sample itself, by stage.

    Raises
    ------
    ModelError
        If the sample does not hold what lies below its noise.
    """
    if sample.blend is None or sample.arcs is None:
        raise ModelError("a modular network learns from mocks with their layers; train it by lensscan train")
    sigma = stated_sigma(sample)
    return {stage: normalise(getattr(sample, name), None, sigma, softening) for stage, name in IMAGES.items()}


def stage_losses(
    network: ModularNet,
    stage: str,
    inputs: tuple[Tensor, Tensor],
    sample: Sample,
    targets: Mapping[str, Tensor],
    settings: TrainSettings,
) -> Tensor:
    """Return what a stage goes down, the cross entropy and the posterior's loss, (3,)."""
    images, scalars = inputs
    distance = F.l1_loss if settings.modules.loss == "l1" else F.mse_loss
    if stage in IMAGES:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            shown = network.denoiser(images)
            shown = network.deblender(shown) if stage == "deblend" else shown
        loss = distance(shown.float(), targets[stage])
        return torch.stack([loss, torch.zeros_like(loss), torch.zeros_like(loss)])
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        trace = network.trace(images, scalars)
    outcome = trace.outcome
    bce = classification_loss(outcome.logit, sample.is_lens, sample.vague)
    nll = posterior_loss(network, outcome, sample.latent, sample.is_lens)
    loss = training_loss(settings.optimiser, bce, outcome.logit, sample.is_lens, sample.vague)
    loss = loss + settings.optimiser.regression * nll + settings.modules.beta * rate(trace.belief).mean()
    for name in network.modules_of_images if stage == JOINT else ():
        loss = loss + settings.modules.weight * distance(made_by(trace, name).float(), targets[name])
    return torch.stack([loss, bce, nll])


def made_by(trace: Trace, stage: str) -> Tensor:
    """Return the image that the module of a stage made."""
    return trace.denoised if stage == "denoise" else trace.deblended


@dataclasses.dataclass(frozen=True, slots=True)
class Learned:
    """Where the stages before the common one have got to.

    Attributes
    ----------
    code : ExitCode
        ``OK`` when all are done.
    weights : mapping of Tensor, or None
        Averaged weights of the last of them; None if there was none.
    seconds : float
        All of them together.
    """

    code: ExitCode = ExitCode.OK
    weights: Mapping[str, Tensor] | None = None
    seconds: float = 0.0


class ModularTrainer(Trainer):
    """Trains one stage of a modular network.

    Parameters
    ----------
    stage : str
        A key of `stages_of`.
    settings, *where
        As of `Trainer`; the settings' steps are the stage's.
    """

    network: ModularNet
    average: ModularNet

    def __init__(self, stage: str, settings: TrainSettings, *where: Any) -> None:
        super().__init__(settings, *where)
        self.stage = stage
        hold_others(self.network, stage)
        self.network.logit.draw = self._points

    def _points(self, mean: Tensor) -> Tensor:
        """Draw the bottleneck's points for this rank's rows of the global batch: for any number of ranks the same."""
        settings, rank, generator = self.settings, self.engine.rank, None
        if rank > 0:  # rank 0 draws them from torch's own, which stands there if there is no drop-out
            generator = torch.Generator(mean.device).manual_seed(rank_seed(settings.seed, self.step, 0))
        shape = (settings.batch, mean.shape[1])
        points = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return points[self.stream.first : self.stream.last]

    def go_on_from(self, earlier: Learned) -> None:
        """Take over the weights of the stages before, and the time they took, unless this one has begun already."""
        if self.step == 0 and earlier.weights is not None:
            self.seconds = earlier.seconds
            for network in (self.network, self.average):
                network.load_state_dict(earlier.weights)

    def losses(self, sample: Sample) -> Tensor:
        """Return the losses of the stage, (3,)."""
        settings = self.settings
        with torch.no_grad():
            images, scalars = network_inputs(sample, settings.softening, self.pixel_scale)
        torch.manual_seed(rank_seed(settings.seed, self.step, self.engine.rank))
        inputs = images.contiguous(memory_format=torch.channels_last), scalars
        wanted = self.stage != "heads" and self.network.modules_of_images
        targets = image_targets(sample, settings.softening) if wanted else {}
        return stage_losses(self.network, self.stage, inputs, sample, targets, settings)

    def measure(self, sample: Sample) -> dict[str, float]:
        """Return the PSNR of the image modules learnt so far; of the heads what all networks are measured by."""
        values = image_figures(self.average, sample, self.settings, self.pixel_scale)
        if self.stage in IMAGES:
            return values
        return evaluate(self.average, sample, self.settings, self.pixel_scale) | values


@torch.no_grad()
def image_figures(network: ModularNet, sample: Sample, settings: TrainSettings, pixel_scale: float) -> dict[str, float]:
    """Return the mean PSNR (dB) of each image module on mocks, normalised, the peak being that of the true blend."""
    found: dict[str, list[float]] = {f"psnr_{stage}": [] for stage in network.modules_of_images}
    for start in range(0, len(sample.images) if found else 0, VALIDATION_BATCH):
        part = sample.rows(slice(start, start + VALIDATION_BATCH))
        targets = image_targets(part, settings.softening)
        trace = network.trace(*network_inputs(part, settings.softening, pixel_scale))
        peak = targets["denoise"].amax(dim=(1, 2, 3)).cpu().numpy()
        for stage in network.modules_of_images:
            made, wanted = (image.cpu().numpy() for image in (made_by(trace, stage), targets[stage]))
            found[f"psnr_{stage}"] += psnr(made, wanted, peak).tolist()
    return {name: sum(values) / len(values) for name, values in found.items()}


def learn_modules(
    settings: TrainSettings,
    folder: Path,
    make: StageMaker,
    stop: Callable[[], ExitCode | None],
    report: Callable[[str], None],
) -> Learned:
    """Train every stage but the common one, each in a folder of its own; the same call again resumes.

    Each takes all its steps: patience is for the common one.
    """
    so_far = Learned()
    for stage, steps in stages_of(settings).items():
        if stage == JOINT:
            break
        place = folder / stage
        make_folder(place)
        trainer = make(dataclasses.replace(settings, steps=steps, patience=0), place, stage)
        report(f"stage {stage}: {steps} steps")
        try:
            trainer.resume()
            trainer.go_on_from(so_far)
            code = trainer.fit(stop, report)
        finally:
            trainer.stream.close()
        if trainer.engine.rank == 0:
            trainer.history.plot(place / "curves.png", f"{settings.name}, stage {stage}, step {trainer.step}")
        so_far = Learned(code, trainer.average.state_dict(), trainer.seconds)
        if code != ExitCode.OK:
            break
    return so_far


def training_flops(settings: TrainSettings, n_bands: int, size: int) -> dict[str, float]:
    """Return the floating point operations of each stage of a training, forwards and backwards, counted, not timed.

    One blank stamp is computed; torch's own random numbers stay where they are.
    """
    settings = dataclasses.replace(settings, precision="fp32")  # as many operations, and faster on a CPU
    noise = torch.zeros(1, n_bands, size, size)
    there, lens = torch.ones(1, n_bands, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    sample = Sample(noise, there, noise[:, :, 0, 0], lens, torch.zeros(1, N_LATENT))
    targets = dict.fromkeys(IMAGES, noise)
    inputs = noise, torch.zeros(1, n_scalars(n_bands))
    found = {}
    with torch.random.fork_rng(devices=[]):
        network = build_network(architecture(settings.network), n_bands, size)
        assert isinstance(network, ModularNet)
        for stage, steps in stages_of(settings).items():
            hold_others(network, stage)
            with FlopCounterMode(display=False) as counter:
                stage_losses(network, stage, inputs, sample, targets, settings)[0].backward()
            found[stage] = counter.get_total_flops() * steps * settings.batch
    return found
