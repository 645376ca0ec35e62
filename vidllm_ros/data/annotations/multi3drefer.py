# SPDX-License-Identifier: Apache-2.0
"""Multi3DRefer's phrases for none, one or several objects: `multi3drefer_{split}.json`.

Next: referit3d.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidllm_ros.data.annotations.records import (
    Entry,
    find_published,
    load_entries,
    refuse_repeats,
)

SPLITS = ("val", "train")
FOLDERS = ("multi3drefer", "Multi3DRefer", "multi3drefer_train_val")
LAYOUT = (
    "multi3drefer_{split}.json    list: scene_id, object_ids, object_name, ann_id, description, "
    "eval_type"
)
TARGETS_OF_TYPE = {  # least and most targets; "_d" has distractors of the same class
    "zt_wo_d": (0, 0),
    "zt_w_d": (0, 0),
    "st_wo_d": (1, 1),
    "st_w_d": (1, 1),
    "mt": (2, None),
}


@dataclass(frozen=True)
class MultiPhrase:
    """One phrase.

    Attributes:
        object_ids: the targets, `objectId` of the scan's aggregation.
        eval_type: zero, single or multiple targets, with or without distractors.
        entry: the record, for messages about its boxes.
    """

    scene_id: str
    ann_id: int
    object_ids: tuple[int, ...]
    description: str
    eval_type: str
    entry: Entry

    @property
    def key(self) -> str:
        """The id of the phrase: "scene0000_00|12"."""
        return f"{self.scene_id}|{self.ann_id}"


def load_multi3drefer(data_dir: Path, split: str) -> list[MultiPhrase]:
    """Read the phrases of a split.

    Raises:
        FileNotFoundError: the file is missing.
        AnnotationError: a record is not what the format says, its number of targets does not fit
            its type, or two have one id.
    """
    path = find_published(data_dir, f"multi3drefer_{split}.json", FOLDERS)
    found = []
    for entry in load_entries(path, ("scene_id", "ann_id")):
        kind = entry.one_of("eval_type", tuple(TARGETS_OF_TYPE))
        object_ids = entry.integers("object_ids")
        least, most = TARGETS_OF_TYPE[kind]
        if len(object_ids) < least or (most is not None and len(object_ids) > most):
            amount = f"at least {least}" if most is None else str(most)
            raise entry.error("object_ids", f"{amount} target(s) for eval_type {kind!r}")
        if len(set(object_ids)) != len(object_ids):
            raise entry.error("object_ids", "every target once")
        found.append(
            MultiPhrase(
                entry.text("scene_id"),
                entry.integer("ann_id"),
                object_ids,
                entry.text("description"),
                kind,
                entry,
            )
        )
    refuse_repeats(((item.key, item.entry) for item in found), "ann_id")
    return found
