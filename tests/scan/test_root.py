"""Root keeps talking to the other ranks, whatever it is busy with."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from lensscan.errors import ExitCode
from lensscan.mpi import World
from lensscan.scan import root as root_module
from lensscan.scan import run as run_module
from lensscan.scan import shards
from lensscan.scan.engine import gpu_number
from lensscan.scan.protocol import Kind, Message
from lensscan.scan.root import Root
from lensscan.scan.scheduler import Scheduler
from lensscan.scan.settings import ScanSettings
from lensscan.scan.signals import StopRequest


class Listening(World):
    """Two ranks, of which the other one only listens."""

    def __init__(self):
        super().__init__(rank=0, size=2)
        self.heard = []

    def send(self, rank, payload, text=False):
        self.heard.append(Message.unpack(payload).kind)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(root_module, "BEAT_SECONDS", 0.01)
    settings = ScanSettings("catalog.fits", "tiny", "packs:p", ("m",), str(tmp_path / "out.h5"))
    root = Root(Listening(), settings, StopRequest(), lambda: None)
    root.enter()
    yield root
    root.runlog.close()
    root.lock.release()


class Plan:
    """All that the ledger asks of a plan."""

    plan_hash = "x"

    def block_rows(self):
        return [(0, 0, 1)]


def wait_for_beats(root):
    """Take long, until a beat was sent; in the thread that sends them it would never come."""
    deadline = time.monotonic() + 5
    while Kind.BEAT not in root.world.heard and time.monotonic() < deadline:
        time.sleep(0.01)


def test_ranks_hear_of_root_while_it_verifies_shards(root, monkeypatch):
    """A hundred gigabytes of shards take longer than the silence after which a rank gives up."""

    def verify(*where):
        wait_for_beats(root)
        return {0}, ["shard 1: damaged"]

    monkeypatch.setattr(shards, "done_blocks", verify)
    assert root.ledger(Plan()) == {0}
    assert Kind.BEAT in root.world.heard


def test_a_stop_is_heeded_while_root_verifies_shards(root, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(shards, "done_blocks", lambda *where: go_on.wait(20) and (set(), []))
    root.stop.code = ExitCode.INCOMPLETE
    try:
        assert root.ledger(Plan()) is None
        assert root.abandoned
    finally:
        go_on.set()


def test_ranks_hear_of_root_while_it_reads_models_and_a_finished_output(root, monkeypatch):
    """What is found out before the lock is taken may take as long as a plan: the catalog may have to be read again."""

    class Planner:
        def __init__(self, settings, announce):
            wait_for_beats(root)
            seen.append(Kind.BEAT in root.world.heard)

    def finished(*what):
        root.world.heard.clear()
        wait_for_beats(root)
        seen.append(Kind.BEAT in root.world.heard)
        return int(ExitCode.OK)

    seen = []
    monkeypatch.setattr("lensscan.scan.planning.Planner", Planner)
    monkeypatch.setattr(run_module, "merge_settings", lambda *what: {})
    monkeypatch.setattr(run_module, "finished_output", finished)
    assert run_module._scan(root, root.settings, []) == ExitCode.OK
    assert seen == [True, True]


def test_ranks_hear_of_root_while_it_removes_the_run_folder(root, monkeypatch):
    monkeypatch.setattr(root_module, "BEAT_SECONDS", 0.0)
    run_dir = root.settings.run_dir
    (run_dir / "plan.h5").write_text("x")
    for name in ("00", "01", "02"):
        (run_dir / "shards" / name).mkdir()
        (run_dir / "shards" / name / "B000000.h5").write_text("x")
    root.leave(ExitCode.OK, remove=True)
    assert root.world.heard == [Kind.BEAT] * 3 + [Kind.EXIT]
    assert not run_dir.exists()


@pytest.mark.parametrize("needed,warned", [(10**9, False), (10**9 + 1, True)])
def test_a_disk_too_small_for_the_scan_is_told_before_it(root, monkeypatch, capsys, needed, warned):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**9))
    run_module._look_at_space(root, needed)
    assert ("1 GB are free" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    "gpus,warned", [((0, 0, 0), []), ((5, 6, 7), []), ((5, 6, 5), ["0 and 2"]), ((5, 6, 6, 5, 5), ["1 and 2"])]
)
def test_ranks_that_share_a_gpu_are_told_once(root, capsys, gpus, warned):
    root._scheduler = Scheduler([0] * 9, set(), expected=len(gpus))
    for rank, gpu in [*enumerate(gpus), *enumerate(gpus)]:
        root._on_message(Message(Kind.READY, rank, code=1, rows=gpu))
    said = [line for line in capsys.readouterr().err.splitlines() if "share a GPU" in line]
    assert len(said) == len(warned)
    assert all(f"ranks {ranks} share" in line for ranks, line in zip(warned, said, strict=True))


def test_every_gpu_has_a_number_of_its_own(monkeypatch):
    uuids = iter(["8b2c", "8b2d", "8b2c"])
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: SimpleNamespace(uuid=next(uuids)))
    first, second, again = (gpu_number("cuda") for _ in range(3))
    assert first == again != second
    assert all(0 < number < 1 << 63 for number in (first, second))
    assert gpu_number("cpu") == 0
