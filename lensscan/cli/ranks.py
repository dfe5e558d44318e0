"""Commands whose work several ranks share: root alone speaks, and an error of one rank ends the job."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lensscan.errors import ConfigError, ExitCode, LensscanError

if TYPE_CHECKING:
    from lensscan.mpi import World

__all__ = ["among_ranks", "leave_to_root"]

ROOT_SPEAKS = 10.0
"""Seconds in which root, if it has the same error, says it and thereby ends the job."""


def leave_to_root(error: Exception, rank: int) -> None:
    """Give root the time to say an error that all ranks have; return on root, and where no end came meanwhile.

    A rank that left first would take root with it, and with it the message.
    """
    if rank > 0 and isinstance(error, LensscanError):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which launchers end a rank
        time.sleep(ROOT_SPEAKS)


def among_ranks(command: str, work: Callable[[World], int]) -> int:
    """Join the job, work, leave; return the exit code of `work`, which must not have loaded torch before.

    Any code but 0 ends all ranks of a job at once, for an orderly end would wait for those that still work.
    """
    from lensscan import mpi

    world = mpi.start()
    try:
        code = work(world)
    except LensscanError as error:
        if isinstance(error, ConfigError) and world.rank != 0:  # every rank finds the same; root says it
            world.finalize()
            return int(ExitCode.USAGE)
        if world.size > 1 and not isinstance(error, ConfigError):
            mpi.abort(world, int(error.exit_code), f"lensscan {command}: error: {error}")
        world.finalize()
        raise
    if code and world.size > 1:
        mpi.abort(world, code)
    world.finalize()
    return code
