"""What a process may use of its machine."""

from __future__ import annotations

import os

import pytest

from lensscan.process import available_cores, available_memory, peak_memory


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="no /proc: nothing is told")
def test_memory_is_within_that_of_the_machine() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() < whole
    assert 0 < peak_memory() < whole


def test_cores_are_shared_among_the_ranks_of_a_node() -> None:
    assert 1 <= available_cores(4) <= available_cores(1) <= (os.cpu_count() or 1)
    assert available_cores(10_000) == 1
