# SPDX-License-Identifier: Apache-2.0
"""The paper's tables as data: rows to print beside ours, and what is odd about them.

Only numbers that are known for certain are in the file: read in the paper, or told alike by two
accounts of it that do not copy each other (`known_from`). `left_out` names what is not.
Percentages and shares stand as the tables print them. Next: report.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

DATA_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class PaperRow:
    """A row of somebody's table.

    Attributes:
        benchmark: on our command line.
        method: as the table calls it.
        source: the table, or the paper.
        values: number by our name of the measure; names of ours only where it is the same measure.
    """

    benchmark: str
    method: str
    source: str
    values: Mapping[str, float]


@lru_cache(maxsize=1)
def _data() -> Any:
    return json.loads(DATA_FILE.read_text(encoding="utf-8"))


def rows_of(benchmark: str) -> list[PaperRow]:
    """Return the rows about a benchmark: Vid-LLM's tables first, then other papers' own."""
    data = _data()
    rows = [PaperRow(r["benchmark"], r["method"], source_of(r), r["values"]) for r in data["rows"]]
    rows += [
        PaperRow(r["benchmark"], r["method"], r["source"], r["values"]) for r in data["elsewhere"]
    ]
    return [row for row in rows if row.benchmark == benchmark]


def source_of(row: Mapping[str, Any]) -> str:
    """Say which table a row is of, and how it is known where nobody has read it there."""
    known = f", {row['known_from']}" if "known_from" in row else ""
    return f"Vid-LLM, Table {row['table']}{known}"


def caveats_of(benchmark: str) -> list[str]:
    """Return what has to be said beside the rows of a benchmark."""
    return list(_data()["caveats"].get(benchmark, ()))


def left_out() -> dict[str, str]:
    """Return, by table, which rows are not in the file."""
    return dict(_data()["left_out"])
