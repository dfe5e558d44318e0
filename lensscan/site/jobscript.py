"""Job scripts for supercomputers: the shipped ones of ``jobs/``, filled in.

The shipped files are complete scripts; filling in replaces the values of their directives and of their
``RUN``, ``OUT``, ``BIN`` and ``WALLTIME`` lines, for a training also that of the command, and nothing else.
"""

from __future__ import annotations

import difflib
import importlib.resources
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from lensscan.config import find, read_toml
from lensscan.errors import ConfigError
from lensscan.scan.settings import ScanSettings

__all__ = ["Job", "folder", "render", "sites"]

SUFFIXES = (".sbatch", ".pbs")
SHORTEST = 600
SCAN, TRAIN = 'lensscan scan "$RUN"', 'lensscan train "$RUN" -o "$OUT"'

# what a job may set, as (pattern, replacement) on the lines of a Slurm and of a PBS script
SLURM = {
    "nodes": (r"^#SBATCH --nodes=.*$", "#SBATCH --nodes={}"),
    "time": (r"^#SBATCH --time=.*$", "#SBATCH --time={}"),
    "account": (r"^#SBATCH --account=.*$", "#SBATCH --account={}"),
    "queue": (r"^#SBATCH --(?:qos|partition)=.*$", "#SBATCH --{key}={}"),
}
PBS = {
    "nodes": (r"^#PBS -l select=\d+", "#PBS -l select={}"),
    "time": (r"^#PBS -l walltime=.*$", "#PBS -l walltime={}"),
    "account": (r"^#PBS -A .*$", "#PBS -A {}"),
    "queue": (r"^#PBS -q .*$", "#PBS -q {}"),
}


@dataclass(frozen=True, slots=True)
class Job:
    """What a job script is filled in with; None leaves the shipped value.

    Attributes
    ----------
    nodes : int
        Number of nodes.
    time : str
        Wall time, ``HH:MM:SS``.
    run : Path
        The scan's RUN.toml; its ``output`` is the file that the script verifies.
    train : str
        Instead of `run`, a training: shipped name or TOML file.
    output : str
        Its model file; default ``<name>.safetensors``.
    account, queue : str
        The project to charge; the queue, quality of service or partition.
    """

    nodes: int | None = None
    time: str | None = None
    run: Path | None = None
    account: str | None = None
    queue: str | None = None
    train: str | None = None
    output: str | None = None


def folder() -> Path:
    """Return the folder of the shipped job scripts."""
    return Path(str(importlib.resources.files("lensscan") / "jobs"))


def sites() -> dict[str, Path]:
    """Return the shipped job scripts by site name."""
    return {path.stem: path for path in sorted(folder().iterdir()) if path.suffix in SUFFIXES}


def render(site: str, job: Job) -> str:
    """Return the job script of a site, filled in.

    Parameters
    ----------
    site : str
        One of `sites`.
    job : Job
        The values to fill in.

    Raises
    ------
    ConfigError
        For an unknown site, a malformed wall time, a file that cannot be read or that the command would refuse, or a
        scan and a training at once.
    """
    known = sites()
    if site not in known:
        close = difflib.get_close_matches(site, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
        raise ConfigError(f"--site: no job script for {site!r}; {hint}")
    path = known[site]
    text = path.read_text(encoding="utf-8")
    directives = SLURM if path.suffix == ".sbatch" else PBS
    for name, value in _values(job).items():
        text = _set_directive(text, *directives[name], value)
    if job.time is not None:
        text = _set_variable(text, "WALLTIME", job.time)
    if job.run is not None:
        text = _set_variable(text, "RUN", str(job.run))
        text = _set_variable(text, "OUT", _output_of(job.run))
    if job.train is not None:
        model = _model_of(job.train)
        text = _set_variable(text, "RUN", job.train)
        text = _set_variable(text, "OUT", job.output or model).replace(SCAN, TRAIN)
    return _set_variable(text, "BIN", str(Path(sys.executable).parent))


def _values(job: Job) -> dict[str, str]:
    if job.nodes is not None and job.nodes < 1:
        raise ConfigError(f"--nodes: {job.nodes} is not a number of nodes; give 1 or more")
    if job.time is not None:
        _check_time(job.time)
    if job.run is not None and job.train is not None:
        raise ConfigError("--run and --train: a job does one of them; leave one out")
    if job.output is not None and job.train is None:
        raise ConfigError("--output: goes with --train; a scan's output stands in its RUN.toml")
    for name in ("account", "queue"):
        word = getattr(job, name)
        if word is not None and not re.fullmatch(r"[\w.@:+-]+", word):
            raise ConfigError(f"--{name}: {word!r} is not one word; give the name that the scheduler knows")
    found = {"nodes": job.nodes, "time": job.time, "account": job.account, "queue": job.queue}
    return {name: str(value) for name, value in found.items() if value is not None}


def _check_time(time: str) -> None:
    match = re.fullmatch(r"(\d{1,3}):([0-5]\d):([0-5]\d)", time)
    if match is None:
        raise ConfigError(f"--time: {time!r} is not HH:MM:SS; write for example 02:00:00")
    hours, minutes, seconds = map(int, match.groups())
    if hours * 3600 + minutes * 60 + seconds < SHORTEST:
        raise ConfigError(
            f"--time: {time} is too short, the last five minutes are kept for an orderly stop; give 00:10:00 or more"
        )


def _output_of(run: Path) -> str:
    """Return what a scan writes; its file is checked whole: a job should not wait in the queue to be refused."""
    return ScanSettings.from_mapping(read_toml(run), str(run)).output


def _model_of(train: str) -> str:
    """Return what a training writes unless it is told otherwise; its file is checked whole, as a scan's is."""
    from lensscan.train.settings import TrainSettings  # loads torch

    path = find("training", train)
    return f"{TrainSettings.from_mapping(read_toml(path), str(path)).name}.safetensors"


def _set_directive(text: str, pattern: str, replacement: str, value: str) -> str:
    """Replace the directive's value; where the script has none, add the directive after the first."""
    match = re.search(pattern, text, re.MULTILINE)
    key = "partition"
    if match is not None:
        key = "qos" if "--qos=" in match.group() else key
        return text[: match.start()] + replacement.format(value, key=key) + text[match.end() :]
    first = re.search(r"^#(SBATCH|PBS) .*\n", text, re.MULTILINE)
    at = first.end() if first else 0
    return text[:at] + replacement.format(value, key=key) + "\n" + text[at:]


def _set_variable(text: str, name: str, value: str) -> str:
    return re.sub(rf"^{name}=.*$", lambda _: f"{name}={shlex.quote(value)}", text, count=1, flags=re.MULTILINE)
