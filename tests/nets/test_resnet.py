"""What only the compact residual network can be asked for."""

from __future__ import annotations

import torch

from lensscan.nets.architecture import build_network
from lensscan.nets.normalise import n_scalars

SMALL = {"kind": "resnet", "widths": [8, 12], "depths": [0, 1], "hidden": 16, "squeeze": 4}


def test_asymmetry_channels_see_arcs_and_no_smooth_galaxy():
    torch.manual_seed(1)
    network = build_network({**SMALL, "asymmetry": True}, 2, 33).eval()
    seen = []
    network.stem.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    axis = torch.arange(33) - 16.0
    galaxy = torch.exp(-torch.hypot(axis[:, None], 0.7 * axis[None, :] + 0.2 * axis[:, None]) / 4).expand(1, 2, 33, 33)
    arc = torch.zeros_like(galaxy)
    arc[..., 22:24, 12:20] = 0.5
    with torch.no_grad():
        network(galaxy + arc, torch.zeros(1, n_scalars(2)))
    torch.testing.assert_close(seen[0][:, :2], galaxy + arc)
    torch.testing.assert_close(seen[0][:, 2:], arc - arc.rot90(2, (-2, -1)))
