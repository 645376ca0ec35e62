# SPDX-License-Identifier: Apache-2.0
"""How a measure is spread over the cases: histogram, cumulative share and where its median lies.

Next: report_pictures.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vidllm_ros.evaluation.report import Outcome

BINS = 40
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
    """Draw one measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    far = float(np.quantile(values, FAR_QUANTILE))
    is_cut = far > values.min() and values.max() > 1.5 * far > 0
    shown = np.minimum(values, far) if is_cut else values
    left.hist(shown, bins=min(BINS, max(5, len(values) // 2)), color="#4878a8")
    median, mean = float(np.median(values)), float(values.mean())
    left.axvline(median, color="#b04030", linewidth=1.5, label=f"median {median:.3g}")
    left.axvline(min(mean, far) if is_cut else mean, color="#303030", linestyle=":")
    left.plot([], [], color="#303030", linestyle=":", label=f"mean {mean:.3g}")
    left.set_xlabel(f"{name}{', last bin: all beyond' if is_cut else ''}")
    left.set_ylabel("cases")
    left.legend(fontsize=8, frameon=False)
    order = np.sort(values)
    right.step(order, np.arange(1, len(order) + 1) / len(order), where="post", color="#4878a8")
    right.set_xlabel(name)
    right.set_ylabel("share of cases at or below")
    right.set_ylim(0, 1.02)
    right.grid(alpha=0.3)
    if is_cut:
        right.set_xlim(order[0], far)
    figure.suptitle(f"{title}: {name}, {len(values)} cases", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
