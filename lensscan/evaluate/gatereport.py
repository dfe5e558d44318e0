"""What the realism gate says: the printed table, the JSON file and the pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lensscan.evaluate.probes import Probe, Verdict
from lensscan.evaluate.realism import FPR, RECALL_LIMIT, Realism
from lensscan.evaluate.samples import LIKE_REAL
from lensscan.evaluate.written import header, write_all
from lensscan.metrics.bootstrap import Estimate
from lensscan.render.gates import ProbePoint, logit_diagram, probe_diagram

__all__ = ["failing", "lines", "report", "write_realism"]
LARGEST = 6


def lines(found: Realism) -> list[str]:
    """Return the printed table, its last line naming everything that leaks or fails."""
    recipe, check = found.settings.recipe, found.model
    text = [f"lens or not, among {found.settings.n} mocks of {recipe.name}"]
    text += [_probe_line(probe) for probe in found.lens_or_not]
    if found.n_stamps:
        text.append(
            f"mock or real: {found.n_stamps} real stamps against {found.matched} mocks of class {LIKE_REAL} as bright"
        )
        text += [_probe_line(probe) for probe in found.mock_or_real]
        text.append("  largest differences (median real, median mock, in units of the mocks' scatter)")
        for name, (real, mock, shift) in list(found.shifts.items())[:LARGEST]:
            text.append(f"    {name:32s} {real:8.2f} {mock:8.2f} {shift:+8.2f}")
    if check is not None:
        text.append(f"model {found.settings.model.card.name}" if found.settings.model else "model")
        text.append(f"  {'threshold at mock FPR 0.01':34s} {_figure(check.threshold, 2)} logit")
        verdict = "passes" if check.above <= check.allowed else "fails"
        rate = f"{check.above} of {check.n} [{check.rate[0]:.3f}, {check.rate[1]:.3f}]"
        text.append(f"  {'real stamps above it':34s} {rate:24s} limit {check.allowed:<5d} {verdict}")
        if check.recall is None:
            text.append("  no mock lens is like the painted ones: recalls cannot be compared")
        else:
            recall = check.recall
            text.append(f"  {'recall, painted on real stamps':34s} {_figure(recall.painted)}")
            text.append(f"  {'recall, mocks of equal theta_E, S/N':34s} {_figure(recall.mock)}")
            judged = Verdict.within(recall.difference, RECALL_LIMIT).text("passes", "fails")
            text.append(f"  {'difference':34s} {_figure(recall.difference):24s} limit {RECALL_LIMIT:<5.2f} {judged}")
    faults = failing(found)
    return [*text, "leaks or fails: " + ("; ".join(faults) if faults else "nothing that was asked")]


def _figure(estimate: Estimate, digits: int = 3) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _probe_line(probe: Probe) -> str:
    verdict = probe.verdict
    asked = "" if verdict is None else f"limit {probe.limit:<5.2f} {verdict.text('passes', 'leaks')}"
    return f"  {probe.name:34s} {_figure(probe.auroc):24s} {asked}".rstrip()


def failing(found: Realism) -> list[str]:
    """Return everything that leaks or fails, in words."""
    faults = [f"lens or not: {each.name}" for each in found.lens_or_not if each.verdict and not each.verdict.kept]
    faults += [f"mock or real: {each.name}" for each in found.mock_or_real if each.verdict and not each.verdict.kept]
    if found.model is not None:
        if found.model.above > found.model.allowed:
            faults.append("model: real stamps above the threshold")
        recall = found.model.recall
        if recall is not None and not Verdict.within(recall.difference, RECALL_LIMIT).kept:
            faults.append("model: recall of painted lenses")
    return faults


def report(found: Realism) -> dict[str, Any]:
    """Return the whole result as plain values."""
    settings, check = found.settings, found.model
    canvas = settings.recipe.canvas
    result: dict[str, Any] = {
        **header("realism", settings.n, settings.seed, settings.replicates, settings.recipe),
        "stamps": dataclasses.asdict(canvas) | {"n": found.n_stamps, "left_out": found.left_out},
        "matched": {"class": LIKE_REAL, "n": found.matched, "median_difference_mag": found.mismatch},
        "lens_or_not": [_probe_values(probe) for probe in found.lens_or_not],
        "mock_or_real": [_probe_values(probe) for probe in found.mock_or_real],
        "differences": {
            name: dict(zip(("real", "mock", "shift"), values, strict=True)) for name, values in found.shifts.items()
        },
        "failing": failing(found),
    }
    if settings.model is not None:
        result["model"] = {"name": settings.model.card.name, "hash": settings.model.card.hash}
    if check is not None:
        result["check"] = {
            "fpr": FPR,
            "threshold": _values(check.threshold),
            "real_above": {"value": check.above, "n": check.n, "allowed": check.allowed, "rate": check.rate},
        }
        if check.recall is not None:
            recall = check.recall
            figures = {name: _values(getattr(recall, name)) for name in ("painted", "mock", "difference")}
            names = ("painted_theta_E", "painted_snr", "mock_theta_E", "mock_snr")
            result["check"]["recall"] = figures | {
                "limit": RECALL_LIMIT,
                "share_compared": recall.share,
                "effective_mocks": recall.effective,
                "means": dict(zip(names, recall.means, strict=True)),
            }
    return result


def _values(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _probe_values(probe: Probe) -> dict[str, Any]:
    verdict = probe.verdict
    stated = {} if verdict is None else {"kept": verdict.kept, "certain": verdict.certain}
    return {"probe": probe.name, "limit": probe.limit} | _values(probe.auroc) | stated


def write_realism(found: Realism, folder: Path, plots: bool = True) -> list[Path]:
    """Write the JSON file and, with `plots`, the pictures; return their paths."""
    name = found.settings.recipe.name
    if found.settings.model is not None:
        name = f"{found.settings.model.card.name}--{name}"
    stem = folder / f"realism--{name}"
    if not plots:
        return write_all(stem, report(found))
    panels = {"lens or not, among the mocks": found.lens_or_not, "mock or real": found.mock_or_real}
    points = {
        title: [ProbePoint(each.name, each.auroc.value, each.auroc.low, each.auroc.high, each.limit) for each in probes]
        for title, probes in panels.items()
        if probes
    }
    pictures = {"probes": probe_diagram(points)}
    if found.model is not None:
        title = f"{name}: {found.model.above} of {found.model.n} real stamps above the threshold"
        pictures["logits"] = logit_diagram(found.model.logits, found.model.threshold.value, title)
    return write_all(stem, report(found), pictures=pictures)
