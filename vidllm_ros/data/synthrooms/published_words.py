# SPDX-License-Identifier: Apache-2.0
"""What is said about a room as records of ScanQA, SQA3D, ScanRefer and Multi3DRefer.

Field by field as those data sets publish them, so that their readers and scorers take these
records unchanged. Scan2Cap has no file of its own: its references are ScanRefer's descriptions.
Next: published_scan.py, which writes the scan the records speak of.
"""

from __future__ import annotations

import re
from typing import Any

from vidllm_ros.data.samples import Reference, SceneObject, SceneSample, Situation
from vidllm_ros.data.synthrooms.vocabulary import COLORS, OBJECT_LABELS, PLURALS

Record = dict[str, Any]
WORDS = re.compile(r"[a-z0-9]+(?:\.[0-9]+)?|[^\sa-z0-9]")
STANDING = (
    re.compile(r"I am standing (?P<near>.+), facing the (?P<faced>.+)\."),
    re.compile(r"I am (?P<near>.+) and look at the (?P<faced>.+)\."),
)
OTHER_WORDS = ("I am standing {near}, facing the {faced}.", "I am {near} and look at the {faced}.")


def underscored(label: str) -> str:
    return label.replace(" ", "_")


def tokens(text: str) -> list[str]:
    """Return lower-case words and marks, as ScanRefer splits its descriptions."""
    return WORDS.findall(text.lower())


def scanqa_records(sample: SceneSample, scene_id: str, split: str) -> list[Record]:
    """Return the questions of a scene as `ScanQA_v1.0_{split}.json` lists them."""
    return [
        {
            "scene_id": scene_id,
            "question_id": f"{split}-{scene_id.removesuffix('_00')}-{index}",
            "question": item.question,
            "answers": list(item.answers),
            "object_ids": list(item.object_ids),
            "object_names": [sample.object(i).label for i in item.object_ids],
        }
        for index, item in enumerate(sample.questions)
    ]


def sqa3d_records(
    sample: SceneSample, scene_id: str, first_id: int
) -> tuple[list[Record], list[Record]]:
    """Return the situations of a scene as SQA3D's questions and as its annotations."""
    questions, annotations = [], []
    for index, item in enumerate(sample.situations):
        shared = {"scene_id": scene_id, "question_id": first_id + index}
        questions.append(
            {
                **shared,
                "situation": item.situation,
                "alternative_situation": list(alternatives(item)),
                "question": item.question,
            }
        )
        x, y, z = (float(value) for value in item.position)
        turn = (float(value) for value in item.quat_xyzw)
        annotations.append(
            {
                **shared,
                "question_type": "N/A",
                "answer_type": "other",
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                    for number, answer in enumerate(item.answers, start=1)
                ],
                "position": {"x": x, "y": y, "z": z},
                "rotation": dict(zip(("_x", "_y", "_z", "_w"), turn, strict=True)),
            }
        )
    return questions, annotations


def alternatives(item: Situation) -> tuple[str, ...]:
    """Return the situation in its other words."""
    for pattern, form in zip(STANDING, reversed(OTHER_WORDS), strict=True):
        found = pattern.fullmatch(item.situation)
        if found is not None:
            return (form.format(**found.groupdict()),)
    return ()


def descriptions(sample: SceneSample) -> list[tuple[SceneObject, str]]:
    """Return sentences that mean one object each: phrases, and captions that fit no other."""
    found = [
        (sample.object(item.object_ids[0]), item.phrase)
        for item in sample.references
        if item.kind in ("unique", "multiple")
    ]
    for caption in sample.captions:
        item = sample.object(caption.object_id)
        same = [other for other in sample.objects if other.label == item.label]
        if len(same) == 1 or (item.color and [o.color for o in same].count(item.color) == 1):
            found.append((item, f"there is {caption.text}."))
    return found


def scanrefer_records(sample: SceneSample, scene_id: str) -> list[Record]:
    """Return descriptions as `ScanRefer_filtered_{split}.json` lists them."""
    counts: dict[int, int] = {}
    records = []
    for item, text in descriptions(sample):
        number = counts[item.object_id] = counts.get(item.object_id, -1) + 1
        records.append(
            {
                "scene_id": scene_id,
                "object_id": str(item.object_id),
                "object_name": underscored(item.label),
                "ann_id": str(number),
                "description": text,
                "token": tokens(text),
            }
        )
    return records


def multi3drefer_records(sample: SceneSample, scene_id: str) -> list[Record]:
    """Return phrases for none, one and many as `multi3drefer_{split}.json` lists them."""
    labels = [item.label for item in sample.objects]
    records = []
    for index, item in enumerate(sample.references):
        label = label_of(item, sample)
        records.append(
            {
                "scene_id": scene_id,
                "object_ids": list(item.object_ids),
                "object_name": underscored(label),
                "ann_id": index,
                "description": item.phrase,
                "eval_type": eval_type(len(item.object_ids), labels.count(label)),
                "spatial": " next to " in item.phrase,
                "color": any(word in COLORS for word in item.phrase.split()),
                "texture": False,
                "shape": False,
            }
        )
    return records


def eval_type(targets: int, same_class: int) -> str:
    """Return Multi3DRefer's type: zero, single or multiple targets, with distractors or not."""
    if targets > 1:
        return "mt"
    if targets == 1:
        return "st_w_d" if same_class > 1 else "st_wo_d"
    return "zt_w_d" if same_class else "zt_wo_d"


def label_of(item: Reference, sample: SceneSample) -> str:
    """Return the class a phrase speaks of, also where it means nothing that is there."""
    if item.object_ids:
        return sample.object(item.object_ids[0]).label
    found = [
        label
        for label in OBJECT_LABELS
        if re.search(rf"\b({label}|{PLURALS[label]})$", item.phrase)
    ]
    return max(found, key=len)  # "shower curtain", not "curtain"
