# SPDX-License-Identifier: Apache-2.0
"""Published JSON and CSV records, taken apart with errors that name file, record and field.

A benchmark number is only as good as the files behind it: nothing here guesses, skips or repairs.
Every reader of this folder goes through `Entry`. Next: scannet_scene.py, then scanqa.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN = 60  # characters of a wrong value in a message
CSV_FIELD_LIMIT = 1 << 24  # the longest token list a row may hold


class AnnotationError(ValueError):
    """A published file is not what its format says; the message names file, record and field."""


def shorten(value: object) -> str:
    """Return a value as an error shows it: type first, then its beginning."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= SHOWN else text[:SHOWN] + '...'}"


@dataclass(frozen=True)
class Entry:
    """One record of a published file.

    Attributes:
        path: the file.
        name: which record, as an error says it: "record 12 (question_id 'val-scene0000-0')".
        raw: its fields.
    """

    path: Path
    name: str
    raw: Mapping[str, Any]

    def error(self, field: str, expected: str, got: str = "", remedy: str = "") -> AnnotationError:
        """Build the error for a field; `got` is the field's value where it is not said."""
        if not got:
            got = shorten(self.raw[field]) if field in self.raw else "no such field"
        advice = remedy or "mend the record or download the file again"
        return AnnotationError(
            f"{self.path}: {self.name}: {field}: expected {expected}, got {got}; {advice}"
        )

    def text(self, field: str, *, may_be_empty: bool = False) -> str:
        """Return a string; blank ones are refused unless allowed."""
        value = self.raw.get(field)
        if not isinstance(value, str) or not (may_be_empty or value.strip()):
            raise self.error(field, "a string" if may_be_empty else "a string with words")
        return value

    def integer(self, field: str) -> int:
        """Return an integer; "34" counts, as ScanRefer writes its ids, 3.0 and true do not."""
        value = self.raw.get(field)
        if isinstance(value, str) and value.strip().lstrip("-").isdigit():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(field, "an integer")
        return value

    def number(self, field: str) -> float:
        """Return a finite number."""
        value = self.raw.get(field)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or value != value or value in (float("inf"), float("-inf")):
            raise self.error(field, "a finite number")
        return float(value)  # type: ignore[arg-type]

    def items(self, field: str, least: int = 0) -> list[Any]:
        """Return a list of at least so many items."""
        value = self.raw.get(field)
        if not isinstance(value, list) or len(value) < least:
            raise self.error(field, f"a list of at least {least}" if least else "a list")
        return value

    def texts(self, field: str, least: int = 0) -> tuple[str, ...]:
        """Return a list of strings."""
        values = self.items(field, least)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(f"{field}[{index}]", "a string", shorten(value))
        return tuple(values)

    def integers(self, field: str, least: int = 0) -> tuple[int, ...]:
        """Return a list of integers."""
        values = self.items(field, least)
        for index, value in enumerate(values):
            if not isinstance(value, int) or isinstance(value, bool):
                raise self.error(f"{field}[{index}]", "an integer", shorten(value))
        return tuple(values)

    def flag(self, field: str) -> bool:
        """Return a truth value; CSV files write it as "True" or "False"."""
        value = self.raw.get(field)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if not isinstance(value, bool):
            raise self.error(field, "true or false")
        return value

    def one_of(self, field: str, allowed: Sequence[str]) -> str:
        """Return a word of a closed list."""
        value = self.text(field)
        if value not in allowed:
            raise self.error(field, f"one of {', '.join(allowed)}")
        return value

    def part(self, field: str) -> Entry:
        """Return a nested record."""
        value = self.raw.get(field)
        if not isinstance(value, Mapping):
            raise self.error(field, "a record {...}")
        return Entry(self.path, f"{self.name}: {field}", value)


def find_published(data_dir: Path, name: str, folders: Sequence[str] = ()) -> Path:
    """Return where a published file lies: in `data_dir` itself or in one of its folders.

    Raises:
        FileNotFoundError: it is in none of them; all places looked at are named.
    """
    places = [data_dir / name, *(data_dir / folder / name for folder in folders)]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise FileNotFoundError(
        f"{name}: expected the published file at {looked}, got none; "
        "put it there (docs/evaluation.md shows the layout), nothing is downloaded"
    )


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is none.
        AnnotationError: it is truncated, or not JSON; says where.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: line {error.lineno} column {error.colno}: expected JSON, got "
            f"{'the end of the file' if error.pos >= len(error.doc.rstrip()) else error.msg!r} "
            f"({len(error.doc)} characters in all); the file is cut off or damaged, "
            "download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path}: byte {error.start}: expected UTF-8 text, got {error.reason}; download again"
        ) from error


def entries_of(path: Path, values: Any, id_fields: Sequence[str] = ()) -> list[Entry]:
    """Turn a list of records into entries whose names hold index and ids.

    Args:
        path: the file they are from.
        values: what should be a list of records.
        id_fields: fields that name a record in messages, where it has them.
    """
    if not isinstance(values, list) or not values:
        got = shorten(values) if not isinstance(values, list) else "an empty list"
        raise AnnotationError(f"{path}: expected a list of records, got {got}; download it again")
    entries = []
    for index, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise AnnotationError(
                f"{path}: record {index}: expected fields {{...}}, got {shorten(value)}; "
                "download the file again"
            )
        ids = ", ".join(f"{name} {value[name]!r}" for name in id_fields if name in value)
        entries.append(Entry(path, f"record {index} ({ids})" if ids else f"record {index}", value))
    return entries


def load_entries(
    path: Path, id_fields: Sequence[str] = (), under: str | None = None
) -> list[Entry]:
    """Read the records of a JSON file: a list, or the list under one name."""
    values = load_json(path)
    if under is not None:
        if not isinstance(values, Mapping) or under not in values:
            raise AnnotationError(
                f"{path}: {under}: expected a list under this name, got {shorten(values)}; "
                "this is another file than its name says"
            )
        values = values[under]
    return entries_of(path, values, id_fields)


def load_rows(path: Path, columns: Sequence[str], id_fields: Sequence[str] = ()) -> list[Entry]:
    """Read a CSV file that must have these columns; a record's number is its row, from 2 on."""
    csv.field_size_limit(CSV_FIELD_LIMIT)
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise AnnotationError(
                f"{path}: header: expected columns {', '.join(columns)}, got none called "
                f"{', '.join(missing)}; this is another file than its name says"
            )
        entries = []
        for index, row in enumerate(reader, start=2):
            ids = ", ".join(f"{name} {row[name]!r}" for name in id_fields)
            entry = Entry(path, f"row {index} ({ids})" if ids else f"row {index}", row)
            short = [name for name in columns if row[name] is None]
            if short:
                raise entry.error(short[0], "a value", "the end of the row", "the file is cut off")
            entries.append(entry)
    if not entries:
        raise AnnotationError(f"{path}: expected rows, got a header alone; download it again")
    return entries


def refuse_repeats(entries: Iterable[tuple[str, Entry]], field: str) -> None:
    """Refuse two records of one id.

    Args:
        entries: (id, record).
        field: what the id is called in the message.
    """
    first: dict[str, Entry] = {}
    for key, entry in entries:
        if key in first:
            raise entry.error(
                field,
                "every id once",
                f"{key!r} as in {first[key].name}",
                "remove one of them; scores would count it twice",
            )
        first[key] = entry
