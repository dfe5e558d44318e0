"""Draws are pure functions of their counters, and have the distributions they claim."""

import numpy as np
import pytest
import torch

from lensscan.mocks.priors import Draws, pixel_normals, row_keys

INDEX = np.arange(200_000)


def test_rows_do_not_depend_on_the_batch():
    whole = Draws("recipe", 3, np.arange(1000))
    part = Draws("recipe", 3, np.array([700, 3, 999]))
    for name in ("a", "b"):
        np.testing.assert_array_equal(whole.uniform(name, k=3)[[700, 3, 999]], part.uniform(name, k=3))
        np.testing.assert_array_equal(
            whole.normal(name, 1.0, 2.0, -1.0, 4.0)[[700, 3, 999]], part.normal(name, 1.0, 2.0, -1.0, 4.0)
        )


def test_names_seeds_recipes_and_attempts_give_other_numbers():
    index = np.arange(500)
    sets = [
        Draws("r", 1, index).uniform("a"),
        Draws("r", 1, index).uniform("b"),
        Draws("r", 2, index).uniform("a"),
        Draws("s", 1, index).uniform("a"),
        Draws("r", 1, index).redraw(index, 1).uniform("a"),
    ]
    for i, a in enumerate(sets):
        for b in sets[:i]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.2
            assert not np.any(a == b)


def test_uniforms_fill_the_interval_without_correlation():
    u = Draws("r", 1, INDEX).uniform("u", 2.0, 4.0, k=2)
    assert u.min() > 2.0
    assert u.max() < 4.0
    counts = np.histogram(u, 100, (2.0, 4.0))[0]
    assert abs(counts / counts.mean() - 1).max() < 6 / np.sqrt(counts.mean())
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.01
    assert abs(np.corrcoef(u[1:, 0], u[:-1, 0])[0, 1]) < 0.01


def test_normals_are_truncated_not_clipped():
    x = Draws("r", 1, INDEX).normal("n", 0.0, 1.0, -0.5, 2.0)
    assert x.min() > -0.5
    assert x.max() < 2.0
    assert (x < -0.499).mean() < 0.002
    free = Draws("r", 1, INDEX).normal("m", 3.0, 0.5)
    assert free.mean() == pytest.approx(3.0, abs=0.006)
    assert free.std() == pytest.approx(0.5, abs=0.005)


def test_poisson_choice_and_power_law():
    draws = Draws("r", 1, INDEX)
    count = draws.poisson("p", 3.0, 25)
    assert count.mean() == pytest.approx(3.0, abs=0.02)
    assert count.var() == pytest.approx(3.0, abs=0.05)
    share = np.bincount(draws.choice("c", np.array([1.0, 0.0, 3.0])), minlength=3) / len(INDEX)
    np.testing.assert_allclose(share, [0.25, 0.0, 0.75], atol=0.005)
    mag = draws.power_law("m", 20.0, 24.0, 0.3)
    faint, bright = ((mag > 23) & (mag < 24)).sum(), ((mag > 22) & (mag < 23)).sum()
    assert faint / bright == pytest.approx(10**0.3, rel=0.03)


def test_spin2_has_no_preferred_direction():
    e1, e2 = Draws("r", 1, INDEX).spin2("e", np.full(len(INDEX), 0.3))
    np.testing.assert_allclose(np.hypot(e1, e2), 0.3, rtol=1e-12)
    assert abs(e1.mean()) < 0.002
    assert abs(e2.mean()) < 0.002


def test_pixel_normals_are_standard_and_independent_of_the_batch():
    keys = torch.from_numpy(row_keys("r", 1, "pixels", np.arange(64)))
    z = pixel_normals(keys, 10_001)
    assert z.shape == (64, 10_001)
    assert z.dtype == torch.float32
    assert float(z.mean()) == pytest.approx(0.0, abs=0.006)
    assert float(z.std()) == pytest.approx(1.0, abs=0.005)
    assert float((z**4).mean()) == pytest.approx(3.0, abs=0.06)
    assert abs(float((z[:, 1:] * z[:, :-1]).mean())) < 0.006
    assert abs(float((z[1:] * z[:-1]).mean())) < 0.006
    torch.testing.assert_close(pixel_normals(keys[[5, 60]], 10_001), z[[5, 60]], rtol=0, atol=1e-6)
