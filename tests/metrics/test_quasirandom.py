"""Quasi-random normal points: exact means, unit covariance, and nothing heavy imported to define them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from lensscan.metrics.quasirandom import cube_points, mirrored_normals, to_unit_covariance


@pytest.mark.parametrize("seed", [None, 4])
def test_points_are_mirrored_and_normal(seed):
    points = mirrored_normals(256, 3, seed)
    assert points.shape == (256, 3)
    np.testing.assert_allclose(points[:128], -points[128:])
    np.testing.assert_allclose(points[:128].mean(axis=0), 0, atol=1e-12)
    assert np.median(np.abs(points)) == pytest.approx(0.6745, abs=0.03)
    np.testing.assert_allclose(to_unit_covariance(points).T @ to_unit_covariance(points) / 256, np.eye(3), atol=1e-12)


def test_points_are_the_same_in_every_run():
    np.testing.assert_array_equal(mirrored_normals(64, 5, 1), mirrored_normals(64, 5, 1))
    assert (mirrored_normals(64, 5, 1) != mirrored_normals(64, 5, 2)).any()
    np.testing.assert_array_equal(cube_points(4, 2), [[0, 0], [0.5, 0.5], [0.75, 0.25], [0.25, 0.75]])


def test_what_every_rank_imports_leaves_the_heavy_parts_of_scipy_out():
    modules = "lensscan.scan.worker, lensscan.scan.merge, lensscan.nets.model"
    code = f"import sys, {modules}; print(sorted(name for name in sys.modules if 'scipy' in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "scipy.special" in loaded
    assert "scipy.stats" not in loaded
    assert "scipy.optimize" not in loaded
