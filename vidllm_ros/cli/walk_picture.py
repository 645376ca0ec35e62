# SPDX-License-Identifier: Apache-2.0
"""Walks from above: the true path, the registered one and the one chained by single frames.

Next: bench_walk.py, which measures them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vidllm_ros.cli.output_files import write_picture
from vidllm_ros.cli.walk_measures import lay_on_first

Walk = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""Name, and (S, 4, 4) poses: in truth, registered, chained."""
LINES = (
    ("truth", "#20242a", "-"),
    ("windows registered by all shared frames", "#d81b60", "-"),
    ("windows chained by one frame", "#1e88e5", "--"),
)


def draw_walks(path: Path, walks: Sequence[Walk]) -> None:
    """Write a panel a walk, all first poses laid on the truth, in metres, to a PNG."""
    figure = Figure(figsize=(4.6 * len(walks), 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for column, (name, truth, poses, chained) in enumerate(walks):
        axes = figure.add_subplot(1, len(walks), column + 1)
        for (label, color, style), which in zip(LINES, (truth, poses, chained), strict=True):
            place = lay_on_first(which, truth)[:, :2, 3]
            axes.plot(*place.T, style, color=color, linewidth=1.6, label=label)
            axes.plot(*place[-1], "o", color=color, markersize=4)
        axes.plot(*truth[0, :2, 3], "s", color="#20242a", markersize=5)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("x, m")
        axes.set_ylabel("y, m")
        axes.grid(alpha=0.25)
        if column == 0:
            axes.legend(fontsize=7)
    write_picture(path, figure)
