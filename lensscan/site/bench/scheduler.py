"""How many block messages a second the scheduler handles on one core."""

from __future__ import annotations

from lensscan.scan.protocol import Kind, Message
from lensscan.scan.scheduler import Scheduler, Send
from lensscan.site.bench.report import Report, interleave

__all__ = ["bench_scheduler"]

BLOCKS = 40_000
WORKERS = 512


def play() -> int:
    """Run one scan's worth of messages, packed and unpacked as on the wire; return their number."""
    scheduler = Scheduler([float(b % 97) for b in range(BLOCKS)], expected=WORKERS)
    handled = 0
    waiting = [Message(Kind.READY, rank, code=2).pack() for rank in range(WORKERS)]
    while waiting:
        answers = []
        for payload in waiting:
            handled += 1
            for action in scheduler.on_message(Message.unpack(payload), 0.0):
                if isinstance(action, Send) and action.message.kind == Kind.BLOCK:
                    block = Message.unpack(action.message.pack()).block
                    answers.append(Message(Kind.DONE, action.rank, block, rows=1024).pack())
        waiting = answers
    if not scheduler.complete:
        raise RuntimeError("the scheduler did not finish")
    return handled


def bench_scheduler(rounds: int = 3) -> Report:
    """Measure READY and DONE messages a second, including packing, unpacking and the answers."""
    report = Report("scheduler")
    rate = interleave("block messages", {"messages": play}, rounds)["messages"]
    report.rate(f"block messages, {WORKERS} workers, {BLOCKS} blocks", rate, "1/s")
    report.at_least("block messages a second on one core", rate.median, 50_000, "1/s")
    return report
