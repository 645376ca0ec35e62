# SPDX-License-Identifier: Apache-2.0
"""How a measure is spread over the cases: histogram, cumulative share and where its median lies.

Few cases are drawn one by one, and yes or no as two bars: no distribution says more of them.

Next: report_pictures.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vidllm_ros.evaluation.report import Outcome

BINS = 40
FEW = 12  # cases that are drawn one by one
BLUE = "#4878a8"
FAR_QUANTILE = 0.99  # the last bin takes what lies beyond
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def values_of(outcome: Outcome, name: str) -> NDArray[np.float64]:
    """Return a measure of every case that has it, (N,)."""
    rows = outcome.scores.per_case.values()
    found = [row[name] for row in rows if isinstance(row.get(name), (int, float, bool))]
    return np.asarray(found, np.float64)


def write_plots(folder: Path, outcome: Outcome) -> list[Path]:
    """Draw each measure the scorer wants to see drawn, and return the files."""
    scores = outcome.scores
    tasks = {row.get("task") for row in scores.per_case.values()}
    by = (scores.worst_by,) if len(tasks) == 1 else ()  # of unlike things no one distribution
    names = dict.fromkeys((*by, *scores.plotted))
    drawn = []
    for name in names:
        values = values_of(outcome, name)
        if len(values) >= 2:
            file = folder / f"{_UNSAFE.sub('_', name)}.png"
            draw_distribution(file, name, values, outcome.benchmark.title)
            drawn.append(file)
    return drawn


def draw_distribution(file: Path, name: str, values: NDArray[np.float64], title: str) -> None:
    """Draw one measure: yes or no as two bars, few cases one by one, many as a distribution."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: {name}, {len(values)} cases", fontsize=10)
    if np.isin(values, (0.0, 1.0)).all():
        axes = figure.subplots()
        draw_yes_no(axes, values)
        counted = axes.xaxis
    else:
        left, right = figure.subplots(1, 2)
        counted = left.yaxis
        if len(values) < FEW:
            draw_each(left, values)
        else:
            draw_histogram(left, values)
        draw_share(right, values)
        left.set_xlabel(name if len(values) < FEW else f"{name}{cut_words(values)}")
        right.set_xlabel(name)
    counted.set_major_locator(MaxNLocator(integer=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def far_end(values: NDArray[np.float64]) -> float | None:
    """Return where the picture ends if few cases lie far beyond the others, else None."""
    far = float(np.quantile(values, FAR_QUANTILE))
    return far if far > values.min() and values.max() > 1.5 * far > 0 else None


def cut_words(values: NDArray[np.float64]) -> str:
    """Say that the last bin holds more than its width, where it does."""
    return "" if far_end(values) is None else ", last bin: all beyond"


def draw_yes_no(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draw how often a measure that is 0 or 1 is which."""
    counts = [int((values == value).sum()) for value in (0.0, 1.0)]
    bars = axes.barh(["0", "1"], counts, color=["#b0b0b0", BLUE], height=0.6)
    axes.bar_label(bars, [f"{c} ({c / len(values):.0%})" for c in counts], padding=4)
    axes.set_xlabel("cases")
    axes.margins(x=0.15)


def draw_each(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draw every case as a bar, smallest at the bottom."""
    axes.barh(np.arange(1, len(values) + 1), np.sort(values), color=BLUE, height=0.7)
    axes.set_ylabel("cases, by value")
    mark(axes, values, None)


def draw_histogram(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draw a histogram; what lies far beyond the others goes into its last bin."""
    far = far_end(values)
    shown = values if far is None else np.minimum(values, far)
    axes.hist(shown, bins=min(BINS, max(5, len(values) // 2)), color=BLUE)
    axes.set_ylabel("cases")
    mark(axes, values, far)


def mark(axes: Axes, values: NDArray[np.float64], far: float | None) -> None:
    """Mark median and mean, their numbers above the axes."""
    median, mean = float(np.median(values)), float(values.mean())
    at = mean if far is None else min(mean, far)
    axes.axvline(median, color="#b04030", linewidth=1.5, label=f"median {median:.3g}")
    axes.axvline(at, color="#303030", linestyle=":", label=f"mean {mean:.3g}")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False, borderpad=0
    )


def draw_share(axes: Axes, values: NDArray[np.float64]) -> None:
    """Draw which share of the cases is at or below a value."""
    order, far = np.sort(values), far_end(values)
    share = np.arange(len(order) + 1) / len(order)
    axes.step(np.concatenate([order[:1], order]), share, where="post", color=BLUE)
    axes.set_ylabel("share of cases at or below")
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if far is not None:
        axes.set_xlim(order[0] - 0.05 * (far - order[0]), far)
