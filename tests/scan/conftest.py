"""Fixtures of whole scans in one process."""

from __future__ import annotations

import pytest

from lensscan.nets import posterior


@pytest.fixture(scope="module")
def quick_summaries():
    """Summaries are made in blocks of a constant size, for millions of rows; those of the tests are few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior, "BLOCK", 128)
        yield
