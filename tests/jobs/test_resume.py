"""The job scripts, run with a fake launcher that dies, lies and is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lensscan.nets.model import make_trivial

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SITES = sorted(path.name for path in JOBS.iterdir() if path.suffix in (".sbatch", ".pbs"))

# Takes the next line "CODE [done]" of ./script; "done" makes the output, "wait" stays until USR1 and leaves with 75.
LAUNCHER = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>calls
n=$(wc -l <calls)
read -r code what <<<"$(sed -n "${n}p" script)"
if [ "$what" = done ]; then touch OUT.h5; fi
if [ "$what" = wait ]; then
    trap 'echo stopped >>signals; exit 75' USR1
    touch waiting
    for _ in $(seq 200); do sleep 0.05; done
fi
if [ "$what" = killed ]; then kill -9 $$; fi
exit "$code"
"""
LENSSCAN = f"""#!/usr/bin/env bash
case $1 in
    jobscript) echo {JOBS} ;;
    verify) test -e "$2" ;;
    *) echo "lensscan was started without the launcher" >&2; exit 1 ;;
esac
"""
REQUEUE = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>requeued
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A folder that looks like a cluster to a job script."""

    folder: Path

    def start(self, command: list[str], attempts: list[str], **env: str) -> subprocess.Popen[str]:
        (self.folder / "script").write_text("".join(f"{line}\n" for line in attempts))
        (self.folder / "nodes").write_text("node1\nnode1\nnode2\nnode2\n")
        environment = {
            "PATH": f"{self.folder}/.venv/bin:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "USER": "astronomer",
            "LENSSCAN_PAUSE": "0",
            "SLURM_JOB_ID": "17",
            "PBS_JOBID": "18",
            "PBS_NODEFILE": str(self.folder / "nodes"),
            "PBS_O_WORKDIR": str(self.folder),
        }
        return subprocess.Popen(
            command, cwd=self.folder, env=environment | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in {
        "srun": LAUNCHER,
        "mpiexec": LAUNCHER,
        "lensscan": LENSSCAN,
        "scontrol": REQUEUE,
        "qsub": REQUEUE,
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return Site(tmp_path)


def resume(site: Site, *attempts: str, **env: str) -> tuple[int, str]:
    command = ["bash", str(JOBS / "resume.sh"), "OUT.h5", "srun", "lensscan", "scan", "RUN.toml"]
    process = site.start(command, list(attempts), **env)
    text, _ = process.communicate(timeout=60)
    return process.returncode, text


@pytest.mark.parametrize(
    ("attempts", "code", "calls"),
    [
        (["0 done"], 0, 1),
        (["3 done"], 3, 1),
        (["0", "0 done"], 0, 2),  # a whole host died: mpiexec says 0, work is missing
        (["1", "137", "0 done"], 0, 3),
        (["0 killed", "0 done"], 0, 2),
        (["1 done", "0"], 0, 2),  # an old output of another plan verifies, but this command failed
        (["2", "0 done"], 2, 1),
        (["74", "0 done"], 74, 1),
        (["130", "0 done"], 130, 1),
        (["75", "0 done"], 75, 1),
        (["0"] * 9, 75, 3),
        (["1"] * 9, 1, 3),
    ],
)
def test_exit_codes(site: Site, attempts: list[str], code: int, calls: int) -> None:
    got, text = resume(site, *attempts, LENSSCAN_ATTEMPTS="3")
    assert got == code, text
    assert len(site.lines("calls")) == calls, text


def test_missing_work_is_said(site: Site) -> None:
    _, text = resume(site, "0", "0 done")
    assert "the launcher returned 0, but OUT.h5 does not verify: work is missing" in text


def stop_while_running(site: Site, command: list[str], number: signal.Signals, **env: str) -> tuple[int, str]:
    process = site.start(command, ["0 wait"], **env)
    deadline = time.monotonic() + 30
    while not (site.folder / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    return process.returncode, text


def test_usr1_stops_in_order_and_goes_back_to_the_queue(site: Site) -> None:
    command = ["bash", str(JOBS / "resume.sh"), "OUT.h5", "srun", "lensscan", "scan", "RUN.toml"]
    code, text = stop_while_running(site, command, signal.SIGUSR1, LENSSCAN_REQUEUE="scontrol requeue 17")
    assert code == 75, text
    assert site.lines("signals") == ["stopped"]
    assert site.lines("requeued") == ["scontrol requeue 17"]


def test_term_stops_in_order_and_leaves_the_queue_alone(site: Site) -> None:
    command = ["bash", str(JOBS / "resume.sh"), "OUT.h5", "srun", "lensscan", "scan", "RUN.toml"]
    code, text = stop_while_running(site, command, signal.SIGTERM, LENSSCAN_REQUEUE="scontrol requeue 17")
    assert code == 75, text
    assert site.lines("signals") == ["stopped"]
    assert site.lines("requeued") == []


def test_the_queue_is_asked_a_limited_number_of_times(site: Site) -> None:
    env = {"LENSSCAN_REQUEUE": "scontrol requeue 17", "LENSSCAN_RESTART_LIMIT": "2"}
    assert resume(site, "75", LENSSCAN_RESTARTS="1", **env)[0] == 75
    assert len(site.lines("requeued")) == 1
    (site.folder / "calls").unlink()
    code, text = resume(site, "75", LENSSCAN_RESTARTS="2", **env)
    assert code == 75
    assert len(site.lines("requeued")) == 1, text


def test_wall_time_becomes_max_seconds(site: Site) -> None:
    assert resume(site, "1", "0 done", LENSSCAN_WALL="3000")[0] == 0
    for line in site.lines("calls"):
        seconds = int(line.rpartition("--max-seconds ")[2])
        assert 2900 < seconds <= 3000


def test_no_attempt_is_begun_when_the_time_is_up(site: Site) -> None:
    assert resume(site, "0 done", LENSSCAN_WALL="20")[0] == 75
    assert site.lines("calls") == []


@pytest.mark.parametrize("name", SITES)
def test_site_script_resumes_when_the_launcher_lies(site: Site, name: str) -> None:
    process = site.start(["bash", str(JOBS / name)], ["0", "0 done"])
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    calls = site.lines("calls")
    assert len(calls) == 2, text
    assert all("lensscan scan RUN.toml" in line for line in calls)
    if name.endswith(".pbs"):
        ranks = {"pbs.pbs": 4, "polaris.pbs": 8}[name]
        assert f"mpiexec -n {ranks} " in calls[0]


@pytest.mark.parametrize("name", SITES)
def test_site_script_requeues_on_usr1(site: Site, name: str) -> None:
    code, text = stop_while_running(site, ["bash", str(JOBS / name)], signal.SIGUSR1)
    assert code == 75, text
    assert site.lines("signals") == ["stopped"]
    (line,) = site.lines("requeued")
    if name.endswith(".sbatch"):
        assert line == "scontrol requeue 17"
    else:
        assert line == f"qsub -v LENSSCAN_RESTARTS=1 {JOBS / name}"


@pytest.mark.parametrize(("whole", "code"), [(True, 0), (False, 75)])
def test_a_training_is_done_when_its_model_can_be_loaded(tmp_path, whole, code):
    model = tmp_path / "m.safetensors"
    make_trivial(("g",), 16, 0.2).save(model)
    if not whole:
        os.truncate(model, model.stat().st_size - 1)
    environment = {**os.environ, "LENSSCAN_ATTEMPTS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    line = ["bash", str(JOBS / "resume.sh"), str(model), "true"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stdout
    assert ("does not verify" in done.stdout) != whole
