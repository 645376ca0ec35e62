# SPDX-License-Identifier: Apache-2.0
"""ScanNet's label table: raw categories to the 18 classes that ScanRefer counts by.

`scannetv2-labels.combined.tsv`, columns raw_category and nyu40class; every category outside the 17
named classes, and every name the table lacks, is "others". Source: ScanRefer. Next: scanrefer.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from vidllm_ros.data.annotations.records import AnnotationError, find_published

TABLE = "scannetv2-labels.combined.tsv"
FOLDERS = ("scannet", "scannet/meta_data", "meta_data", "scans")
CLASSES = (
    *("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub"),
)
OTHERS = "others"


def load_classes(data_dir: Path) -> Mapping[str, str]:
    """Read the class of every raw category.

    Raises:
        FileNotFoundError: the table is missing.
        AnnotationError: it lacks a column or a row is cut off.
    """
    path = find_published(data_dir, TABLE, FOLDERS)
    class_of: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"raw_category", "nyu40class"} - set(reader.fieldnames or ())
        if missing:
            raise AnnotationError(
                f"{path}: header: expected a column {sorted(missing)[0]!r}, got "
                f"{reader.fieldnames}; this is another table"
            )
        for line, row in enumerate(reader, start=2):
            raw, name = row["raw_category"], row["nyu40class"]
            if raw is None or name is None:
                raise AnnotationError(
                    f"{path}: line {line}: nyu40class: expected a class, got the end of the line; "
                    "the file is cut off, download it again"
                )
            class_of[raw] = name if name in CLASSES else OTHERS
    return class_of


def class_of_name(class_of: Mapping[str, str], object_name: str) -> str:
    """Return the class of an annotation's object name, which writes spaces as "_"."""
    return class_of.get(object_name.replace("_", " "), OTHERS)
