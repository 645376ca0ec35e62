# SPDX-License-Identifier: Apache-2.0
"""Reading other people's files so that what is wrong with one is said with its name.

Every reader of a published data set uses these; none of them guesses. Next: nyuv2.py, co3d.py,
realestate10k.py, scannet_frames.py.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def find_file(roots: Sequence[Path], name: str, wanted_by: str) -> Path:
    """Return the first of `roots` that has this file.

    Raises:
        FileNotFoundError: none has it; names what wanted it.
    """
    for root in roots:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(
        f"{roots[0] / name}: no such file, wanted by {wanted_by}; copy it there"
    )


def read_text(file: Path) -> str:
    """Read a text file.

    Raises:
        FileNotFoundError, ValueError: it is missing, or not text.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; see docs/evaluation.md for the layout")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text, got {error}; copy it again") from error


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers from 1."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def read_json(file: Path) -> Any:
    """Read JSON, gzipped where the name ends in gz or jgz.

    Raises:
        FileNotFoundError, ValueError: it is missing, torn, or not JSON.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; see docs/evaluation.md for the layout")
    try:
        data = file.read_bytes()
        if file.suffix in (".gz", ".jgz"):
            data = gzip.decompress(data)
        return json.loads(data)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file}: expected JSON, got {error}; copy it again") from error


def field_of(record: Any, name: str, where: str) -> Any:
    """Return a field of a record, dotted names for nested ones.

    Raises:
        ValueError: it is not there; names file and record, given as `where`.
    """
    value = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value or value[part] is None:
            raise ValueError(f"{where}: expected field {name!r}, got none; copy the file again")
        value = value[part]
    return value


def numbers_of(record: Any, name: str, shape: tuple[int, ...], where: str) -> NDArray[np.float64]:
    """Return a field as finite numbers of this shape.

    Raises:
        ValueError: it is not there, or something else; names file, record and field.
    """
    value = field_of(record, name, where)
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.full(1, np.nan)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(
            f"{where}, field {name!r}: expected {shape} finite numbers, got {value!r:.80}; mend it"
        )
    return array


def matrix_from_file(file: Path) -> NDArray[np.float64]:
    """Read a text file of 4 x 4 finite numbers.

    Raises:
        FileNotFoundError, ValueError: it is missing, or something else.
    """
    words = read_text(file).split()
    try:
        T = np.array([float(word) for word in words]).reshape(4, 4)
    except ValueError:
        raise ValueError(f"{file}: expected 4 x 4 numbers, got {len(words)} words") from None
    return T


def read_colour(file: Path) -> NDArray[np.uint8]:
    """Read an image as RGB, (H, W, 3), uint8.

    Raises:
        FileNotFoundError, ValueError: it is missing, or cannot be decoded.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such image; copy it there")
    data = np.frombuffer(file.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise ValueError(f"{file}: expected an image, got {data.size} bytes that are none")
    return np.asarray(image[..., ::-1], np.uint8)
