"""The messages between root and workers: one fixed 80-byte structure, no pickles.

====================  =========  ==========================================  ==================================
from -> to            kind       fields                                      meaning
====================  =========  ==========================================  ==================================
worker -> root        HELLO      -                                           the rank is up, before the plan
root -> worker        START      -                                           the plan stands; load it and models
worker -> root        READY      capacity, rows                              wants up to `capacity` blocks
root -> worker        BLOCK      block, attempt                              score this block
worker -> root        DONE       block, rows, failed, reasons                its shard is durably renamed
worker -> root        FAIL       block, code                                 the block failed; the rank is alive
worker -> root        BEAT       block, rows                                 alive; rows finished in this block
root -> worker        BEAT       -                                           root is alive
worker -> root        STOP       code                                        the rank got a stop signal
root -> worker        DRAIN      code                                        finish the batch, abandon the rest
worker -> root        BYE        code, rows                                    nothing of this rank is in flight
root -> worker        EXIT       code                                        leave with this exit code
====================  =========  ==========================================  ==================================

DONE follows the rename of the shard, so every message may be lost with its sender: the ledger is the
folder of shards, and a block done twice is the same bytes twice.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

__all__ = ["SIZE", "Kind", "Message"]

_LAYOUT = struct.Struct("<iiqqqqd16H")
SIZE = _LAYOUT.size
REASONS = 16


class Kind(enum.IntEnum):
    """What a message says."""

    HELLO = 1
    START = 2
    READY = 3
    BLOCK = 4
    DONE = 5
    FAIL = 6
    BEAT = 7
    STOP = 8
    DRAIN = 9
    BYE = 10
    EXIT = 11


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `rank` is the worker it comes from or goes to.

    Attributes
    ----------
    block : int
        Block number, -1 where it means nothing.
    rows, failed : int
        Rows finished; rows among them that failed.  In BYE, `rows` is the peak memory of the rank, bytes;
        in READY the number of its GPU, 0 on a CPU.
    code : int
        Exit code, attempt number or capacity, by kind.
    seconds : float
        Time spent on the block.
    reasons : tuple of 16 int
        Failed rows by reason, for the progress line: `Status.MISSING_FILE` and the 15 codes after it.
    """

    kind: Kind
    rank: int = 0
    block: int = -1
    rows: int = 0
    failed: int = 0
    code: int = 0
    seconds: float = 0.0
    reasons: tuple[int, ...] = (0,) * REASONS

    def pack(self) -> bytes:
        """Return the bytes of the message."""
        counts = [min(n, 0xFFFF) for n in self.reasons]
        return _LAYOUT.pack(self.kind, self.rank, self.block, self.rows, self.failed, self.code, self.seconds, *counts)

    @classmethod
    def unpack(cls, payload: bytes) -> Message:
        """Read a message; a payload of another size or an unknown kind raises ValueError."""
        if len(payload) != SIZE:
            raise ValueError(f"message of {len(payload)} bytes, not {SIZE}")
        kind, rank, block, rows, failed, code, seconds, *reasons = _LAYOUT.unpack(payload)
        return cls(Kind(kind), rank, block, rows, failed, code, seconds, tuple(reasons))
