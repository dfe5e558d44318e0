"""Where the ranks of a job landed: node, cores and device of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

from lensscan import process
from lensscan.mpi import World
from lensscan.site.outcome import Check, Outcome

__all__ = ["check_ranks"]

SECONDS = 60.0


def check_ranks(world: World) -> Iterator[Check]:
    """Tell root where every rank is; on the other ranks, and without a launcher, yield nothing.

    Parameters
    ----------
    world : World
        From `lensscan.mpi.start`.
    """
    if world.size == 1:
        return
    mine = placement(world)
    if world.rank != 0:
        world.send(0, json.dumps(mine).encode(), text=True)
        world.flush(SECONDS)
        return
    found = {0: mine} | receive_all(world)
    for rank in range(world.size):
        if rank in found:
            yield Check(f"rank {rank}", Outcome.OK, describe(found[rank]))
        else:
            yield Check(f"rank {rank}", Outcome.FAIL, f"was not heard of within {SECONDS:.0f} s; look at its node")
    yield from shared_devices(found)


def placement(world: World) -> dict[str, Any]:
    """Return host, cores and device of this rank."""
    import torch

    device = uuid = ""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device, uuid = properties.name, str(getattr(properties, "uuid", ""))
    return {
        "host": os.uname().nodename,
        "cores": process.available_cores(world.local_size),
        "device": device,
        "uuid": uuid,
        "vendor": world.vendor,
    }


def receive_all(world: World) -> dict[int, dict[str, Any]]:
    """Return the placements of the other ranks as they arrive."""
    found: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + SECONDS
    while len(found) < world.size - 1 and time.monotonic() < deadline:
        message = world.receive()
        if message is None:
            time.sleep(1e-3)
        else:
            found[message[0]] = json.loads(message[1])
    return found


def describe(place: dict[str, Any]) -> str:
    """Return one line about a rank."""
    device = f"{place['device']} {place['uuid']}".strip() or "CPU"
    return f"{place['host']}, {place['cores']} cores, {device}, {place['vendor']}"


def shared_devices(found: dict[int, dict[str, Any]]) -> Iterator[Check]:
    """Point out ranks that share one GPU."""
    owners: dict[tuple[str, str], list[int]] = {}
    for rank, place in sorted(found.items()):
        if place["uuid"]:
            owners.setdefault((place["host"], place["uuid"]), []).append(rank)
    for (host, uuid), ranks in owners.items():
        if len(ranks) > 1:
            text = f"ranks {', '.join(map(str, ranks))} share GPU {uuid} on {host}; start one rank a GPU"
            yield Check("devices", Outcome.WARN, text)
