# SPDX-License-Identifier: Apache-2.0
"""`vidllm ablate`: the paper's Table 6 and Fig. 5 in miniature, one command, a fixed budget a row.

Teachers are trained once, and with the weights of the one of geometry every row begins; every row
then has its own stage 1 (shared where rows do not differ in it) and stage 2, the same time, the
same rooms and the same seeds. A folder that has begun goes on where it stopped, and the same
command in a second process takes its share. Next: evaluation/ablation.py lists the rows,
ablation_plan.py says what runs, ablation_run.py runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vidllm_ros.cli.command import FAILED, complain, note, run_command


def ablate(
    out: Annotated[Path, typer.Option(help="Folder of the runs and the result.")],
    budget_minutes: Annotated[
        float, typer.Option(help="Wall time of one process for all; steps a row follow from it.")
    ] = 360.0,
    seeds: Annotated[str, typer.Option(help="Seeds, comma or space between.")] = "0,1,2",
    rows: Annotated[str, typer.Option(help="table6, fig5, all, or names of rows.")] = "all",
    recipes: Annotated[Path, typer.Option(help="Folder of the four recipes.")] = Path(
        "config/train"
    ),
    changes: Annotated[
        Path | None,
        typer.Option(help="YAML of settings to change, by recipe or for all."),
    ] = None,
    data: Annotated[str, typer.Option(help="Folder of rendered rooms; else as recipes say.")] = "",
    rooms: Annotated[int, typer.Option(help="Validation rooms a row is measured on.")] = 20,
    steps: Annotated[
        int, typer.Option(help="Steps of stage 2, instead of what the budget gives.")
    ] = 0,
    teacher_steps: Annotated[
        int, typer.Option(help="Steps of each teacher; 0: half of stage 2's.")
    ] = 0,
    stop_after_minutes: Annotated[
        float, typer.Option(help="Stop, saved, after this wall time; the same command goes on.")
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
    report_only: Annotated[bool, typer.Option(help="Only show the rows that are done.")] = False,
) -> None:
    """Train and measure every row of an ablation within a budget."""
    from vidllm_ros.cli.ablation_plan import AblationSettings, read_changes
    from vidllm_ros.cli.ablation_run import AblationRun
    from vidllm_ros.evaluation.ablation import choose_rows

    settings = AblationSettings(
        out=out,
        rows=choose_rows(rows),
        seeds=parse_seed_list(seeds),
        recipes=recipes,
        changes=read_changes(changes, data),
        rooms=rooms,
        budget_s=60.0 * budget_minutes,
        steps=steps,
        teacher_steps=teacher_steps,
        stop_after_s=60.0 * stop_after_minutes,
    )
    run = AblationRun(settings)
    is_done = True
    if not report_only:
        if not dry_run:
            run.plan.check_rooms()
        note(run.plan.describe())
        if dry_run:
            return
        is_done = run.train()
    table = run.report()
    if table is None:
        note(f"{out}: no row is done yet")
    else:
        print(table)
        note(f"{out}/ablation.md, ablation.json, ablation.png")
    for folder, reason in run.lost.items():
        complain(f"left out: {folder}: {reason}")
    if run.lost:
        raise typer.Exit(FAILED)
    if not is_done:
        note("stopped and saved; the same command goes on")


def parse_seed_list(text: str) -> tuple[int, ...]:
    """Read seeds.

    Raises:
        ValueError: they are not whole numbers.
    """
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdigit() for part in parts):
        raise ValueError(f"seeds: expected whole numbers such as 0,1,2, got {text!r}")
    return tuple(int(part) for part in parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(ablate, "ablate", argv)


if __name__ == "__main__":
    raise SystemExit(main())
