# SPDX-License-Identifier: Apache-2.0
"""The paper's claims in miniature: which rows there are, what each changes, and their table.

A row is nothing but changed settings of the stages' recipes, so that whoever wants one row alone
changes a recipe by hand. Source: Vid-LLM Table 6 (adapter, bridge tokens, metric depth) and Fig. 5
(stages, teachers, structural loss). Next: cli/ablate.py runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TABLES = ("table6", "fig5")
METRICS = (
    ("held_out_distil_geometry", "eq. 6, geometry", False),
    ("held_out_distil_semantic", "eq. 6, semantic", False),
    ("depth_absrel", "AbsRel", False),
    ("depth_absrel_median_scaled", "AbsRel, median-scaled", False),
    ("fscore_10cm", "F 10 cm", True),
    ("pose_rotation_deg", "rotation (deg)", False),
    ("qa_em", "answers", True),
    ("box_recall25", "boxes@0.25", True),
)
NO_TEACHER = {"kind": "none", "folder": ""}
STAGE1_COST = 0.25  # of a step of stage 2; 0.18 of 0.75 s was measured


@dataclass(frozen=True)
class AblationRow:
    """One line of the table.

    Attributes:
        name: of its folder.
        words: of the line.
        tables: where it belongs.
        stage1: settings of stage 1 that differ from the full method's, by dotted name.
        stage2: likewise of stage 2.
        has_stage1: False trains everything at once, for as long as both stages take.
    """

    name: str
    words: str
    tables: tuple[str, ...]
    stage1: Mapping[str, Any] = field(default_factory=dict)
    stage2: Mapping[str, Any] = field(default_factory=dict)
    has_stage1: bool = True


def adapter_row(name: str, words: str, **settings: Any) -> AblationRow:
    """Return a row whose network differs in both stages."""
    changes = {f"model.{key}": value for key, value in settings.items()}
    return AblationRow(name, words, ("table6",), changes, changes)


ROWS = (
    AblationRow("full", "full: 16 bridge tokens, two teachers, aligned metric depth", TABLES),
    adapter_row("adapter_none", "no adapter: shared features", adapter="none"),
    adapter_row(
        "adapter_concat", "self-attention over both streams", adapter="concat_self_attention"
    ),
    adapter_row("adapter_cross", "cross-attention, no bridge", adapter="cross_attention"),
    adapter_row("bridge_4", "4 bridge tokens", bridge_tokens=4),
    adapter_row("bridge_8", "8 bridge tokens", bridge_tokens=8),
    adapter_row("bridge_32", "32 bridge tokens", bridge_tokens=32),
    AblationRow(
        "metric_none",
        "no metric depth",
        ("table6",),
        stage2={"model.scale_alignment": "none", "losses.metric": 0.0},
    ),
    AblationRow(
        "metric_only",
        "metric depth without alignment",
        ("table6",),
        stage2={"model.scale_alignment": "metric_only"},
    ),
    AblationRow(
        "single_stage",
        "single-stage: no distillation",
        ("fig5",),
        stage2={"model.adapter": "bridge"},  # which the geometry teacher, its start, has not
        has_stage1=False,
    ),
    AblationRow(
        "geometry_only",
        "geometry teacher only",
        ("fig5",),
        stage1={"semantic_teacher": NO_TEACHER},
    ),
    AblationRow(
        "semantic_only",
        "semantic teacher only",
        ("fig5",),
        stage1={"geometry_teacher": NO_TEACHER},
    ),
    AblationRow(
        "no_structure",
        "no structural loss",
        ("fig5",),
        stage1={"losses.distil_structure": 0.0},
    ),
)


def choose_rows(wanted: str) -> tuple[AblationRow, ...]:
    """Return the rows of "table6", "fig5" or "all", or rows by name, comma between.

    Raises:
        ValueError: there is no such row.
    """
    if wanted == "all":
        return ROWS
    if wanted in TABLES:
        return tuple(row for row in ROWS if wanted in row.tables)
    by_name = {row.name: row for row in ROWS}
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise ValueError(
            f"rows: expected 'all', one of {TABLES} or names among {sorted(by_name)}, "
            f"got {wanted!r}"
        )
    return tuple(by_name[name] for name in names)


def change_settings(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with some of them changed, by dotted name or nested themselves."""
    changed = dict(values)
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        below = {rest: value} if rest else value
        if isinstance(below, Mapping) and isinstance(changed.get(first, {}), Mapping):
            changed[first] = change_settings(changed.get(first, {}), below)
        else:
            changed[first] = value
    return changed


def stage1_name(row: AblationRow) -> str:
    """Name what a row's stage 1 depends on: rows with the same settings share its run."""
    if not row.stage1:
        return "full"
    return next(other.name for other in ROWS if other.stage1 == row.stage1)


@dataclass(frozen=True)
class StepPlan:
    """Steps of every run, the same for every row.

    Attributes:
        teacher, stage1, stage2: steps of each teacher, of stage 1 and of stage 2.
        single: of a single-stage row, which take as long as both stages.
    """

    teacher: int
    stage1: int
    stage2: int
    single: int


def split_steps(steps: int, teacher_steps: int, stage1_cost: float) -> StepPlan:
    """Return the steps of every run: stage 1 has a third of stage 2's, a teacher half of them.

    Args:
        steps: of stage 2.
        teacher_steps: of each teacher; 0 gives half of stage 2.
        stage1_cost: time of a step of stage 1 over that of one of stage 2.
    """
    stage1 = max(1, steps // 3)
    single = steps + max(1, round(stage1 * stage1_cost))
    return StepPlan(teacher_steps or max(1, steps // 2), stage1, steps, single)


def plan_steps(
    budget_s: float,
    rows: Sequence[AblationRow],
    seeds: int,
    step_s: Mapping[str, float],
    evaluation_s: float = 0.0,
    teacher_steps: int = 0,
) -> StepPlan:
    """Share a budget so that every row gets the same time, divided as in `split_steps`.

    Args:
        budget_s: wall time for everything.
        rows: to run.
        seeds: of each.
        step_s: seconds a step of "geometry_teacher", "semantic_teacher", "stage1" and "stage2".
        evaluation_s: of one row or stage 1.
        teacher_steps: of each teacher, whatever the rest has; 0 gives half of stage 2.

    Raises:
        ValueError: the budget does not give every row ten steps.
    """
    shared = len({stage1_name(row) for row in rows if row.has_stage1})
    single = sum(not row.has_stage1 for row in rows)
    per_step = seeds * (len(rows) * step_s["stage2"] + (shared + single) / 3 * step_s["stage1"])
    teachers_s = step_s["geometry_teacher"] + step_s["semantic_teacher"] * (shared > 0)
    fixed_s = seeds * (len(rows) + shared) * evaluation_s + teacher_steps * teachers_s
    per_step += 0.0 if teacher_steps else 0.5 * teachers_s
    steps = int((budget_s - fixed_s) / per_step)
    if steps < 10:
        least = (10 * per_step + fixed_s) / 60
        raise ValueError(
            f"budget-minutes: expected at least {least:.1f} for {len(rows)} rows of {seeds} "
            f"seeds, got {budget_s / 60:.1f}; name fewer rows or seeds"
        )
    return split_steps(steps, teacher_steps, step_s["stage1"] / step_s["stage2"])


@dataclass(frozen=True)
class AblationResult:
    """What one run of one row gave."""

    row: str
    seed: int
    numbers: Mapping[str, float]


Summary = dict[str, dict[str, tuple[float, float, int]]]


def summarise(results: Iterable[AblationResult], rows: Sequence[AblationRow]) -> Summary:
    """Return mean, standard deviation and number of seeds by row and metric."""
    kept = list(results)
    table: Summary = {}
    for row in rows:
        found: dict[str, tuple[float, float, int]] = {}
        for metric, _, _ in METRICS:
            values = [r.numbers[metric] for r in kept if r.row == row.name and metric in r.numbers]
            if values:
                several = len(values) > 1
                spread = float(np.std(values, ddof=1)) if several else 0.0
                found[metric] = (float(np.mean(values)), spread, len(values))
        table[row.name] = found
    return table


def result_table(
    results: Iterable[AblationResult],
    rows: Sequence[AblationRow],
    start: Mapping[str, float] | None = None,
) -> str:
    """Return a Markdown table, mean and standard deviation over seeds; best of each bold.

    With several seeds of a row a last line says how far one seed lies from its row's mean: by
    other batches and, of parts the teacher lacks, other initial values. Two single runs differ
    by more than chance only beyond some three times that where it comes from many seeds, six
    times where from three of one row.

    Args:
        results: of rows and seeds.
        rows: in order.
        start: numbers of the network every row begins with, for the first line.
    """
    table = summarise(results, rows)
    lines = [
        "| row | " + " | ".join(words for _, words, _ in METRICS) + " | seeds |",
        "|---|" + "---|" * (len(METRICS) + 1),
    ]
    if start:
        cells = [f"{start[metric]:.3f}" if metric in start else "" for metric, *_ in METRICS]
        lines.append(f"| where rows begin: the geometry teacher | {' | '.join(cells)} | |")
    for row in rows:
        cells = [cell(table, row.name, metric, is_more) for metric, _, is_more in METRICS]
        seeds = max((count for _, _, count in table[row.name].values()), default=0)
        lines.append(f"| {row.words} | {' | '.join(cells)} | {seeds} |")
    spreads = [
        pooled_spread(found.get(metric) for found in table.values()) for metric, *_ in METRICS
    ]
    if any(spread is not None for spread in spreads):
        words = ["" if spread is None else f"± {spread:.3f}" for spread in spreads]
        lines.append(f"| spread of one seed (standard deviation) | {' | '.join(words)} | |")
    return "\n".join(lines) + "\n"


def pooled_spread(rows: Iterable[tuple[float, float, int] | None]) -> float | None:
    """Return the standard deviation of one seed, pooled over rows of (mean, deviation, seeds)."""
    several = [row for row in rows if row is not None and row[2] > 1]
    freedom = sum(count - 1 for _, _, count in several)
    squares = sum((count - 1) * spread**2 for _, spread, count in several)
    return float(np.sqrt(squares / freedom)) if freedom else None


def cell(
    table: Mapping[str, Mapping[str, tuple[float, float, int]]],
    row: str,
    metric: str,
    is_more_better: bool,
) -> str:
    """Write one number of the table; nothing where it was not measured."""
    if metric not in table[row]:
        return ""
    means = [found[metric][0] for found in table.values() if metric in found]
    mean, spread, count = table[row][metric]
    text = f"{mean:.3f}" + (f" ± {spread:.3f}" if count > 1 else "")
    is_best = mean == (max(means) if is_more_better else min(means))
    return f"**{text}**" if is_best and len(set(means)) > 1 else text
