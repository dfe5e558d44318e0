"""Two hosts on one machine: network namespaces joined by a bridge, each with its own address and name."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launch import environment, mpiexec

AGENT = """#!/bin/bash
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec ip netns exec "$host" unshare --uts bash -c "hostname $host; $*"
"""


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def why_not() -> str:
    """Return why two hosts cannot be made here, empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs ip (iproute2) and unshare"
    probe = f"ls{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"network namespaces are not allowed here: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return ""


@dataclass
class TwoHosts:
    """Two namespaces; a context manager that removes what it made."""

    folder: Path

    def __post_init__(self) -> None:
        tag = os.getpid() % 10_000
        self.names = (f"lsa{tag}", f"lsb{tag}")
        self.bridge = f"lsbr{tag}"
        self.agent = self.folder / "agent.sh"

    def __enter__(self) -> TwoHosts:
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("link", "set", self.bridge, "up")
            for k, name in enumerate(self.names):
                ip("netns", "add", name)
                ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", f"v{name}", "master", self.bridge)
                ip("link", "set", f"v{name}", "up")
                ip("-n", name, "addr", "add", f"10.77.0.{k + 1}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
                etc = Path("/etc/netns") / name
                etc.mkdir(parents=True, exist_ok=True)
                lines = [f"10.77.0.{j + 1} {other}" for j, other in enumerate(self.names)]
                (etc / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            self.kill(name)
            # by itself: the kernel takes a namespace away when it likes, and the cable with it
            subprocess.run(["ip", "link", "del", f"v{name}"], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)

    def pids(self, name: str) -> list[int]:
        """Return the processes on a host."""
        done = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def kill(self, name: str) -> None:
        """Kill everything on a host at once, as when a node dies."""
        for pid in self.pids(name):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def start(self, command: list[str], ranks: int, ulfm: bool = False, fault: str = "") -> subprocess.Popen[str]:
        """Start a command under mpiexec over both hosts, ranks alternating; mpiexec itself is on the first."""
        first, second = self.names
        launcher = [mpiexec(), *(["--with-ft", "ulfm"] if ulfm else []), "--prtemca", "plm_ssh_agent", str(self.agent)]
        launcher += ["--host", f"{first}:{ranks},{second}:{ranks}", "-n", str(ranks), "--map-by", "node"]
        forwarded = {"OMP_NUM_THREADS": "1", "LENSSCAN_FAULT": fault}
        for name, value in forwarded.items():
            launcher += ["-x", f"{name}={value}"] if value else []
        quoted = " ".join(f"'{word}'" for word in [*launcher, *command])
        line = ["ip", "netns", "exec", first, "unshare", "--uts", "bash", "-c", f"hostname {first}; exec {quoted}"]
        return subprocess.Popen(
            line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def run_on(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command on one host, without a launcher."""
        quoted = " ".join(f"'{word}'" for word in command)
        line = ["ip", "netns", "exec", name, "unshare", "--uts", "bash", "-c", f"hostname {name}; {quoted}"]
        return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=110, check=False)
