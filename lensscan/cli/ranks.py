"""Commands whose work several ranks share: root alone speaks, and an error of one rank ends the job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lensscan.errors import ConfigError, ExitCode, LensscanError

if TYPE_CHECKING:
    from lensscan.mpi import World

__all__ = ["among_ranks"]


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
