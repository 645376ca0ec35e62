# SPDX-License-Identifier: Apache-2.0
"""frames.png: what the camera saw over how far away the network thinks it is.

One column a frame, evenly chosen; under the image the depth of the network and, where it is known,
the true depth, all in one colour scale in metres. Next: demo_report.py measures the same.
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
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from vidllm_ros.cli.output_files import write_picture
from vidllm_ros.structures import check_shape

INK = "#20242a"
NO_DEPTH = "#d9d9d9"


@dataclass(frozen=True)
class SeenFrame:
    """One frame and its depths; NaN where unknown.

    Attributes:
        image: (H, W, 3), uint8 RGB.
        depth: of the network, (h, w), m, any size of the same shape of view.
        truth: (h', w'), m, or None.
        time_s: since the first frame of the film.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    truth: NDArray[np.float32] | None = None
    time_s: float = 0.0

    def __post_init__(self) -> None:
        check_shape("image", self.image, (None, None, 3))
        check_shape("depth", self.depth, (None, None))


def draw_frames(path: Path, frames: Sequence[SeenFrame], columns: int = 6) -> None:
    """Draw at most `columns` of the frames over their depth and write them to `path` (PNG)."""
    if not frames:
        raise ValueError("frames: expected at least one frame, got none; nothing can be drawn")
    picks = np.unique(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round())
    chosen = [frames[int(index)] for index in picks]
    has_truth = any(frame.truth is not None for frame in chosen)
    names = ["camera", "network", *(["truth"] if has_truth else [])]
    height, width = chosen[0].image.shape[:2]
    cell_in = 2.1 if len(chosen) > 2 else 3.4
    size = (cell_in * len(chosen) + 1.5, cell_in * height / width * len(names) + 0.6)
    engine = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=size, dpi=130, layout=engine)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(names), len(chosen), squeeze=False)
    span = depth_span(chosen)
    colors = colormaps["turbo_r"].with_extremes(bad=NO_DEPTH)
    for column, frame in enumerate(chosen):
        grid[0, column].imshow(frame.image)
        grid[0, column].set_title(f"{frame.time_s:.1f} s", fontsize=10, color=INK)
        for row, depth in enumerate([frame.depth, frame.truth][: len(names) - 1], start=1):
            shown = np.full((1, 1), np.nan, np.float32) if depth is None else depth
            extent = (0, width, height, 0)
            picture = grid[row, column].imshow(
                np.ma.masked_invalid(shown), cmap=colors, vmin=span[0], vmax=span[1],
                extent=extent, interpolation="nearest",
            )  # fmt: skip
    for row, name in enumerate(names):
        grid[row, 0].set_ylabel(name, fontsize=11, color=INK)
        for axes in grid[row]:
            _strip(axes)
    bar = figure.colorbar(picture, ax=grid[1:], fraction=0.05, pad=0.01, aspect=18)
    bar.set_label("depth (m)", fontsize=10, color=INK)
    bar.ax.invert_yaxis()
    write_picture(path, figure)


def depth_span(frames: Sequence[SeenFrame]) -> tuple[float, float]:
    """Return the depths that the colours begin and end at, m: 1 % and 99 % of what is shown."""
    shown = [
        depth for frame in frames for depth in (frame.depth, frame.truth) if depth is not None
    ]
    values = np.concatenate([depth[np.isfinite(depth)] for depth in shown])
    if not len(values):
        return 0.0, 1.0
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(max(high, low + 0.1))


def _strip(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
