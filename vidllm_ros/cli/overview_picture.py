# SPDX-License-Identifier: Apache-2.0
"""overview.png: a scene from above - cloud, camera path, labelled boxes - beside the truth.

Each panel is a `SceneView` in one z-up frame in metres; all panels share their axes, so what is
beside each other can be compared by eye. What hangs above the camera (ceiling, lamps) is left out
of the cloud, or nothing else would show. Next: frames_picture.py for the view from the camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import ConvexHull, cKDTree

from vidllm_ros.cli.output_files import write_picture
from vidllm_ros.geometry.boxes import box_corners
from vidllm_ros.structures import GroundedBox, check_shape

ABOVE_CAMERA_M = 0.5
MARGIN_M = 0.35
ARROW_EVERY_M = 0.3
PATH_COLOR = "#d81b60"
INK = "#20242a"
PAPER = "#f6f5f1"
HALO = [withStroke(linewidth=2.2, foreground="white")]
LABEL_OFFSETS_PX = [(0, 0)] + [
    (radius * np.cos(angle), radius * np.sin(angle))
    for radius in (18, 30, 44, 60)
    for angle in np.linspace(np.pi / 2, np.pi / 2 + 2 * np.pi, 8, endpoint=False)
]


@dataclass(frozen=True)
class SceneView:
    """What one panel shows, in one z-up frame.

    Attributes:
        title: of the panel.
        points: (N, 3), m.
        rgb: (N, 3), uint8.
        T_world_camera: the camera's path, optical frames, (S, 4, 4), m.
        boxes: what stands there.
        outline: corners of the room's floor, (K, 2), m, or None where unknown.
    """

    title: str
    points: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    T_world_camera: NDArray[np.float64]
    boxes: tuple[GroundedBox, ...] = ()
    outline: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        check_shape("points", self.points, (None, 3))
        check_shape("rgb", self.rgb, (len(self.points), 3))
        check_shape("T_world_camera", self.T_world_camera, (None, 4, 4))


def draw_overview(path: Path, views: Sequence[SceneView], heading: str = "") -> None:
    """Draw the views side by side with the same axes and write them to `path` (PNG)."""
    if not views:
        raise ValueError("views: expected at least one scene, got none; nothing can be drawn")
    low, high = _limits(views)
    width, height = high - low
    panel_in = 6.4
    tall_in = float(np.clip(panel_in * height / width, 3.6, 8.0))
    figure = Figure(figsize=(panel_in * len(views) + 0.7, tall_in + 1.25), dpi=130)
    FigureCanvasAgg(figure)
    figure.set_facecolor("white")
    panels = figure.subplots(1, len(views), squeeze=False, sharex=True, sharey=True)[0]
    colors = label_colors(box.label for view in views for box in view.boxes)
    for axes, view in zip(panels, views, strict=True):
        _prepare(axes, view.title, low, high)
        _draw_cloud(axes, view)
        if view.outline is not None:
            axes.add_patch(Polygon(view.outline, fill=False, edgecolor=INK, linewidth=2, zorder=2))
    panels[0].set_ylabel("y (m)")
    if heading:
        figure.suptitle(heading, fontsize=13, color=INK)
    figure.set_layout_engine("constrained")
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for axes, view in zip(panels, views, strict=True):
        _draw_boxes(axes, view.boxes, colors)
        _draw_path(axes, view.T_world_camera)
    write_picture(path, figure)


def label_colors(labels: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """Give each label a colour of its own, the same whichever panel shows it."""
    names = sorted(set(labels))
    dark = colormaps["tab20"].colors[::2]  # type: ignore[attr-defined]
    light = colormaps["Dark2"].colors  # type: ignore[attr-defined]
    palette = [*dark, *light]
    return {name: palette[index % len(palette)] for index, name in enumerate(names)}


def _limits(views: Sequence[SceneView]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners that hold all views; stray points (1 % a side) may fall outside."""
    spans = []
    for view in views:
        spans.append(view.T_world_camera[:, :2, 3])
        if len(view.points):
            spans.append(np.quantile(view.points[:, :2], [0.01, 0.99], axis=0))
        if view.outline is not None:
            spans.append(view.outline)
        spans.extend(_footprint(box) for box in view.boxes)
    corners = np.concatenate(spans)
    low, high = corners.min(axis=0) - MARGIN_M, corners.max(axis=0) + MARGIN_M
    short = np.maximum(0.0, (high - low).max() * 0.55 - (high - low)) / 2
    return low - short, high + short


def _prepare(axes: Axes, title: str, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_aspect("equal")
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_facecolor(PAPER)
    axes.set_xlabel("x (m)")
    axes.grid(color="#dcd9d0", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(labelleft=True, colors=INK, labelsize=9)


def _draw_cloud(axes: Axes, view: SceneView) -> None:
    """Paint, in each cell of the floor, the colour of the highest point below the cut."""
    if not len(view.points):
        return
    cut = np.median(view.T_world_camera[:, 2, 3]) + ABOVE_CAMERA_M
    kept = np.isfinite(view.points).all(axis=1) & (view.points[:, 2] < cut)
    (x_low, x_high), (y_low, y_high) = axes.get_xlim(), axes.get_ylim()
    points, rgb = view.points[kept], view.rgb[kept]
    inside = (
        (points[:, 0] > x_low) & (points[:, 0] < x_high)
        & (points[:, 1] > y_low) & (points[:, 1] < y_high)
    )  # fmt: skip
    points, rgb = points[inside], rgb[inside]
    if len(points) < 2:
        return
    cell = _spacing(points)
    columns, rows = int((x_high - x_low) / cell) + 1, int((y_high - y_low) / cell) + 1
    canvas = np.zeros((rows, columns, 4), np.uint8)
    order = np.argsort(points[:, 2], kind="stable")  # the highest is painted last
    column = ((points[order, 0] - x_low) / cell).astype(int)
    row = ((points[order, 1] - y_low) / cell).astype(int)
    canvas[row, column, :3] = rgb[order]
    canvas[row, column, 3] = 235
    _fill_gaps(canvas)
    extent = (x_low, x_low + columns * cell, y_low, y_low + rows * cell)
    axes.imshow(canvas, extent=extent, origin="lower", interpolation="nearest", zorder=1)
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(y_low, y_high)


def _fill_gaps(canvas: NDArray[np.uint8]) -> None:
    """Give cells between painted ones the colour of the nearest; outlines stay where they are."""
    painted = canvas[..., 3] > 0
    closed = cv2.morphologyEx(painted.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    nearest = distance_transform_edt(~painted, return_distances=False, return_indices=True)
    gaps = (closed > 0) & ~painted
    canvas[gaps] = canvas[nearest[0][gaps], nearest[1][gaps]]


def _spacing(points: NDArray[np.float32]) -> float:
    """Return a cell edge that leaves few holes: a bit over the distance between neighbours."""
    few = points[:: max(1, len(points) // 2000)]
    nearest = cKDTree(points).query(few, k=2)[0][:, 1]
    return float(np.clip(1.3 * np.median(nearest), 0.02, 0.12))


def _footprint(box: GroundedBox) -> NDArray[np.float64]:
    """Return the outline of a box seen from above, (K, 2), m, in order round the box."""
    corners = np.asarray(box_corners(box.center, box.size, box.quat_xyzw), np.float64)[:, :2]
    spread = np.ptp(corners, axis=0)
    if (spread < 1e-6).any():
        return corners
    return corners[ConvexHull(corners).vertices]


def _draw_boxes(
    axes: Axes, boxes: Sequence[GroundedBox], colors: dict[str, tuple[float, float, float]]
) -> None:
    placed: list[Bbox] = []
    for box in sorted(boxes, key=lambda entry: -float(np.prod(entry.size[:2]))):
        color = colors[box.label]
        outline = _footprint(box)
        axes.add_patch(Polygon(outline, facecolor=(*color, 0.18), edgecolor="none", zorder=3))
        edge = Polygon(outline, fill=False, edgecolor=color, linewidth=1.8, zorder=4)
        edge.set_path_effects([withStroke(linewidth=3.2, foreground="white")])
        axes.add_patch(edge)
        _place_label(axes, box.label, outline.mean(axis=0), color, placed)


def _place_label(
    axes: Axes,
    text: str,
    anchor: NDArray[np.float64],
    color: tuple[float, float, float],
    placed: list[Bbox],
) -> None:
    """Write a label at its box, or as near as it does not hide an earlier one, with a leader."""
    dark = tuple(0.6 * channel for channel in color)
    label = axes.text(
        float(anchor[0]), float(anchor[1]), text, ha="center", va="center", fontsize=8.5,
        fontweight="bold", color=dark, path_effects=HALO, zorder=8, clip_on=True,
    )  # fmt: skip
    window = axes.get_window_extent()
    centred = label.get_window_extent().padded(1.0)
    for offset in LABEL_OFFSETS_PX:
        extent = centred.translated(*offset)
        is_inside = window.x0 < extent.x0 and extent.x1 < window.x1
        is_inside = is_inside and window.y0 < extent.y0 and extent.y1 < window.y1
        if is_inside and not any(extent.overlaps(other) for other in placed):
            break
    else:
        offset, extent = LABEL_OFFSETS_PX[0], centred
    placed.append(extent)
    if offset != LABEL_OFFSETS_PX[0]:
        to_data = axes.transData.inverted()
        moved = to_data.transform(axes.transData.transform(anchor) + np.asarray(offset))
        label.set_position((float(moved[0]), float(moved[1])))
        axes.plot(*zip(anchor, moved, strict=True), color=dark, linewidth=0.8, zorder=7)


def _draw_path(axes: Axes, T_world_camera: NDArray[np.float64]) -> None:
    """Draw where the camera went, and at up to ten places where it looked."""
    if not len(T_world_camera):
        return
    track = T_world_camera[:, :2, 3]
    (line,) = axes.plot(track[:, 0], track[:, 1], color=PATH_COLOR, linewidth=1.8, zorder=5)
    line.set_path_effects([withStroke(linewidth=3.4, foreground="white")])
    length = float(np.linalg.norm(np.diff(track, axis=0), axis=1).sum())
    arrows = min(int(np.clip(length / ARROW_EVERY_M, 5, 10)), len(track))
    some = np.unique(np.linspace(0, len(track) - 1, arrows).round().astype(int))
    ahead = T_world_camera[some, :2, 2]  # the optical axis, flattened
    ahead = ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-6)
    axes.quiver(
        *track[some].T, *(0.35 * ahead).T, color=PATH_COLOR, angles="xy", scale_units="xy",
        scale=1, width=0.006, headwidth=4.5, headlength=5, headaxislength=4.5, zorder=6,
        edgecolor="white", linewidth=0.5,
    )  # fmt: skip
    axes.plot(*track[0], "o", color="white", markeredgecolor=PATH_COLOR, markersize=7, zorder=6)
    axes.plot([], [], "o-", color=PATH_COLOR, markerfacecolor="white", label="camera (o: start)")
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
