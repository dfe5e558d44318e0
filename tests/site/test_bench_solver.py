"""The solver benchmark measures what it says, on few lenses."""

import pytest

from lensscan.site.bench import solver


@pytest.mark.parametrize("shear", [0.0, 0.1])
def test_systems_are_solved_without_a_miss(shear):
    systems = solver.Systems(300, shear)
    assert systems.solve() == 300
    assert systems.wrong() == 0


def test_a_missed_image_would_be_noticed(monkeypatch):
    systems = solver.Systems(20, 0.0)
    number = solver.image_number
    monkeypatch.setattr(solver, "image_number", lambda lens, sx, sy: number(lens, sx, sy) + (sx == systems.sx[7]))
    assert systems.wrong() == 1


def test_report_has_the_rates_and_goals(monkeypatch):
    pytest.importorskip("lenstronomy", reason="lenstronomy comes with lensscan[test]")
    monkeypatch.setattr(solver, "LENSES", 64)
    monkeypatch.setattr(solver, "RIVAL_LENSES", 5)
    figures = solver.bench_solver(1).figures
    names = [figure["name"] for figure in figures]
    assert names[:4] == [
        "lensscan, 1 thread",
        "lensscan, 2 threads",
        "lensscan, 2 threads, shear 0.1",
        "lenstronomy, analytical",
    ]
    assert all(figure["value"] > 0 for figure in figures[:6])
    assert (figures[-1]["value"], figures[-1]["reached"]) == (0, True)
