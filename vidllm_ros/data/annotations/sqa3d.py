# SPDX-License-Identifier: Apache-2.0
"""SQA3D's situated questions: one file of questions, one of answers, joined by question_id.

`v1_balanced_questions_{split}_scannetv2.json` and `v1_balanced_sqa_annotations_{split}_
scannetv2.json`. Next: scanrefer.py.
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

SPLITS = ("test", "val", "train")
FOLDERS = ("sqa3d", "SQA3D", "sqa3d/balanced", "sqa_task/balanced", "sqa3d/sqa_task/balanced")
LAYOUT = """v1_balanced_questions_{split}_scannetv2.json          questions: scene_id, situation,
                                                      question, question_id
v1_balanced_sqa_annotations_{split}_scannetv2.json    annotations: scene_id, question_id, answers,
                                                      position, rotation"""


@dataclass(frozen=True)
class Sqa3dQuestion:
    """One question asked from somewhere in the scene.

    Attributes:
        situation: where one stands and looks, in words.
        alternatives: the same situation in other words; training uses them as further samples.
        position: x, y, z, m, of who asks; ScanNet's axis-aligned world.
        quat_xyzw: how they are turned.
    """

    question_id: int
    scene_id: str
    situation: str
    question: str
    answers: tuple[str, ...]
    alternatives: tuple[str, ...] = ()
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quat_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)


def answers_of(entry: Entry) -> tuple[str, ...]:
    """Return the answers of an annotation, each a record with the field "answer"."""
    words = []
    for index, value in enumerate(entry.items("answers", least=1)):
        answer = value.get("answer") if isinstance(value, dict) else None
        if not isinstance(answer, str) or not answer.strip():
            raise entry.error(f"answers[{index}].answer", "a string with words", repr(answer))
        words.append(answer)
    return tuple(words)


def load_sqa3d(data_dir: Path, split: str) -> list[Sqa3dQuestion]:
    """Read the questions of a split with their answers.

    Raises:
        FileNotFoundError: one of the two files is missing.
        AnnotationError: a record is not what the format says, or has no partner in the other file.
    """
    names = ("questions", "sqa_annotations")
    paths = [
        find_published(data_dir, f"v1_balanced_{name}_{split}_scannetv2.json", FOLDERS)
        for name in names
    ]
    asked = load_entries(paths[0], ("question_id",), under="questions")
    told = load_entries(paths[1], ("question_id",), under="annotations")
    for entries in (asked, told):
        refuse_repeats(((str(e.integer("question_id")), e) for e in entries), "question_id")
    answered = {entry.integer("question_id"): entry for entry in told}
    questions = []
    for entry in asked:
        question_id = entry.integer("question_id")
        partner = answered.pop(question_id, None)
        if partner is None:
            raise entry.error("question_id", f"an annotation in {paths[1]}", str(question_id))
        if partner.text("scene_id") != entry.text("scene_id"):
            raise partner.error("scene_id", f"{entry.text('scene_id')!r} as in {paths[0]}")
        has_more = "alternative_situation" in entry.raw
        position, rotation = partner.part("position"), partner.part("rotation")
        questions.append(
            Sqa3dQuestion(
                question_id,
                entry.text("scene_id"),
                entry.text("situation"),
                entry.text("question"),
                answers_of(partner),
                entry.texts("alternative_situation") if has_more else (),
                (position.number("x"), position.number("y"), position.number("z")),
                (
                    rotation.number("_x"),
                    rotation.number("_y"),
                    rotation.number("_z"),
                    rotation.number("_w"),
                ),
            )
        )
    if answered:
        spare = next(iter(answered.values()))
        raise spare.error("question_id", f"a question in {paths[0]}")
    return questions
