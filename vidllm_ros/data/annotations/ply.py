# SPDX-License-Identifier: Apache-2.0
"""The vertices of a PLY mesh, in their order, or an error: never a mesh that is half there.

Open3D returns zeros for the vertices behind a file's torn end and prints a line; labels of a scan
count vertices, so here the vertex block is read as the header states it. Next: scannet_scene.py.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.annotations.records import AnnotationError

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
FORMATS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
AXES = ("x", "y", "z")
MAX_HEADER_LINES = 1000


@dataclass(frozen=True)
class PlyHeader:
    """What a header says of the first element, the vertices.

    Attributes:
        order: byte order, "" for text.
        vertices: how many.
        properties: (name, type without byte order), in file order.
        size: bytes until the vertices begin.
    """

    order: str
    vertices: int
    properties: tuple[tuple[str, str], ...]
    size: int


def read_header(path: Path) -> PlyHeader:
    """Read the header of a PLY file.

    Raises:
        FileNotFoundError: there is none.
        AnnotationError: it is another format, or its first element is not vertices with x y z.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the scan's mesh, got no file; put it there")
    lines: list[list[str]] = []
    with path.open("rb") as stream:
        while not lines or lines[-1] != ["end_header"]:
            line = stream.readline(MAX_HEADER_LINES)
            if not line or (not lines and line.strip() != b"ply") or len(lines) > MAX_HEADER_LINES:
                raise AnnotationError(
                    f"{path}: header: expected a PLY file, got {line[:20]!r} at line "
                    f"{len(lines) + 1}; download it again"
                )
            lines.append(line.decode("ascii", "replace").split())
        size = stream.tell()
    formats = [words[1] for words in lines if words[:1] == ["format"] and len(words) > 1]
    places = [index for index, words in enumerate(lines) if words[:1] == ["element"]]
    first = lines[places[0]] if places else []
    is_vertices = len(first) == 3 and first[1] == "vertex" and first[2].isdigit()
    if not formats or formats[0] not in FORMATS or not is_vertices:
        raise AnnotationError(
            f"{path}: header: expected a known format and 'element vertex' first, got format "
            f"{formats} and {' '.join(first)!r}; download it again"
        )
    own = lines[places[0] + 1 : places[1] if len(places) > 1 else len(lines)]
    found = [words for words in own if words[:1] == ["property"]]
    if any(len(words) != 3 or words[1] not in TYPES for words in found):
        raise AnnotationError(
            f"{path}: header: expected plain vertex properties, got {found}; download it again"
        )
    properties = tuple((words[2], TYPES[words[1]]) for words in found)
    if not set(AXES) <= {name for name, _ in properties}:
        raise AnnotationError(f"{path}: header: expected x, y and z, got {properties}")
    return PlyHeader(FORMATS[formats[0]], int(first[2]), properties, size)


def read_vertices(path: Path) -> NDArray[np.float64]:
    """Read the vertices of a PLY mesh in their order: (V, 3), in the mesh's own frame and unit.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file is cut off, has no vertices, or one is not finite.
    """
    header = read_header(path)
    names = [name for name, _ in header.properties]
    with path.open("rb") as stream:
        stream.seek(header.size)
        if header.order:
            row = np.dtype([(name, header.order + kind) for name, kind in header.properties])
            block = stream.read(row.itemsize * header.vertices)
            table = np.frombuffer(block, row, count=len(block) // row.itemsize)
            vertices = np.stack([table[axis].astype(np.float64) for axis in AXES], axis=-1)
        else:
            text = "".join(line.decode("ascii", "replace") for line in stream)
            rows = [line.split() for line in io.StringIO(text)][: header.vertices]
            whole = [row for row in rows if len(row) == len(names)]
            columns = [names.index(axis) for axis in AXES]
            vertices = np.array([[float(row[i]) for i in columns] for row in whole], np.float64)
    if len(vertices) != header.vertices or header.vertices == 0:
        raise AnnotationError(
            f"{path}: vertices: expected {header.vertices} as its header says, got "
            f"{len(vertices)}; the file is cut off, download it again"
        )
    bad = np.flatnonzero(~np.isfinite(vertices).all(axis=1))
    if len(bad):
        raise AnnotationError(
            f"{path}: vertex {bad[0]}: expected finite coordinates, got {vertices[bad[0]]}; "
            "download the file again"
        )
    return vertices
