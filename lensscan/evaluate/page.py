"""The report as one HTML page that holds its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from lensscan.candidates.positions import MODES
from lensscan.evaluate.anchors import gain_words
from lensscan.evaluate.detection import FPRS, cut_words
from lensscan.evaluate.detectionpage import completeness_body, detection_body, survey_body
from lensscan.evaluate.flows import LEVELS as FLOW
from lensscan.evaluate.galleries import KINDS
from lensscan.evaluate.images import ABOVE
from lensscan.evaluate.markup import STYLE, figure, note, number, picture, table, warning
from lensscan.evaluate.posteriors import PARAMETERS
from lensscan.evaluate.regression import CONVENTIONS, KEPT, LEVELS
from lensscan.evaluate.report import LIKELY, NATURAL
from lensscan.metrics.sampled import ks_noise

__all__ = ["anchor_table", "make_page"]

Report = Mapping[str, Any]


def make_page(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return the page of a report; `pictures` as of `lensscan.evaluate.plots.draw_plots`."""
    sections = {
        "published": ("Beside published figures", anchor_table(report)),
        "detection": ("Detection", detection_body(report, pictures)),
        "survey": ("In a survey", survey_body(report)),
        "completeness": ("Completeness and false positives", completeness_body(report, pictures)),
        "regression": ("Lens parameters", _regression(report, pictures)),
        "posterior": ("Calibration of the posterior", _posterior(report, pictures)),
        "images": ("Images and time delays", _images(report)),
        "compared": ("Compared with other models", _comparisons(report)),
        "gallery": ("Galleries", _galleries(report, pictures)),
        "set": ("Test set and provenance", _provenance(report)),
    }
    shown = {key: value for key, value in sections.items() if value[1]}
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in shown.items())
    bodies = [f'<section id="{key}"><h2>{title}</h2>{body}</section>' for key, (title, body) in shown.items()]
    return "\n".join(
        [_head(report, links), "<main>", _cards(report), *_notes(report), *bodies, "</main></body></html>\n"]
    )


def _head(report: Report, links: str) -> str:
    model, found = report["model"], report["testset"]
    title = f"{escape(model['name'])} on {escape(found['name'])}"
    kind = "sealed test set" if found["sealed"] else "not a sealed set: no result, for tuning and looking only"
    prior = f"{found['n_lens']:,} lenses, {found['n_other']:,} other objects"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<header><div><h1>{title}</h1><p>{prior}; {kind}; simulated, so nothing here is survey performance</p>"
        f"<nav>{links}</nav></div></header>"
    )


def _notes(report: Report) -> list[str]:
    """Return what the figures are to be read with."""
    return [warning(text) for text in report.get("notes", [])]


def _cards(report: Report) -> str:
    found, errors = report.get("detection", {}), report.get("regression", {})
    wanted = [
        ("AUROC", found.get("auroc")),
        ("TPR at FPR 0.01", found.get("tpr_at_fpr_0.01")),
        ("TPR at FPR 0.001", found.get("tpr_at_fpr_0.001")),
        ("theta_E, 68 % of errors below (arcsec)", errors.get("errors.theta_E.abs_68")),
        ("95 % regions cover, 7 parameters", errors.get("coverage.0.95.joint_7")),
        ("Expected calibration error", found.get("ece_prevalence_0.5")),
    ]
    cards = [f'<div class="card"><b>{number(v["value"])}</b>{escape(k)}</div>' for k, v in wanted if v]
    return f'<div class="cards">{"".join(cards)}</div>'


def anchor_table(report: Report) -> str:
    """Return the published figures beside those of a report, or nothing if there are none."""
    rows = [
        (
            f"{escape(row['paper'])}<br><small>{escape(row['source'])}</small>",
            escape(row["figure"]),
            ("" if row["published"] is None else number(row["published"]))
            + ("" if row["tag"] == "R" else f" [{row['tag']}]")
            + (f"<br><small>in steps of {row['resolution']:g}</small>" if row.get("resolution") else ""),
            figure(row["baseline"])
            + (f"<br><small>{escape(row['baseline_model'])}</small>" if row["baseline"] else ""),
            figure(row["ours"]),
            escape(gain_words(row)),
            escape(row["verdict"]),
        )
        for row in report.get("anchors", [])
    ]
    if not rows:
        return ""
    text = (
        "A set of the same name is not as hard as the paper's: a verdict needs the paper's own simplest model, trained "
        "in full and run again on this set, to reach what it reached there. Paired: both on the same resamples of the "
        "same galaxies; unpaired: as if on different ones, which is too wide."
    )
    return note(text) + table(
        ("", "figure", "published", "baseline, here", "this model", "over the baseline", ""), rows, frozenset({0, 1, 6})
    )


def _regression(report: Report, pictures: Mapping[str, bytes]) -> str:
    found = report.get("regression")
    if not found:
        return ""
    kinds = ("bias", "half_width_68", "abs_68", "half_width_95", "rms", "nmad", "r2")
    head = ("", "bias", "half-width 68 %", "68 % of |errors| below", "half-width 95 %", "rms", "NMAD", "R&sup2;")
    rows = [[name, *(figure(found[f"errors.{name}.{kind}"]) for kind in kinds)] for name in PARAMETERS]
    bare = report.get("omitted", {}).get("regression intervals")
    body = note(f"Few intervals: {escape(bare)}.") if bare else ""
    body += note(
        "Posterior medians minus truth, all true lenses; theta_E, x, y, sx, sy in arcsec; theta_E is the product "
        "average, e1, e2 = (1-q)/(1+q) (cos, sin) of twice the major axis' angle."
    ) + table(head, rows)
    body += "<h3>Outliers</h3>" + table(
        ("theta_E by 15 %", "e1 by 0.2", "e2 by 0.2", "x by a pixel", "y by a pixel"),
        [[figure(found[f"outliers.{name}"]) for name in PARAMETERS[:5]]],
    )
    body += "<h3>In the conventions of published tables</h3>" + note(
        "hezaveh2017: (1-q)(cos t, sin t) of the minor axis, its sign taken from the truth as in their table; "
        "one_minus_q: the same size as a spin-2 pair, without that help; holismokes4: (1-q&sup2;)/(1+q&sup2;), "
        "theta_E (1+q)/(2 sqrt q)."
    )
    rows = [
        [f"{convention}: {name}", *(figure(found[f"{convention}.{name}.{kind}"]) for kind in kinds),
         figure(found[f"gain_over_light.{convention}.{name}"])]
        for convention, names in CONVENTIONS.items()
        for name in names
    ]  # fmt: skip
    body += table((*head, "gain over light"), rows)
    body += "<h3>Against knowing nothing, and against the light alone</h3>" + note(
        "68 % half-widths: always guessing the prior's median; a linear fit to flux, colours, centroid and moments of "
        "the light; this model; this model without the tenth of the lenses with the largest stated error; the mean "
        "stated error. Gain over light: 1 - this model's half-width over that of the light alone, paired."
    )
    widths = (
        "prior.{}.half_width_68",
        "light.{}.half_width_68",
        "errors.{}.half_width_68",
        "selective.0.9.{}",
        "sharpness.{}",
        "gain_over_light.{}",
    )
    rows = [[name, *(figure(found[key.format(name)]) for key in widths)] for name in PARAMETERS]
    body += table(
        ("", "prior", "light alone", "this model", "without the worst tenth", "stated", "gain over light"), rows
    )
    body += picture(pictures, "truth", "predicted against true parameters")
    body += picture(pictures, "truth_conventions", "predicted against true ellipticities in other conventions")
    body += "<h3>68 % half-width without the most uncertain</h3>" + note(
        "The share with the largest stated errors is left out."
    )
    rows = [[name, *(figure(found[f"selective.{kept:g}.{name}"]) for kept in KEPT)] for name in PARAMETERS]
    body += table(("left out", *(f"{100 * (1 - kept):.0f} %" for kept in KEPT)), rows)
    return body + picture(pictures, "selective", "half-width against rejected fraction")


def _words(name: str) -> str:
    """Return a region's name as the table shows it."""
    for convention in ("holismokes", "one_minus_q"):
        if name.startswith(convention):
            return f"{convention}: {name[len(convention) + 1 :]}"
    return name.replace("joint_5", "first five, jointly").replace("joint_7", "all seven, jointly")


def _group_words(report: Report) -> str:
    """Return what the groups of lenses are."""
    text = (
        "Quad: four images or more. Outliers: theta_E by 15 %. Stated error: mean. PIT distance: Kolmogorov's, "
        "beside what 95 % of perfectly calibrated models stay below. Fewer than 20 galaxies have no intervals."
    )
    if "selected" in report["groups"]:
        text += f" Selected: what the score puts above {cut_words(next(iter(report['thresholds'])))}."
    elif reason := report.get("omitted", {}).get(f"tpr_at_fpr_{FPRS[0]:g}"):
        text += f" Selected: left out, {escape(reason)}."
    if LIKELY in report["groups"]:
        text += (
            f" {escape(LIKELY)}: as if every second object were a lens, which most lenses pass; no cut for a survey."
        )
    if NATURAL in report["groups"]:
        text += f" {escape(NATURAL)}: lenses drawn from the set so that theta_E is distributed as in its population."
    return text


def _posterior(report: Report, pictures: Mapping[str, bytes]) -> str:
    found = report.get("regression")
    if not found:
        return ""
    names = [*PARAMETERS, "joint_5", "joint_7", "holismokes_theta_E", "holismokes_ex", "holismokes_ey",
             "one_minus_q_ex", "one_minus_q_ey"]  # fmt: skip
    rows = [[_words(name), *(figure(found[f"coverage.{level:g}.{name}"]) for level in LEVELS)] for name in names]
    body = note(
        "Share of the truths inside the stated regions; joint: regions of highest density in latent space, of the "
        "first five and of all parameters (ellipsoids where the posterior is one Gaussian)."
    )
    body += table(("", *(f"{100 * level:g} %" for level in LEVELS)), rows)
    body += picture(pictures, "coverage", "coverage, PIT and TARP")
    body += note(
        "Grey: where 95 % of the largest deviations of a perfectly calibrated model stay (left, right), and 95 % of "
        f"its bins (middle). Largest distances from uniform, to be compared with {number(report['noise']['ks_95'])} "
        "(95 % of perfectly calibrated models stay below; resampled intervals of such distances lie high):"
    )
    keys = [f"pit_ks.{name}" for name in PARAMETERS] + ["tarp.joint_5.largest", "tarp.joint_7.largest"]
    body += table([*PARAMETERS, "TARP, 5", "TARP, 7"], [[figure(found[key]) for key in keys]])
    scores = [[figure(found[f"nll.{name}"]) for name in ("theta_E", "e1_e2", "joint_5", "joint_7")]]
    body += "<h3>Negative log likelihood (nats, physical units)</h3>" + table(
        ("theta_E", "e1, e2", "5 parameters", "7 parameters"), scores
    )
    body += _flow(report)
    body += "<h3>CRPS</h3>" + table(PARAMETERS, [[figure(found[f"crps.{name}"]) for name in PARAMETERS]])
    head = (
        "group",
        "lenses",
        "theta_E bias",
        "theta_E 68 %",
        "outliers",
        "e1 68 %",
        "x 68 %",
        "68 % cover: theta_E",
        "7 parameters",
        "95 %: theta_E",
        "7 parameters",
        "theta_E stated error",
        "theta_E PIT distance",
        "calibrated: up to",
    )
    keys = ["errors.theta_E.bias", "errors.theta_E.half_width_68", "outliers.theta_E", "errors.e1.half_width_68",
            "errors.x.half_width_68", "coverage.0.68.theta_E", "coverage.0.68.joint_7", "coverage.0.95.theta_E",
            "coverage.0.95.joint_7", "sharpness.theta_E", "pit_ks.theta_E"]  # fmt: skip
    rows = []
    for group, count in report["groups"].items():
        lead = "" if group == "all" else f"group.{group}."
        cells = [figure(found[lead + key]) for key in keys]
        rows.append([escape(group), f"{count:,}", *cells, number(ks_noise(report["group_galaxies"][group]))])
    return body + "<h3>By kind of lens</h3>" + note(_group_words(report)) + table(head, rows)


def _images(report: Report) -> str:
    found, systems = report.get("images"), report.get("image_systems")
    if not found or not systems:
        return ""
    body = note(
        "Images that the predicted lenses give, against those of the true ones, matched by order of arrival. "
        "posterior: lens and source predicted; first_image: the first image is known (HOLISMOKES IV, as we understand "
        "it); true_source: the source is known. Position (arcsec) and delay (fraction of the true one) of the later "
        "images of systems whose number of images is right: read them with the share beside."
        + ("" if systems["isothermal"] else " True masses are not isothermal; the true images are those of isothermal "
           "lenses with the same Einstein radius.")
    )  # fmt: skip
    keys = ("right_number", "dx.bias", "dx.half_width_68", "dy.bias", "dy.half_width_68", "delay.bias",
            "delay.half_width_68", "delay.inside_68")  # fmt: skip
    head = ("mode", "theta_E", "systems", "right number", "dx bias", "dx 68 %", "dy bias", "dy 68 %", "delay bias",
            "delay 68 %", "delays in their 68 %")  # fmt: skip
    rows = [
        (mode, "all" if name == "all" else f"> {above:g}", f"{systems[name]:,}",
         *(figure(found[f"{mode}.{name}.{key}"]) for key in keys))
        for mode in MODES
        for name, above in ABOVE.items()
        if systems[name]
    ]  # fmt: skip
    return body + table(head, rows)


def _flow(report: Report) -> str:
    """Return the figures of a normalising flow as such, beside those of the Gaussians that stand for it."""
    flow = report.get("flow")
    if not flow:
        return ""
    regions = [*PARAMETERS, "joint_7"]
    rows = [[f"{100 * level:g} %", *(figure(flow[f"coverage.{level:g}.{name}"]) for name in regions)] for level in FLOW]
    text = note(
        "All other figures are of the Gaussians that a catalog has for it, recalibrated; these are the flow's own. "
        f"Negative log likelihood of all seven: {figure(flow['nll.joint_7'])} nats, lower than the Gaussians' by "
        f"{figure(flow['gained.joint_7'])}."
    )
    return "<h3>The normalising flow itself</h3>" + text + table(("", *map(_words, regions)), rows)


def _comparisons(report: Report) -> str:
    rows = [
        (escape(row["other"]), escape(row["figure"]), figure(row["theirs"]), figure(row),
         "yes" if (row["low"] or 0) > 0 or (row["high"] or 0) < 0 else "no")
        for row in report.get("comparisons", [])
    ]  # fmt: skip
    if not rows:
        return ""
    text = note("This model minus the other, on the same resamples of the same galaxies.")
    return text + table(("other model", "figure", "theirs", "difference", "beyond chance"), rows, frozenset({1}))


def _galleries(report: Report, pictures: Mapping[str, bytes]) -> str:
    body = ""
    for kind, words in KINDS.items():
        if kind in pictures:
            body += f"<h3>{words}</h3>" + picture(pictures, kind, words)
    if not body:
        return ""
    cut = cut_words(next(iter(report["thresholds"])))
    captions = "Captions: calibrated logit, class; true and predicted theta_E, S/N of the arcs."
    return note(f"Threshold: {cut}. {captions}") + body


def _opening(found: Mapping[str, Any]) -> str:
    """Return weights, time and, unless the report is too old to know, views of one measurement."""
    views = f", views {found['views']}" if "views" in found else ""
    return f"{found['hash'][:12]}, {found['time']}{views}"


def _provenance(report: Report) -> str:
    model, found, software = report["model"], report["testset"], report["software"]
    rows = [(f"model {key}", escape(str(value))) for key, value in model.items() if key != "training"]
    rows += [(f"set {key}", escape(str(value))) for key, value in found.items() if key not in ("prior", "classes")]
    rows += [(f"set: {key}", f"{value:,}") for key, value in found.get("classes", {}).items()]
    rows += [(f"set: prior of {key}, 5, 50, 95 %", ", ".join(number(v) for v in value))
             for key, value in found["prior"].items()]  # fmt: skip
    rows += [(key, escape(str(value))) for key, value in software.items()]
    rows += [(f"opening {k + 1}", escape(_opening(each)))
             for k, each in enumerate(report["opened"])]  # fmt: skip
    trained = {"training": model.get("training"), "baseline": (report.get("baseline") or {}).get("training")}
    rows += [
        (f"{what} {key}", escape(str(value))) for what, each in trained.items() for key, value in (each or {}).items()
    ]
    warn = ""
    versions, times = len({each["hash"] for each in report["opened"]}), len(report["opened"])
    if times > 1:
        text = f"The set has been opened {times} times for these weights: choose nothing by it."
        if versions > 1:
            text = f"{versions} versions of this model have been measured on this set: it is no longer unseen."
        warn = f'<p class="warn">{text}</p>'
    return warn + table(("", ""), rows, frozenset({1}))
