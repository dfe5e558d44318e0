"""A small survey, and the content hash of its undisturbed scan in one process."""

from __future__ import annotations

import pytest
from launch import run
from tiny_survey import Survey, content_hash, make_survey


@pytest.fixture(scope="session")
def survey(tmp_path_factory) -> Survey:
    """The small survey, made once."""
    return make_survey(tmp_path_factory.mktemp("survey"))


@pytest.fixture(scope="session")
def reference(survey, tmp_path_factory) -> str:
    """Content hash of the undisturbed run in one process."""
    out = tmp_path_factory.mktemp("reference") / "out.h5"
    result = run(survey.args(out))
    assert result.code == 0, result
    return content_hash(out)
