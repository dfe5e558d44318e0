"""The training loop: steps, moving average, validation, checkpoints, orderly stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lensscan.errors import ExitCode, ModelError, OutputError, PlanMismatch
from lensscan.files import sweep_temporary, temporary_files
from lensscan.metrics.detection import auroc, tpr_at_fpr
from lensscan.nets.architecture import architecture, build_network
from lensscan.nets.blocks import Network, Outcome
from lensscan.nets.flow import base_points
from lensscan.train.augment import Sample, augment, network_inputs, rank_seed
from lensscan.train.batchnorm import synchronise
from lensscan.train.checkpoint import load_checkpoint, save_checkpoint
from lensscan.train.choices import make_optimiser, training_loss
from lensscan.train.distributed import Engine
from lensscan.train.history import History, Progress, require_tensorboard
from lensscan.train.losses import classification_loss, posterior_loss
from lensscan.train.members import load_members
from lensscan.train.patience import Best
from lensscan.train.settings import TrainSettings
from lensscan.train.stream import Source, Stored, open_stream

__all__ = ["VALIDATION_BATCH", "Trainer", "evaluate", "learning_rate"]

log = logging.getLogger(__name__)

REPORT_EVERY = 50
AGREE_EVERY = 10
VALIDATION_BATCH = 256
FLOW_SAMPLES = 64
"""Of a flow's posterior, for the middle of it in a validation."""
UNDECAYED = ("gain", "shift", "bias")
"""Ends of the names of parameters without weight decay, as are those of batch normalisations; all else is a weight of
a layer, also where it is a vector (`lensscan.nets.bottleneck`)."""


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine, or lr / (1 + decay step)."""
    optimiser = settings.optimiser
    if step < optimiser.warmup:
        return optimiser.lr * (step + 1) / optimiser.warmup
    if optimiser.decay > 0:
        return optimiser.lr / (1 + optimiser.decay * step)
    done = (step - optimiser.warmup) / max(1, settings.steps - optimiser.warmup)
    return optimiser.lr * (optimiser.final + (1 - optimiser.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Trainer:
    """Trains one network.

    Parameters
    ----------
    settings : TrainSettings
    n_bands, size, pixel_scale
        Of the recipe.
    source : Source or Stored
        Makes the training mocks, or holds them.
    validation : callable
        Returns the validation mocks; called once, on rank 0.
    engine : Engine
    folder : Path
        Holds the checkpoint and the history.
    device : torch.device
    recipe_digest : str
        Of the mocks: a checkpoint of other ones is refused.
    """

    def __init__(
        self,
        settings: TrainSettings,
        n_bands: int,
        size: int,
        pixel_scale: float,
        source: Source | Stored,
        validation: Callable[[], Sample],
        engine: Engine,
        folder: Path,
        device: torch.device,
        recipe_digest: str = "",
    ) -> None:
        if settings.tensorboard:
            require_tensorboard()
        self.settings, self.engine, self.folder, self.device = settings, engine, folder, device
        self.pixel_scale, self.recipe_digest = pixel_scale, recipe_digest
        torch.manual_seed(settings.seed)
        self.network = build_network(architecture(settings.network), n_bands, size).to(device)
        load_members(self.network, settings.network)
        self.average = build_network(architecture(settings.network), n_bands, size).to(device).eval()
        self.average.load_state_dict(self.network.state_dict())
        for network in (self.network, self.average):
            engine.broadcast([p.data for p in network.parameters()])
        synchronise(self.network, engine)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = list(self.network.parameters())
        self.optimiser = make_optimiser(settings.optimiser, self._groups())
        self.stream = open_stream(source, settings.stream, settings.batch, settings.seed, engine.rank, engine.size)
        self.best = Best(settings.monitor, settings.patience)
        self.step = 0
        self.seconds = 0.0
        self._clock = time.monotonic()
        self.sums = torch.zeros(3, device=device)
        self.history = History(folder / "curves.jsonl")
        self._make_validation = validation
        self._validation: Sample | None = None

    def _groups(self) -> list[dict[str, Any]]:
        norms = {p for layer in self.network.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()}
        plain: list[Tensor] = []
        decayed: list[Tensor] = []
        for name, parameter in self.network.named_parameters():
            (plain if name.endswith(UNDECAYED) or parameter in norms else decayed).append(parameter)
        decay = self.settings.optimiser.weight_decay
        return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]

    def fit(self, stop: Callable[[], ExitCode | None], report: Callable[[str], None]) -> ExitCode:
        """Train to the last step, until patience runs out, or until any rank wants to stop.

        Parameters
        ----------
        stop : callable
            Returns the exit code of a stop that was asked for, else None.
        report : callable
            Takes progress lines; called on rank 0.

        Returns
        -------
        ExitCode
            ``OK`` when nothing is left to train, else the stop's code; a checkpoint stands in both cases.  With
            ``OK`` and `patience` the averaged weights are those of the best validation.

        Raises
        ------
        ModelError
            If the loss or a weight is no longer finite.
        """
        progress = Progress(self.settings.steps, self.settings.batch, self.step)
        saved = self._clock = time.monotonic()
        while not self.done:
            if (code := self._fill(stop)) is not None:
                self._require_finite()
                self.save()
                return code
            self.sums += self.train_step()
            if self.step % REPORT_EVERY == 0:
                self._require_finite()
                loss, bce, nll = (self.sums / REPORT_EVERY).tolist()
                self.sums.zero_()
                if self.engine.rank == 0:
                    self.history.add("train", self.step, {"loss": loss, "bce": bce, "nll": nll})
                    report(progress.line(self.step, loss))
            if self.step % self.settings.validate_every == 0 or self.step == self.settings.steps:
                self._require_finite()
                self._watch(self.validate(report), report)
            due = time.monotonic() - saved > self.settings.checkpoint_seconds
            code = self._agree(stop())
            if code is not None or due or self.done:
                self._require_finite()
                self.save()
                saved = time.monotonic()
            if code is not None:
                return code
        if self.best.weights:
            self.average.load_state_dict(self.best.weights)
        return ExitCode.OK

    @property
    def done(self) -> bool:
        """Whether nothing is left to train; the same on every rank."""
        return self.step >= self.settings.steps or self.best.over

    def _watch(self, values: dict[str, float] | None, report: Callable[[str], None]) -> None:
        """Take note of a validation of rank 0; all ranks then know whether patience has run out."""
        if self.best.patience == 0:
            return
        if values is not None:
            self.best.see(values, self.step, self.average.state_dict())
            if self.best.over:
                report(f"no better {self.best.monitor} since step {self.best.step}, whose weights are kept")
        self.best.stale = self.engine.any(self.best.stale if self.engine.rank == 0 else 0)

    def _require_finite(self) -> None:
        """Raise before a loss or a weight that is not finite reaches a checkpoint or a validation; on all ranks alike.

        A finite loss may have a gradient that is not, so that the loss alone does not tell.
        """
        checked = {
            "the loss is": self.sums[0],
            "the weights are": torch.stack([p.detach().sum() for p in self.parameters]),
        }
        for what, values in checked.items():
            if not bool(torch.isfinite(values).all()):
                raise ModelError(
                    f"{what} no longer finite at step {self.step}; the last checkpoint stands: "
                    "lower optimiser.lr and run again, or look for mocks that are not finite"
                )

    def _fill(self, stop: Callable[[], ExitCode | None]) -> ExitCode | None:
        """Make the mocks that the next step draws from; returns the stop that any rank asked for meanwhile."""
        for _ in self.stream.fill(self.step):
            if (code := self._agree(stop(), now=True)) is not None:
                return code
        return None

    def _agree(self, code: ExitCode | None, now: bool = False) -> ExitCode | None:
        """Return the stop that any rank asked for, the same on every rank; ranks ask one another now and then."""
        if self.engine.size == 1:
            return code
        if not now and self.step % AGREE_EVERY and self.step < self.settings.steps:
            return None
        flag = self.engine.any(int(code) if code is not None else 0)
        return ExitCode(flag) if flag else None

    def train_step(self) -> Tensor:
        """Do one step; returns (loss, cross entropy, posterior loss) of the global batch, (3,), detached."""
        settings = self.settings
        sample = self.stream(self.step)
        sample = augment(sample, settings.augmentation, settings.seed, self.step, self.stream.first, settings.batch)
        losses = self.losses(sample) * self.stream.weight
        self.optimiser.zero_grad(set_to_none=True)
        losses[0].backward()
        losses = self._average_gradients(losses.detach())
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.optimiser.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(settings, self.step)
        self.optimiser.step()
        self.step += 1
        self._move_average()
        return losses

    def losses(self, sample: Sample) -> Tensor:
        """Return what a step goes down, the cross entropy and the posterior's loss of an augmented sample, (3,)."""
        settings = self.settings
        with torch.no_grad():
            images, scalars = network_inputs(sample, settings.softening, self.pixel_scale, self.network.normalised)
        torch.manual_seed(rank_seed(settings.seed, self.step, self.engine.rank))
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            outcome = self.network(images, scalars)
        loss = bce = nll = torch.zeros((), device=outcome.logit.device)
        if self.network.scores:
            bce = classification_loss(outcome.logit, sample.is_lens, sample.vague)
            loss = training_loss(settings.optimiser, bce, outcome.logit, sample.is_lens, sample.vague)
        if self.network.regresses:
            nll = posterior_loss(self.network, outcome, sample.latent, sample.is_lens)
            own = self.network.own_loss(outcome, sample.latent, sample.is_lens)
            loss = loss + settings.optimiser.regression * (nll if own is None else own)
        return torch.stack([loss, bce, nll])

    def _average_gradients(self, losses: Tensor) -> Tensor:
        """Average the gradients, and behind them the losses, over the ranks as one flat tensor; returns the losses."""
        if self.engine.size == 1:
            return losses
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), losses])
        self.engine.average(flat)
        *parts, losses = flat.split([*(g.numel() for g in gradients), len(losses)])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return losses

    @torch.no_grad()
    def _move_average(self) -> None:
        decay = min(self.settings.optimiser.ema, (1 + self.step) / (10 + self.step))
        for slow, fast in zip(self.average.parameters(), self.parameters, strict=True):
            if fast.requires_grad:
                slow.lerp_(fast, 1 - decay)
        for kept, counted in zip(self.average.buffers(), self.network.buffers(), strict=True):
            kept.copy_(counted)

    @torch.no_grad()
    def validate(self, report: Callable[[str], None]) -> dict[str, float] | None:
        """Measure the averaged network on the validation mocks, and return the figures; rank 0 only."""
        if self.engine.rank != 0:
            return None
        if self._validation is None:
            self._validation = self._make_validation()
        values = self.measure(self._validation)
        self.history.add("valid", self.step, values)
        report("validation  " + "  ".join(f"{key} {value:.4f}" for key, value in values.items()))
        return values

    def measure(self, sample: Sample) -> dict[str, float]:
        """Return the figures of the averaged network on mocks."""
        return evaluate(self.average, sample, self.settings, self.pixel_scale)

    def save(self) -> None:
        """Write a checkpoint; rank 0 only."""
        if self.engine.rank != 0:
            return
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "recipe_digest": self.recipe_digest,
        }
        if self.best.patience:
            state["best"] = self.best.state()
        self.history.sync()
        save_checkpoint(self.folder / "checkpoint.pt", self.settings.digest, state)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; every rank reads it.

        Raises
        ------
        PlanMismatch
            If it belongs to other settings, or to another recipe.
        OutputError
            On every rank, if they read checkpoints of different steps, or one of other parameters.
        """
        path = self.folder / "checkpoint.pt"
        state = load_checkpoint(path, self.settings.digest)
        if self.engine.rank == 0:
            sweep_temporary(temporary_files(path))
        if state is not None:
            if state.get("recipe_digest", self.recipe_digest) != self.recipe_digest:
                raise PlanMismatch(
                    f"checkpoint {path} was trained on another recipe of this name; put the recipe back as it was, "
                    "or remove the folder, or give another output"
                )
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            try:
                self.optimiser.load_state_dict(state["optimiser"])
            except ValueError:
                raise OutputError(
                    f"checkpoint {path} is of another version of lensscan; remove it to start anew"
                ) from None
            self.step = int(state["step"])
            self.seconds = float(state["seconds"])
            self.sums.copy_(state["sums"])
            if "best" in state:
                self.best.restore(state["best"])
        self._require_same_step()
        if state is not None:
            log.info("resumed at step %d", self.step)
        if self.engine.rank == 0:
            self.history.resume(self.step)
            if self.settings.tensorboard:
                self.history.watch(self.step)

    def _require_same_step(self) -> None:
        """Raise on every rank if they are not at the same step: they would wait for one another for ever."""
        earliest, latest = -self.engine.any(-self.step), self.engine.any(self.step)
        if earliest != latest:
            raise OutputError(
                f"the ranks read steps from {earliest} to {latest} in {self.folder / 'checkpoint.pt'}: "
                "put -o where all nodes see the same files, or run again when they do"
            )


def evaluate(network: Network, sample: Sample, settings: TrainSettings, pixel_scale: float) -> dict[str, float]:
    """Return losses and headline metrics of a network on mocks, as far as both allow, without augmentation.

    Raises
    ------
    ModelError
        If a score is not finite.
    """
    outcomes = []
    for start in range(0, len(sample.images), VALIDATION_BATCH):
        rows = slice(start, start + VALIDATION_BATCH)
        part = sample.rows(rows)
        outcomes.append(network(*network_inputs(part, settings.softening, pixel_scale, network.normalised)))
    outcome = Outcome(*(torch.cat(parts) for parts in zip(*outcomes, strict=True)))
    logit, lens, values = outcome.logit, sample.is_lens, {}
    clear = torch.ones_like(lens) if sample.vague is None else ~sample.vague
    score, label = logit[clear].cpu().numpy(), lens[clear].cpu().numpy()
    if network.scores and not bool(torch.isfinite(logit).all()):
        wrong = int((~torch.isfinite(logit)).sum())
        raise ModelError(
            f"{wrong} of {len(logit)} validation mocks have scores that are not finite; the last checkpoint stands: "
            "lower optimiser.lr and run again, or look for mocks that are not finite"
        )
    if network.scores and label.any() and not label.all():
        values = {
            "bce": float(classification_loss(logit, lens, sample.vague)),  # over all rows, as in training
            "auroc": auroc(score, label),
            "tpr_2": tpr_at_fpr(score, label, 1e-2)[0],
            "tpr_3": tpr_at_fpr(score, label, 1e-3)[0],
        }
    if network.regresses and bool(lens.any()):
        error = torch.exp(_centre(network, outcome)[lens]) - torch.exp(sample.latent[lens, 0])
        quantile = torch.quantile(error, torch.tensor([0.16, 0.84], device=error.device))
        values["nll"] = float(posterior_loss(network, outcome, sample.latent, lens))
        if (own := network.own_loss(outcome, sample.latent, lens)) is not None:
            values["own"] = float(own)
        values["theta_E_68"] = float(quantile[1] - quantile[0]) / 2
    return values


def _centre(network: Network, outcome: Outcome) -> Tensor:
    """Return the middle of each posterior's log theta_E (n,): the mean of Gaussians, the median of a flow's samples."""
    if network.flow is None:
        return (torch.exp(outcome.log_weight) * outcome.mean[..., 0]).sum(dim=1)
    base = base_points(FLOW_SAMPLES).to(outcome.mean.device)
    return network.flow.sample(base, outcome)[..., 0].median(dim=1).values
