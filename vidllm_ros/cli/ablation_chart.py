# SPDX-License-Identifier: Apache-2.0
"""The ablation as a chart: one panel a metric, one line a row, a dot a seed and a tick the mean.

A dashed line carries the full method's mean to the others, a band around it two standard
deviations of one seed where several of a row were run. Dots rather than bars: what matters is
whether rows overlap. Next: ablation_run.py, which writes the table beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vidllm_ros.cli.output_files import write_picture
from vidllm_ros.evaluation.ablation import (
    METRICS,
    AblationResult,
    AblationRow,
    pooled_spread,
    summarise,
)

PANELS = 4  # beside each other
DOT, MEAN, FULL = "#4a7fb5", "#20242a", "#d9534f"


def draw_chart(path: Path, results: Sequence[AblationResult], rows: Sequence[AblationRow]) -> None:
    """Draw the metrics that were measured and write the picture (PNG)."""
    panels = [metric for metric in METRICS if any(metric[0] in r.numbers for r in results)]
    if not panels:
        raise ValueError("results: expected at least one measured metric, got none")
    table = summarise(results, rows)
    lines = -(-len(panels) // PANELS)
    columns = -(-len(panels) // lines)
    size = (2.6 * columns + 3.2, lines * (0.26 * len(rows) + 0.9))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (metric, words, is_more_better) in zip(grid.flat, panels, strict=False):
        for place, row in enumerate(rows):
            values = [
                r.numbers[metric] for r in results if r.row == row.name and metric in r.numbers
            ]
            color = FULL if row.name == "full" else DOT
            axes.plot(values, [place] * len(values), "o", color=color, ms=4, alpha=0.7)
            if len(values) > 1:
                axes.plot(np.mean(values), place, "|", color=MEAN, ms=12, mew=2)
        full = table.get("full", {}).get(metric)
        if full is not None:
            spread = pooled_spread(found.get(metric) for found in table.values()) or 0.0
            axes.axvline(full[0], color=FULL, lw=0.8, ls="--", alpha=0.7)
            axes.axvspan(full[0] - 2 * spread, full[0] + 2 * spread, color=FULL, alpha=0.08, lw=0)
        axes.set_title(f"{words} ({'more' if is_more_better else 'less'} is better)", fontsize=8)
        axes.grid(axis="x", lw=0.4, alpha=0.5)
        axes.tick_params(labelsize=8)
    grid[0, 0].set_yticks(range(len(rows)), [row.words for row in rows])
    grid[0, 0].invert_yaxis()
    write_picture(path, figure)
