# SPDX-License-Identifier: Apache-2.0
"""docs/peers.md names the tests that hold its promises: they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "peers.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d", line)
]


def test_there_are_24() -> None:
    assert [int(row[0].split()[0]) for row in ROWS] == list(range(1, 25))
    assert {len(row) for row in ROWS} == {3}


def missing(held_by: str) -> list[str]:
    """Name what a cell promises and the tree does not have."""
    lacking = []
    for part in re.split(r"[;,] (?=test|docs|models|`)", held_by):
        file, _, names = part.partition(": ")
        if not file.startswith("test"):
            continue
        folder = "" if "/" in file else "test/ros/"
        path = ROOT / f"{folder}{file}.py"
        if not path.is_file():
            lacking += [] if (ROOT / file).is_dir() else [file]
            continue
        code = path.read_text(encoding="utf-8")
        for name in filter(None, re.split(r"[;,] ", names)):
            if re.fullmatch(r"[a-z_0-9]+", name) and not re.search(rf"def test_\w*{name}", code):
                lacking.append(f"{file}: {name}")
    return lacking


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_holds_a_promise_is_there(row: list[str]) -> None:
    assert missing(row[2]) == []


def test_missing_tests_are_noticed() -> None:
    assert missing("test_nothing: at_all") == ["test_nothing"]
    assert missing("test_node_topics: two_robots, no_such_test") == [
        "test_node_topics: no_such_test"
    ]
