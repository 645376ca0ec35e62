# SPDX-License-Identifier: Apache-2.0
"""ReferIt3D's utterances: `nr3d.csv` (people's) and `sr3d.csv` (made from templates).

One file holds every scene; the official ScanNet lists split it into train and test. `stimulus_id`
says the rest: "scene-label-count-target-distractor-...", spaces of the label written "_".
Next: evaluation/grounding_benchmarks.py.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from vidllm_ros.data.annotations.records import (
    AnnotationError,
    Entry,
    find_published,
    load_rows,
)

SPLITS = ("test", "train")
SCENE_LIST = {"test": "scannetv2_val.txt", "train": "scannetv2_train.txt"}
FOLDERS = ("referit3d", "ReferIt3D", "nr3d", "sr3d")
LIST_FOLDERS = ("scannet", "scannet/meta_data", "meta_data", "referit3d")
COLUMNS = (
    *("stimulus_id", "scan_id", "instance_type", "target_id", "utterance", "tokens"),
    "mentions_target_class",
)
LAYOUT = """{name}.csv           stimulus_id, scan_id, instance_type, target_id, utterance, tokens,
                     mentions_target_class, correct_guess (Nr3D)
scannetv2_val.txt    scene ids of the split (test = ScanNet's val)"""
HARD_FROM = 3  # same-class objects, the target among them
VIEW_WORDS = frozenset(
    {"front", "behind", "back", "right", "left", "facing", "leftmost", "rightmost", "looking"}
    | {"across"}
)
STIMULUS = re.compile(r"-(?P<label>.+?)-(?P<count>\d+)-(?P<target>\d+)(?P<distractors>(-\d+)*)-?")


@dataclass(frozen=True)
class Utterance:
    """One utterance that means one of a scene's objects.

    Attributes:
        row_id: its row in the file, from 0, header not counted: the id of its prediction.
        same_class: how many objects of the target's class there are, the target among them.
        is_view_dependent: it says where something is as seen from somewhere.
        was_understood: another person found the object (Nr3D); true where the file does not say.
        entry: the row, for messages about its target.
    """

    row_id: int
    scene_id: str
    target_id: int
    utterance: str
    instance_type: str
    same_class: int
    is_view_dependent: bool
    was_understood: bool
    entry: Entry

    @property
    def is_hard(self) -> bool:
        """More than one distractor of the same class."""
        return self.same_class >= HARD_FROM


def same_class_count(entry: Entry) -> int:
    """Return how many objects of the class a stimulus has, checked against scene and target."""
    scene_id, stimulus = entry.text("scan_id"), entry.text("stimulus_id")
    if not stimulus.startswith(scene_id + "-"):
        raise entry.error("stimulus_id", f"one that begins with the scan_id {scene_id!r}")
    found = STIMULUS.fullmatch(stimulus, len(scene_id))
    if found is None:
        raise entry.error("stimulus_id", "scene-label-count-target-distractors")
    count, target = int(found["count"]), int(found["target"])
    if found["distractors"].count("-") != count - 1:
        raise entry.error("stimulus_id", f"{count - 1} distractors after the target")
    if target != entry.integer("target_id"):
        raise entry.error("target_id", f"{target} as in stimulus_id")
    return count


def tokens_of(entry: Entry) -> tuple[str, ...]:
    """Return the words of an utterance, which the file writes as a Python list."""
    try:
        value = ast.literal_eval(entry.text("tokens"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise entry.error("tokens", "a list of words like ['the', 'chair']") from None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise entry.error("tokens", "a list of words like ['the', 'chair']")
    return tuple(value)


def load_scene_list(data_dir: Path, split: str) -> frozenset[str]:
    """Read the scene ids of a split."""
    path = find_published(data_dir, SCENE_LIST[split], LIST_FOLDERS)
    scenes = frozenset(path.read_text(encoding="utf-8").split())
    if not scenes:
        raise AnnotationError(f"{path}: expected a scene id a line, got none; download it again")
    return scenes


def load_referit3d(data_dir: Path, name: str, split: str) -> list[Utterance]:
    """Read the utterances of a split that mention their target's class, as the official code does.

    Args:
        data_dir: where the files lie.
        name: "nr3d" or "sr3d".
        split: "train" or "test".

    Raises:
        FileNotFoundError: the file or the list of scenes is missing.
        AnnotationError: a row is not what the format says.
    """
    path = find_published(data_dir, f"{name}.csv", FOLDERS)
    scenes = load_scene_list(data_dir, split)
    found = []
    for row_id, entry in enumerate(load_rows(path, COLUMNS, ("stimulus_id",))):
        if entry.text("scan_id") not in scenes or not entry.flag("mentions_target_class"):
            continue
        has_guess = entry.raw.get("correct_guess") not in (None, "")
        found.append(
            Utterance(
                row_id,
                entry.text("scan_id"),
                entry.integer("target_id"),
                entry.text("utterance"),
                entry.text("instance_type"),
                same_class_count(entry),
                not VIEW_WORDS.isdisjoint(tokens_of(entry)),
                entry.flag("correct_guess") if has_guess else True,
                entry,
            )
        )
    if not found:
        raise AnnotationError(
            f"{path}: scan_id: expected utterances in scenes of {SCENE_LIST[split]}, got none; "
            "the list and the file belong to different data"
        )
    return found
