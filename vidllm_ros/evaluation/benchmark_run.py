# SPDX-License-Identifier: Apache-2.0
"""Predict every case of a benchmark, so that a run can be stopped, gone on with, and split up.

Each process appends one line of JSON a case to its own file, in one write; arrays go to files
first. Whoever starts again reads all those files, drops a torn last line, and predicts what is
missing. Next: report.py, which holds what was predicted against the truth.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidllm_ros.evaluation.benchmark_cases import CASE_ID, Benchmark, Cases, Record
from vidllm_ros.evaluation.predictor import Predictor

ARRAYS = "arrays"
RUN_FILE = "run.json"
MEMORY_STEP = "memory_step"
"""Where an identity keeps what memory made a run give up; it is left out where that is nothing."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Predictions(Mapping[str, Record]):
    """Records by case id; a field that names an array's file is read when it is asked for.

    Args:
        records: as read from JSON.
        folder: array files are below it.
        array_fields: the fields that hold arrays, or name their files.
    """

    def __init__(
        self, records: Mapping[str, Record], folder: Path, array_fields: tuple[str, ...] = ()
    ) -> None:
        self.records, self.folder, self.array_fields = dict(records), folder, array_fields

    def __getitem__(self, case_id: str) -> Record:
        record = dict(self.records[case_id])
        for name in self.array_fields:
            if isinstance(record.get(name), str):
                record[name] = load_array(self.folder / record[name], case_id, name)
        return record

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def load_array(file: Path, case_id: str, name: str) -> np.ndarray[Any, Any]:
    """Read an array of a prediction, .npy.

    Raises:
        FileNotFoundError, ValueError: it is missing or torn; names the case and the field.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, field {name!r} of prediction {case_id!r}")
    try:
        return np.asarray(np.load(file, allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{file}, field {name!r} of prediction {case_id!r}: expected a whole .npy, got "
            f"{error}; predict it again"
        ) from error


def read_predictions(path: Path, array_fields: tuple[str, ...] = ()) -> Predictions:
    """Read anybody's predictions: .json, .jsonl, or the folder a run has written.

    A .json is a list of records, {case id: record}, or {"predictions": either}. Each record has
    `case_id` and the fields its benchmark asks for; arrays as lists or as names of .npy files
    beside.

    Raises:
        FileNotFoundError, ValueError: a file is missing or torn, a record has no case id, or two
            have the same.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("predictions*.jsonl"))
        if not files:
            raise FileNotFoundError(f"{path}: expected predictions*.jsonl in it, found none")
        lines = [entry for file in files for entry in _read_lines(file, torn_end=True)]
        return Predictions(_by_case(lines), path, array_fields)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a predictions file or its folder")
    if path.suffix == ".jsonl":
        return Predictions(_by_case(_read_lines(path)), path.parent, array_fields)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}; write it again") from error
    if isinstance(data, dict) and "predictions" in data:
        data = data["predictions"]
    if isinstance(data, dict):
        data = [
            {CASE_ID: key, **value} if isinstance(value, dict) else value
            for key, value in data.items()
        ]
    if not isinstance(data, list):
        raise ValueError(f"{path}: expected a list of records, got {type(data).__name__}")
    entries = [(f"{path}, record {index}", record) for index, record in enumerate(data)]
    return Predictions(_by_case(entries), path.parent, array_fields)


def _read_lines(file: Path, torn_end: bool = False) -> list[tuple[str, Any]]:
    entries: list[tuple[str, Any]] = []
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")  # splitlines() would also split at U+2028 inside a record
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entries.append((f"{file}, line {number}", json.loads(line)))
        except ValueError as error:
            if torn_end and number == len(lines):
                break  # the run was stopped in the middle of this write
            raise ValueError(f"{file}, line {number}: expected JSON, got {error}") from error
    return entries


def _by_case(entries: list[tuple[str, Any]]) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for where, record in entries:
        if not isinstance(record, dict) or not isinstance(record.get(CASE_ID), str):
            raise ValueError(f"{where}: expected a record with {CASE_ID!r}, got {record!r:.60}")
        if record[CASE_ID] in records:
            raise ValueError(f"{where}: {CASE_ID} {record[CASE_ID]!r} is there twice; mend it")
        records[record[CASE_ID]] = record
    return records


@dataclass
class RunFolder:
    """Where a run keeps its predictions.

    Attributes:
        path: the folder.
        identity: benchmark, split, model and settings; another identity is another run.
        process: number of this process, which has a file of its own.
    """

    path: Path
    identity: Mapping[str, str]
    process: int = 0

    @property
    def own_file(self) -> Path:
        return self.path / f"predictions-{self.process}.jsonl"

    def claim(self) -> None:
        """Make the folder this run's; the first process alone writes down what the run is.

        Raises:
            ValueError: it is another run's; says what differs.
        """
        (self.path / ARRAYS).mkdir(parents=True, exist_ok=True)
        file = self.path / RUN_FILE
        if file.is_file():
            was = read_identity(self.path)
            if was != dict(self.identity):
                keys = sorted(
                    k for k in {*was, *self.identity} if was.get(k) != self.identity.get(k)
                )
                raise ValueError(
                    f"{self.path}: expected predictions of this run, got others ("
                    + ", ".join(
                        f"{k} {was.get(k)!r} is now {self.identity.get(k)!r}" for k in keys
                    )
                    + "); remove the folder or choose another --out"
                )
        elif self.process == 0:
            write_whole(file, json.dumps(dict(self.identity), indent=1) + "\n")

    def open(self) -> Predictions:
        """Return what is there already.

        Raises:
            ValueError: the folder is of another run; says what differs.
        """
        self.claim()
        self._drop_torn_end()
        if not list(self.path.glob("predictions*.jsonl")):
            return Predictions({}, self.path)
        return read_predictions(self.path)

    def _drop_torn_end(self) -> None:
        if not self.own_file.is_file():
            return
        data = self.own_file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(self.own_file, whole)

    def append(self, case_id: str, record: Record) -> None:
        """Store a record: its arrays, then its line in one write."""
        stored: dict[str, Any] = {CASE_ID: case_id}
        for name, value in record.items():
            if isinstance(value, np.ndarray):
                place = f"{ARRAYS}/{_UNSAFE.sub('_', case_id)}.{name}.npy"
                beside = self.path / f"{place}.{os.getpid()}.tmp"
                with beside.open("wb") as file:
                    np.save(file, value, allow_pickle=False)
                os.replace(beside, self.path / place)
                stored[name] = place
            else:
                stored[name] = value
        line = (json.dumps(stored) + "\n").encode()
        handle = os.open(self.own_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.write(handle, line) != len(line):
                raise OSError(f"{self.own_file}: could not write a whole line; is the disk full?")
        finally:
            os.close(handle)


def read_identity(path: Path) -> dict[str, Any]:
    """Return what the run in a folder is; nothing where none is written down, or torn."""
    try:
        was = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return was if isinstance(was, dict) else {}


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside its place, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def predict_cases(
    benchmark: Benchmark,
    cases: Cases,
    predictor: Predictor,
    folder: RunFolder,
    on_scene: Callable[[int], None] | None = None,
) -> int:
    """Predict the cases that have no record yet; return how many that were.

    Args:
        benchmark: says how a case is asked.
        cases: of this process.
        predictor: is shown each scene once.
        folder: takes the records.
        on_scene: told after every scene how many of its cases are done.
    """
    there = set(folder.open())
    fresh = 0
    for scene_id in cases.scene_ids:
        items = cases.cases_of(scene_id)
        missing = [case for case in items if case.case_id not in there]
        if missing:
            seen = predictor.see(cases.open_scene(scene_id))
            for case in missing:
                record = benchmark.predict(predictor, seen, case)
                folder.append(case.case_id, record)
                fresh += 1
        if on_scene is not None:
            on_scene(len(items))
    return fresh
