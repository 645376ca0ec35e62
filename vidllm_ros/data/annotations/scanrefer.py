# SPDX-License-Identifier: Apache-2.0
"""ScanRefer's descriptions, what makes one "unique", and Scan2Cap's objects made of them.

`ScanRefer_filtered_{split}.json`. A description is "unique" if exactly one *annotated* object of
its scene is of its class, "multiple" otherwise; the count runs over the whole split, never over
the part that is scored. Scan2Cap groups the same file by object. Next: multi3drefer.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidllm_ros.data.annotations.labels import class_of_name
from vidllm_ros.data.annotations.records import (
    Entry,
    find_published,
    load_entries,
    refuse_repeats,
)

SPLITS = ("val", "train")
FOLDERS = ("scanrefer", "ScanRefer")
LAYOUT = (
    "ScanRefer_filtered_{split}.json    list: scene_id, object_id, object_name, ann_id, "
    "description, token"
)


@dataclass(frozen=True)
class Description:
    """One description of one object.

    Attributes:
        object_id: `objectId` of the scan's aggregation, from 0.
        object_name: raw category, "_" for spaces.
        ann_id: which of the object's descriptions.
        tokens: its words as the data set tokenised them.
        entry: the record, for messages about its box.
    """

    scene_id: str
    object_id: int
    object_name: str
    ann_id: int
    description: str
    tokens: tuple[str, ...]
    entry: Entry

    @property
    def key(self) -> str:
        """The id of the description: "scene0000_00|34|0"."""
        return f"{self.scene_id}|{self.object_id}|{self.ann_id}"


@dataclass(frozen=True)
class DescribedObject:
    """All that was said of one object: what Scan2Cap compares a caption with.

    Attributes:
        key: "scene0000_00|34|coffee_table".
        descriptions: as written.
        tokens: the same as the data set tokenised them.
    """

    key: str
    scene_id: str
    object_id: int
    object_name: str
    descriptions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    entry: Entry


def load_scanrefer(data_dir: Path, split: str) -> list[Description]:
    """Read the descriptions of a split.

    Raises:
        FileNotFoundError: the file is missing.
        AnnotationError: a record is not what the format says, or two have one id.
    """
    path = find_published(data_dir, f"ScanRefer_filtered_{split}.json", FOLDERS)
    entries = load_entries(path, ("scene_id", "object_id", "ann_id"))
    found = [
        Description(
            entry.text("scene_id"),
            entry.integer("object_id"),
            entry.text("object_name"),
            entry.integer("ann_id"),
            entry.text("description"),
            entry.texts("token", least=1),
            entry,
        )
        for entry in entries
    ]
    refuse_repeats(((item.key, item.entry) for item in found), "ann_id")
    return found


def unique_or_multiple(
    descriptions: Sequence[Description], class_of: Mapping[str, str]
) -> dict[str, str]:
    """Say for each description's key whether it is "unique" or "multiple".

    Args:
        descriptions: of the whole split.
        class_of: labels.load_classes.
    """
    objects: dict[str, set[int]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for item in descriptions:
        known = objects.setdefault(item.scene_id, set())
        if item.object_id not in known:
            known.add(item.object_id)
            counts[item.scene_id, class_of_name(class_of, item.object_name)] += 1
    return {
        item.key: "unique"
        if counts[item.scene_id, class_of_name(class_of, item.object_name)] == 1
        else "multiple"
        for item in descriptions
    }


def described_objects(descriptions: Sequence[Description]) -> list[DescribedObject]:
    """Group descriptions by scene, object and name, in the order of their first one."""
    groups: dict[str, list[Description]] = {}
    for item in descriptions:
        key = f"{item.scene_id}|{item.object_id}|{item.object_name}"
        groups.setdefault(key, []).append(item)
    return [
        DescribedObject(
            key,
            items[0].scene_id,
            items[0].object_id,
            items[0].object_name,
            tuple(item.description for item in items),
            tuple(item.tokens for item in items),
            items[0].entry,
        )
        for key, items in groups.items()
    ]
