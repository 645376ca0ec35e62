# SPDX-License-Identifier: Apache-2.0
"""In which axes the language branch reads a scene: the camera's, or the room's.

With "room" a window's 3D patches are turned upright and along the walls before they are pooled, as
the scans of ScanNet's benchmarks are; boxes come out in those axes and are turned back into the
window's world. A box that stands along a wall is then a box along the axes. Source: ours
(docs/deviations.md). Next: patches3d.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidllm_ros.geometry.room_axes import SeenViews, room_frame


def scene_frames(
    mode: str, depth: Tensor, valid: Tensor, K: Tensor, T_world_camera: Tensor
) -> Tensor:
    """Return T_scene_world of B windows, (B, 4, 4): rotations, float32, on the poses' device.

    Args:
        mode: "camera" keeps the window's world, "room" finds the room's axes in the geometry.
        depth: (B, F, H, W), m; NaN allowed where not valid.
        valid: (B, F, H, W).
        K: (B, F, 3, 3), px.
        T_world_camera: (B, F, 4, 4), m.
    """
    device = T_world_camera.device
    if mode == "camera":
        return torch.eye(4, device=device).repeat(len(depth), 1, 1)
    found = [
        room_frame(
            SeenViews(
                depth[b].detach().float().cpu().numpy(),
                valid[b].cpu().numpy(),
                K[b].detach().double().cpu().numpy(),
                T_world_camera[b].detach().double().cpu().numpy(),
            )
        )
        for b in range(len(depth))
    ]
    return torch.stack([torch.from_numpy(T).float() for T in found]).to(device)
