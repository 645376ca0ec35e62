# SPDX-License-Identifier: Apache-2.0
"""What a network in training makes of rooms it does not learn from, one row a room.

Frames with the boxes it finds drawn into them (the objects it was shown in white), its depth, the
true depth in the same colours, and where they disagree. Next: validation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vidllm_ros.cli.output_files import write_picture
from vidllm_ros.data.samples import SceneSample
from vidllm_ros.geometry.boxes import corners_of
from vidllm_ros.structures import GroundedBox, Reconstruction

EDGES = [(a, a ^ bit) for a in range(8) for bit in (1, 2, 4) if a < a ^ bit]
NEAR_M = 0.05
MOST_BOXES = 12
OURS, TRUTH = "#ff8c00", "#ffffff"
TITLES = ("first frame", "last frame", "depth", "true depth", "log error")


@dataclass(frozen=True)
class ValidatedRoom:
    """A room and what the network made of it; boxes in the window's world, best first."""

    room: SceneSample
    reconstruction: Reconstruction
    boxes: tuple[GroundedBox, ...]


def draw_rooms(path: Path, rooms: Sequence[ValidatedRoom]) -> NDArray[np.uint8]:
    """Draw the rooms, write the picture (PNG) and return it, (H, W, 3), RGB."""
    figure = Figure(figsize=(12.5, 1.9 * len(rooms) + 0.3), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(rooms), len(TITLES), squeeze=False)
    for row, shown in zip(grid, rooms, strict=True):
        draw_room(row, shown)
    for axes, title in zip(grid[0], TITLES, strict=True):
        axes.set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_room(row: Sequence[Axes], shown: ValidatedRoom) -> None:
    """Fill one row."""
    room, ours = shown.room, shown.reconstruction
    truth = np.where(np.isfinite(room.depth) & (room.depth > 0), room.depth, np.nan)
    true_poses = np.linalg.inv(room.T_world_camera[0]) @ room.T_world_camera
    to_window = np.linalg.inv(room.T_world_camera[0])
    for axes, frame in ((row[0], 0), (row[1], len(room) - 1)):
        axes.imshow(room.frames.images[frame])
        for item in room.objects:
            corners = corners_of(item.box) @ to_window[:3, :3].T + to_window[:3, 3]
            draw_box(axes, corners, true_poses[frame], room.K[frame], TRUTH)
        for box in shown.boxes[:MOST_BOXES]:
            pose, K = ours.T_world_camera[frame], ours.K[frame]
            draw_box(axes, corners_of(box), pose, K, OURS)
        axes.set_xlim(-0.5, room.frames.images.shape[2] - 0.5)
        axes.set_ylim(room.frames.images.shape[1] - 0.5, -0.5)
    low, high = np.nanquantile(truth[0], [0.01, 0.99])
    guess = np.where(ours.valid[0], ours.depth[0], np.nan)
    for axes, depth in ((row[2], guess), (row[3], truth[0])):
        axes.imshow(depth, cmap=colormaps["turbo_r"], vmin=low, vmax=high)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.log(guess / truth[0])
    row[4].imshow(error, cmap=colormaps["RdBu"], vmin=-0.5, vmax=0.5)
    row[4].set_xlabel(f"mean |log| {np.nanmean(np.abs(error)):.3f}", fontsize=8)
    row[0].set_ylabel(room.scene_id, fontsize=8)
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])


def draw_box(
    axes: Axes,
    corners: NDArray[np.float64],
    T_world_camera: NDArray[np.float64],
    K: NDArray[np.float64],
    color: str,
) -> None:
    """Draw the edges of a box that are before the camera.

    Args:
        axes: with the frame, in pixels.
        corners: in the window's world, (8, 3), m, in the order of `corners_of`.
        T_world_camera: of the frame.
        K: px.
        color: of the lines.
    """
    seen = (corners - T_world_camera[:3, 3]) @ T_world_camera[:3, :3]
    for a, b in EDGES:
        if min(seen[a, 2], seen[b, 2]) < NEAR_M:
            continue
        ends = seen[[a, b]] @ K.T
        axes.plot(ends[:, 0] / ends[:, 2], ends[:, 1] / ends[:, 2], color=color, lw=0.8)
