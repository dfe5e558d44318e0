"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: the shared survey data are not on this machine")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real survey data beside the project; skips where it is absent."""
    return _folder("data")


@pytest.fixture(scope="session")
def shared_oracle() -> Path:
    """Folder of lensing quantities by an independent code; skips where it is absent."""
    return _folder("oracle")
