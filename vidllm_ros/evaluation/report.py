# SPDX-License-Identifier: Apache-2.0
"""Write what came out: flat JSON, a Markdown table beside the paper's rows, plots and a page.

    report.json   numbers by name, and how they were made
    report.md     the same as tables, with the protocol's variant and the caveats
    report.plots/ distributions of errors
    report.html   the 50 worst and 20 random cases with pictures

Next: report_plots.py, report_page.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidllm_ros.evaluation.benchmark_cases import Benchmark, Cases, Record, Scores
from vidllm_ros.evaluation.benchmark_run import write_whole
from vidllm_ros.evaluation.paper_tables import PaperRow, caveats_of, rows_of

DIGITS = 5
TOLD = {  # facts of a run that make another number of it
    "given": "Given to the model",
    "boxes": "Boxes",
    "predictions_not_scored": "Predictions of other cases, not scored",
}


@dataclass(frozen=True)
class Outcome:
    """All that a report tells.

    Attributes:
        benchmark: what was measured on.
        cases: of the split.
        predictions: by case id.
        scores: what came out.
        model: name of what was measured.
        facts: further entries of the JSON: frames, minutes, command, ...
    """

    benchmark: Benchmark
    cases: Cases
    predictions: Mapping[str, Record]
    scores: Scores
    model: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def report_entries(outcome: Outcome) -> dict[str, Any]:
    """Return the JSON's entries: every number under its own name, then how it was made."""
    return {
        **{name: round(value, DIGITS) for name, value in outcome.scores.values.items()},
        "benchmark": outcome.benchmark.name,
        "split": outcome.cases.split,
        "model": outcome.model,
        "cases": len(outcome.scores.per_case),
        "variant": outcome.scores.variant,
        "source": outcome.benchmark.source,
        "caveats": caveats_of(outcome.benchmark.name),
        **outcome.facts,
    }


def markdown(outcome: Outcome) -> str:
    """Return the report as Markdown."""
    scores = outcome.scores
    lines = [
        f"# {outcome.benchmark.title}",
        "",
        f"Model: {outcome.model}. Split: {outcome.cases.split}, {len(scores.per_case)} cases.",
        "",
        f"Protocol: {scores.variant}",
        "",
        f"Source: {outcome.benchmark.source}.",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {cell(name)} | {number(value)} |" for name, value in scores.values.items()),
        "",
    ]
    rows = rows_of(outcome.benchmark.name)
    if rows:
        lines += ["## Beside published rows", "", *paper_table(outcome, rows), ""]
    caveats = caveats_of(outcome.benchmark.name)
    if caveats:
        lines += ["Read with care:", "", *(f"- {caveat}" for caveat in caveats), ""]
    for name, words in TOLD.items():
        if name in outcome.facts:
            lines += [f"{words}: {outcome.facts[name]}.", ""]
    if "command" in outcome.facts:
        lines += [f"Made by `{outcome.facts['command']}`.", ""]
    return "\n".join(lines)


def paper_table(outcome: Outcome, rows: Sequence[PaperRow]) -> list[str]:
    """Return ours and the published rows, one column a measure; "-" where a row has none."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    ours = PaperRow(outcome.benchmark.name, outcome.model, "this run", outcome.scores.values)
    lines = [
        f"| method | {' | '.join(cell(name) for name in names)} | from |",
        "|---" * (len(names) + 2) + "|",
    ]
    for row in (ours, *rows):
        shown = [number(row.values[name]) if name in row.values else "-" for name in names]
        lines.append(f"| {cell(row.method)} | {' | '.join(shown)} | {cell(row.source)} |")
    return lines


def number(value: float) -> str:
    """Write a number with the digits a table has."""
    if float(value).is_integer() and abs(value) >= 1:
        return str(int(value))
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def cell(text: str) -> str:
    """Keep a text from breaking its table."""
    return text.replace("|", "\\|").replace("\n", " ")


def write_report(out: Path, outcome: Outcome, pages: bool = True) -> list[Path]:
    """Write the report's files and return them.

    Args:
        out: the JSON; the others lie beside under its name.
        outcome: what to tell.
        pages: plots and the page of cases as well.
    """
    written = [out, out.with_suffix(".md")]
    write_whole(out, json.dumps(report_entries(outcome), indent=1) + "\n")
    write_whole(written[1], markdown(outcome))
    if pages:
        from vidllm_ros.evaluation.report_page import write_page
        from vidllm_ros.evaluation.report_plots import write_plots

        plots = write_plots(out.with_name(f"{out.stem}.plots"), outcome)
        written += [*plots, write_page(out.with_suffix(".html"), outcome, plots)]
    return written
