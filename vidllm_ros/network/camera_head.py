# SPDX-License-Identifier: Apache-2.0
"""Camera head of the figure, and the nine numbers it speaks: shift, quaternion, field of view.

Reads one camera token a frame from the aggregator's last output and refines a pose encoding four
times. `encode_pose`/`decode_pose` are the only door between those numbers and matrices. Next:
dense_head.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.full_float32 import full_float32
from vidllm_ros.network.layers import Block, Mlp

POSE_DIM = 9
MIN_FOV_RAD = 0.01


class CameraHead(nn.Module):
    """Refine the pose of every frame from its camera token; attention runs across frames.

    Each iteration sees the previous one's answer, detached, through an adaptive LayerNorm. Runs
    outside autocast and TF32: poses need the bits and cost almost nothing. Source: Vid-LLM Fig. 2;
    VGGT, facts A.4.
    """

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        dim = 2 * config.width
        self.iterations = config.camera_iterations
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose = nn.Parameter(torch.zeros(1, 1, POSE_DIM))
        self.embed_pose = nn.Linear(POSE_DIM, dim)
        self.modulation = nn.Linear(dim, 3 * dim)
        self.trunk = nn.ModuleList(
            Block(dim, config.camera_heads, config.camera_mlp_ratio)
            for _ in range(config.camera_trunk_depth)
        )
        self.pose_branch = Mlp(dim, dim // 2, POSE_DIM)

    def forward(self, last_level: Tensor) -> list[Tensor]:
        """Return one activated pose encoding an iteration, (B, S, 9) each, the best one last.

        Args:
            last_level: the aggregator's last output, (B, S, P, 2C); token 0 is the camera's.
        """
        with full_float32(last_level.device):
            tokens = self.token_norm(last_level[:, :, 0].to(self.token_norm.weight.dtype))
            raw = self.empty_pose.expand(*tokens.shape[:2], -1)
            encodings = []
            for iteration in range(self.iterations):
                # The learnt empty pose is only what the first iteration is told, not a summand.
                delta = self._refine(tokens, raw)
                raw = delta if iteration == 0 else raw + delta
                encodings.append(_activate(raw))
                raw = raw.detach()
        return encodings

    def _refine(self, tokens: Tensor, raw: Tensor) -> Tensor:
        modulation = self.modulation(functional.silu(self.embed_pose(raw)))
        shift, scale, gate = modulation.chunk(3, dim=-1)
        plain = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        x = gate * (plain * (1 + scale) + shift) + tokens
        for block in self.trunk:
            x = block(x)
        return self.pose_branch(self.trunk_norm(x))


def _activate(raw: Tensor) -> Tensor:
    return torch.cat([raw[..., :7], functional.relu(raw[..., 7:])], dim=-1)


def encode_pose(T_camera_world: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    """Write extrinsics and intrinsics as VGGT's absolute pose encoding.

    The principal point is not encoded. Source: VGGT `absT_quaR_FoV`, model-code facts A.4.

    Args:
        T_camera_world: world to camera, (..., 4, 4).
        K: intrinsics of an image of this size, (..., 3, 3), px.
        height: of that image, px.
        width: of that image, px.

    Returns:
        translation, quat_xyzw with w >= 0, vertical then horizontal field of view in rad, (...,
        9).
    """
    fov_h = 2 * torch.atan(height / 2 / K[..., 1, 1])
    fov_w = 2 * torch.atan(width / 2 / K[..., 0, 0])
    quat_xyzw = quat_xyzw_from_matrix(T_camera_world[..., :3, :3])
    return torch.cat(
        [T_camera_world[..., :3, 3], quat_xyzw, torch.stack([fov_h, fov_w], dim=-1)], dim=-1
    )


def decode_pose(encoding: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Read a pose encoding, (..., 9), as T_camera_world (..., 4, 4) and K (..., 3, 3), px.

    cx = W/2 and cy = H/2. The field of view is held to 0.01 rad inside (0, pi), so that a
    network that is not trained yet still gives finite, positive focal lengths.
    """
    encoding = encoding.float() if encoding.dtype in (torch.float16, torch.bfloat16) else encoding
    fov = encoding[..., 7:9].clamp(MIN_FOV_RAD, math.pi - MIN_FOV_RAD)
    half_size = encoding.new_tensor([height / 2, width / 2])
    focal = half_size / torch.tan(fov / 2)  # fy, fx
    zero, one = torch.zeros_like(focal[..., 0]), torch.ones_like(focal[..., 0])
    K = torch.stack(
        [
            torch.stack([focal[..., 1], zero, one * (width / 2)], dim=-1),
            torch.stack([zero, focal[..., 0], one * (height / 2)], dim=-1),
            torch.stack([zero, zero, one], dim=-1),
        ],
        dim=-2,
    )
    rotation = matrix_from_quat_xyzw(encoding[..., 3:7])
    top = torch.cat([rotation, encoding[..., :3, None]], dim=-1)
    bottom = torch.stack([zero, zero, zero, one], dim=-1)[..., None, :]
    return torch.cat([top, bottom], dim=-2), K


def matrix_from_quat_xyzw(quat_xyzw: Tensor) -> Tensor:
    """Return rotations of quaternions of any length, (..., 4) -> (..., 3, 3); zero is identity."""
    x, y, z, w = quat_xyzw.unbind(-1)
    two = 2 / (quat_xyzw * quat_xyzw).sum(-1).clamp_min(torch.finfo(quat_xyzw.dtype).tiny * 16)
    rows = [
        torch.stack([1 - two * (y * y + z * z), two * (x * y - z * w), two * (x * z + y * w)], -1),
        torch.stack([two * (x * y + z * w), 1 - two * (x * x + z * z), two * (y * z - x * w)], -1),
        torch.stack([two * (x * z - y * w), two * (y * z + x * w), 1 - two * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, dim=-2)


def quat_xyzw_from_matrix(rotation: Tensor) -> Tensor:
    """Return unit quaternions with w >= 0 of rotations, (..., 3, 3) -> (..., 4).

    Of the four ways to divide, each rotation takes the one with the largest divisor (Shepperd
    1978).
    """
    r = rotation
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    trace = diagonal.sum(-1, keepdim=True)
    squares = torch.cat([1 + 2 * diagonal - trace, 1 + trace], dim=-1)  # 4 * (xx, yy, zz, ww)
    xy, xz, yz = (
        r[..., 1, 0] + r[..., 0, 1],
        r[..., 0, 2] + r[..., 2, 0],
        r[..., 2, 1] + r[..., 1, 2],
    )
    xw, yw, zw = (
        r[..., 2, 1] - r[..., 1, 2],
        r[..., 0, 2] - r[..., 2, 0],
        r[..., 1, 0] - r[..., 0, 1],
    )
    sx, sy, sz, sw = squares.unbind(-1)
    outer = torch.stack(  # 4 * q q^T: any row is the quaternion up to length and sign
        [
            torch.stack([sx, xy, xz, xw], -1),
            torch.stack([xy, sy, yz, yw], -1),
            torch.stack([xz, yz, sz, zw], -1),
            torch.stack([xw, yw, zw, sw], -1),
        ],
        dim=-2,
    )
    best = squares.argmax(dim=-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quat = functional.normalize(outer.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quat[..., 3:] < 0, -quat, quat)
