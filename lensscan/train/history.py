"""The history of a training: JSON lines that grow, the curves as PNG, and the progress line."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lensscan.errors import ConfigError
from lensscan.files import replacing
from lensscan.render.curves import Curve, Panel, plot_panels

__all__ = ["History", "Progress", "require_tensorboard"]

PANELS = {
    "loss, all terms": {"training": ("train", "loss")},
    "cross entropy (nats)": {"training": ("train", "bce"), "validation": ("valid", "bce")},
    "posterior loss (nats)": {"training": ("train", "nll"), "validation": ("valid", "nll")},
    "validation": {"AUROC": ("valid", "auroc"), "TPR at FPR 1e-2": ("valid", "tpr_2")},
    "theta_E, 68 % half-width (arcsec)": {"validation": ("valid", "theta_E_68")},
    "PSNR of the images (dB)": {"denoised": ("valid", "psnr_denoise"), "deblended": ("valid", "psnr_deblend")},
}
"""What is drawn of a training: label of the axis, name of each curve, kind and key of its records."""


def require_tensorboard() -> None:
    """Raise a `ConfigError` unless TensorBoard's files can be written."""
    _summary_writer()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"tensorboard = true needs the package tensorboard, which cannot be imported ({error}); "
            "install the extra tensorboard or leave it out"
        ) from None
    return SummaryWriter


@dataclass(slots=True)
class History:
    """Records of a training in a file of JSON lines, each with its ``step`` and ``kind``.

    Attributes
    ----------
    path : Path
    records : list of dict
    board : SummaryWriter, or None
        TensorBoard's, which gets the same records; see `watch`.
    """

    path: Path
    records: list[dict[str, float | str]] = field(default_factory=list)
    board: Any = None

    def watch(self, step: int) -> None:
        """Write records beyond `step` for TensorBoard too, into the file's folder; what was beyond it is hidden."""
        self.board = _summary_writer()(str(self.path.parent), purge_step=step + 1)

    def resume(self, step: int) -> None:
        """Read the file and drop what lies beyond `step`, which will be done again."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.records = []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if record["step"] <= step:
                self.records.append(record)
        with replacing(self.path, sync=False) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")

    def add(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append a record."""
        record: dict[str, float | str] = {"kind": kind, "step": step, **values}
        self.records.append(record)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)
            self.board.flush()

    def sync(self) -> None:
        """Make the lines so far last through a crash of the machine: a checkpoint says that they are past."""
        if self.path.exists():
            with open(self.path, "rb") as stream:
                os.fsync(stream.fileno())

    def column(self, kind: str, key: str) -> tuple[list[float], list[float]]:
        """Return steps and values of one quantity."""
        chosen = [record for record in self.records if record["kind"] == kind and key in record]
        return [float(record["step"]) for record in chosen], [float(record[key]) for record in chosen]

    def plot(self, path: Path, title: str) -> None:
        """Draw the curves, as far as there are any: what a training or stage does not learn stays at zero."""
        panels = [self._panel(label, curves) for label, curves in PANELS.items()]
        plot_panels([panel for panel in panels if panel.curves] or panels, path, title=title)

    def _panel(self, label: str, curves: Mapping[str, tuple[str, str]]) -> Panel:
        columns = {name: self.column(kind, key) for name, (kind, key) in curves.items()}
        drawn = [Curve(name, x, y, "-" if len(x) > 1 else "o") for name, (x, y) in columns.items() if np.any(y)]
        return Panel(tuple(drawn), xlabel="step", ylabel=label)


@dataclass(slots=True)
class Progress:
    """Speed and time to go, for the progress line."""

    total: int
    batch: int
    begun: int = 0
    start: float = field(default_factory=time.monotonic)

    def line(self, step: int, loss: float) -> str:
        """Return the progress line at a step."""
        seconds = time.monotonic() - self.start
        rate = (step - self.begun) / seconds if seconds > 0 else math.nan
        left = (self.total - step) / rate if rate > 0 else math.inf
        clock = f"{int(left // 3600)}:{int(left % 3600 // 60):02d}:{int(left % 60):02d}" if left < 1e7 else "?"
        return f"step {step}/{self.total}  loss {loss:.4f}  {rate * self.batch:.0f} images/s  ETA {clock}"
