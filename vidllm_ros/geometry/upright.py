# SPDX-License-Identifier: Apache-2.0
"""Which way is up, from one window alone: cameras that turn without rolling, floors and walls.

A camera that is carried or driven turns about the vertical, so its x axes lie in one level plane;
a room's floor and ceiling look along the vertical and its walls across it. Only where both say
the same is it believed. Source: ours (docs/log.md). Next: streaming/session.py, which asks once
a world.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL, make_transform

Float64 = NDArray[np.float64]

MAX_TILT_RAD = np.radians(45)  # of the first camera
MIN_TURN_RAD, MAX_ROLL_RAD = np.radians(10), np.radians(5)
MAX_DISAGREEMENT_RAD = np.radians(12)
MIN_CONTRAST = 1.1
_SEARCH_RAD = np.radians(15)
_SPREAD_RAD = np.radians(6)
_WALL_WEIGHT = 0.5
_MOST_NORMALS, _FEWEST_NORMALS = 6000, 300
_COLUMNS, _REACH_PX, _MAX_JUMP = 112, 3, 0.3


class Views(Protocol):
    """What is read of a window here: a `Reconstruction`, or what `room_axes.SeenViews` holds."""

    @property
    def depth(self) -> NDArray[np.float32]:
        """(S, H, W), m."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(S, H, W)."""

    @property
    def K(self) -> Float64:
        """(S, 3, 3), px."""

    @property
    def T_world_camera(self) -> Float64:
        """(S, 4, 4), m."""


def find_up(rec: Views, normals: Float64 | None = None) -> Float64 | None:
    """Return the direction of up in the window's world, (3,), unit; None where nothing is sure.

    Where the cameras turn too little, roll, or disagree with the surfaces, nothing is sure.

    Args:
        rec: the window.
        normals: of its surfaces where they are known already, see `surface_normals`.
    """
    axes = rec.T_world_camera[:, :3, 0]
    spread, directions = np.linalg.eigh(axes.T @ axes / len(axes))
    roll, turn = np.sqrt(np.maximum(spread[:2], 0))
    if turn < MIN_TURN_RAD or roll > MAX_ROLL_RAD:
        return None
    level = -rec.T_world_camera[:, :3, 1]  # up, if every camera were level
    by_cameras = directions[:, 0] * np.sign(directions[:, 0] @ level.mean(axis=0))
    if by_cameras @ level[0] < np.cos(MAX_TILT_RAD):
        return None
    if normals is None:
        normals = surface_normals(rec)
    if len(normals) < _FEWEST_NORMALS:
        return None
    candidates = _around(by_cameras, _SEARCH_RAD, _SEARCH_RAD / 6)
    votes = _votes(normals, candidates)
    best = candidates[votes.argmax()]
    if votes.max() < MIN_CONTRAST * votes.mean() or (
        best @ by_cameras < np.cos(MAX_DISAGREEMENT_RAD)
    ):
        return None
    near = _around(best, _SEARCH_RAD / 6, _SEARCH_RAD / 30)
    by_surfaces = near[_votes(normals, near).argmax()]
    both = by_cameras + by_surfaces
    return np.asarray(both / np.linalg.norm(both), np.float64)


def upright_pose(up: Float64) -> Float64:
    """Return T_world_camera, (4, 4), of a camera at the origin that looks along x of a z-up world.

    Args:
        up: in the camera's optical frame, (3,), unit; not along its optical axis. Straight up in
            the image gives `T_WORLD_OPTICAL_LEVEL`.

    Raises:
        ValueError: the camera looks straight up or down.
    """
    ahead = np.array([0.0, 0.0, 1.0]) - up[2] * up
    length = float(np.linalg.norm(ahead))
    if length < 1e-6:
        raise ValueError("up: expected a direction across the optical axis, got one along it")
    x = ahead / length
    return make_transform(np.stack([x, np.cross(up, x), up]), np.zeros(3))


def first_pose(rec: Views) -> Float64:
    """Return where a world's first camera stands, (4, 4): upright where the window says how, else
    taken as level.
    """
    up = find_up(rec)
    if up is None:
        return T_WORLD_OPTICAL_LEVEL
    return upright_pose(rec.T_world_camera[0, :3, :3].T @ up)


def surface_normals(rec: Views) -> Float64:
    """Return normals of the surfaces seen, (N, 3), in the window's world; signs mean nothing.

    Neighbours that lie apart in depth are two surfaces, and give none.
    """
    step = max(1, rec.depth.shape[2] // _COLUMNS)
    depth = rec.depth[:, ::step, ::step].astype(float)
    valid = rec.valid[:, ::step, ::step] & np.isfinite(depth) & (depth > 0)
    K = rec.K.copy()
    K[:, :2] /= step
    points = unproject(np.where(valid, depth, 1.0), K).astype(float)
    far = 2 * _REACH_PX
    inner = slice(_REACH_PX, -_REACH_PX, 2)
    across = (points[:, :, far:] - points[:, :, :-far])[:, inner, ::2]
    down = (points[:, far:] - points[:, :-far])[:, ::2, inner]
    here = depth[:, inner, inner]
    known = valid[:, inner, inner]
    known &= (valid[:, :, far:] & valid[:, :, :-far])[:, inner, ::2]
    known &= (valid[:, far:] & valid[:, :-far])[:, ::2, inner]
    known &= np.maximum(np.abs(across[..., 2]), np.abs(down[..., 2])) < _MAX_JUMP * here
    normals = np.cross(across, down)
    length = np.linalg.norm(normals, axis=-1)
    known &= length > 1e-12
    turned = normals @ rec.T_world_camera[:, None, :3, :3].swapaxes(-1, -2)
    found = (turned / np.maximum(length, 1e-12)[..., None])[known]
    return np.asarray(found[:: max(1, -(-len(found) // _MOST_NORMALS))], np.float64)


def _votes(normals: Float64, candidates: Float64) -> Float64:
    """Say how well surfaces are level or upright, for each candidate, (D,)."""
    cosine = np.abs((normals @ candidates.T).astype(np.float32))  # exp costs half as much
    width = np.float32(2 * _SPREAD_RAD**2)
    level = np.exp(-2 * (1 - cosine) / width).mean(axis=0)
    upright = np.exp(-(cosine**2) / width).mean(axis=0)
    return np.asarray(level + _WALL_WEIGHT * upright, np.float64)


def _around(direction: Float64, reach_rad: float, step_rad: float) -> Float64:
    """Return directions on a grid around one, (D, 3), unit."""
    sideways = np.linalg.svd(direction[None])[2][1:]
    count = round(reach_rad / step_rad)
    offsets = np.arange(-count, count + 1) * step_rad
    grid = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    grid = grid[np.hypot(*grid.T) <= reach_rad + 1e-9]
    found = direction + grid @ sideways
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float64)
