"""Notes of a merge that the terminal and the file show."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from lensscan.nets.model import make_trivial
from lensscan.scan.merge import _Merge


@pytest.mark.parametrize(("views", "ensemble", "count"), [(0, None, 0), (1, None, 0), (8, None, 1), (8, object(), 0)])
def test_views_that_the_logit_was_not_calibrated_with_are_noted(views, ensemble, count):
    """An ensemble's card names its views and refuses others."""
    job = SimpleNamespace(
        plan=SimpleNamespace(settings={"views": views}),
        models=[make_trivial("gr", 32, 0.2).card],
        settings=SimpleNamespace(ensemble=ensemble),
        device_keys=Counter({"cpu": 1}),
        regressor=None,
    )
    notes = _Merge._notes(job, SimpleNamespace(notes=("first",)))
    assert notes[0] == "first"
    assert len(notes) == 1 + count
    assert not count or "trivial: scored with 8 views, the logit was calibrated with 1" in notes[1]
