# SPDX-License-Identifier: Apache-2.0
"""`vidllm curves`: a run's losses and metrics against the samples it has seen, as one picture.

Reads log.jsonl and curve.jsonl of one run or several; a run in progress may be drawn. Next:
training/run_log.py, which writes both files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vidllm_ros.cli.command import note, run_command
from vidllm_ros.cli.output_files import check_file_target, write_picture

LOG, CURVE = "log.jsonl", "curve.jsonl"
PLACES = ("step", "scenes", "seconds", "progress", "lr_factor", "data_s", "step_s")
COLUMNS = 4


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, drawn over each other.")],
    out: Annotated[Path, typer.Option(help="Picture to write, PNG.")],
    terms: Annotated[
        str, typer.Option(help="Names to draw, comma between; else the loss and all metrics.")
    ] = "",
) -> None:
    """Draw losses and validation metrics against the number of scenes seen."""
    check_file_target("out", out, ".png")
    read = {run: (read_rows(run / LOG), read_rows(run / CURVE)) for run in runs}
    empty = [str(run) for run, (log, curve) in read.items() if not log and not curve]
    if empty:
        raise FileNotFoundError(f"runs: expected {LOG} or {CURVE} in {', '.join(empty)}; got none")
    wanted = [name.strip() for name in terms.split(",") if name.strip()] or metric_names(read)
    figure = draw_curves(read, wanted)
    write_picture(out, figure)
    note(str(out))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a line that is being written is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def metric_names(read: dict[Path, tuple[list[dict[str, Any]], list[dict[str, Any]]]]) -> list[str]:
    """Return the loss and every validation metric of any run."""
    names = {name for _, curve in read.values() for row in curve for name in row}
    return ["loss", *sorted(names - {*PLACES, "loss"})]


def draw_curves(
    read: dict[Path, tuple[list[dict[str, Any]], list[dict[str, Any]]]], wanted: Sequence[str]
) -> Figure:
    """Draw one panel a name; smoothed terms of the log as lines, metrics with dots.

    A run has one colour in all panels, also where it alone has the name.

    Raises:
        ValueError: no run has a name.
    """
    columns = min(COLUMNS, len(wanted))
    lines = -(-len(wanted) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * lines + 0.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(grid, wanted, strict=False):
        drawn = 0
        for number, (log, curve) in enumerate(read.values()):
            rows, style = [row for row in log if name in row], "-"
            if not rows:
                rows, style = [row for row in curve if name in row], "o-"
            if rows:
                points = [row["scenes"] for row in rows], [row[name] for row in rows]
                axes.plot(*points, style, ms=3, lw=1, color=f"C{number}")
                drawn += 1
        if not drawn:
            raise ValueError(f"terms: expected names in the runs' logs, got {name!r}")
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(lw=0.3, alpha=0.6)
    for axes in grid[len(wanted) :]:
        axes.set_visible(False)
    grid[0].set_xlabel("scenes seen", fontsize=8)
    if len(read) > 1:
        handles = [Line2D([], [], color=f"C{i}", label=run.name) for i, run in enumerate(read)]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(read), fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(curves, "curves", argv)


if __name__ == "__main__":
    raise SystemExit(main())
