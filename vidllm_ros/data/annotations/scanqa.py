# SPDX-License-Identifier: Apache-2.0
"""ScanQA's questions: `ScanQA_v1.0_{split}.json`. Next: sqa3d.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidllm_ros.data.annotations.records import find_published, load_entries, refuse_repeats

SPLITS = ("val", "train", "test_w_obj", "test_wo_obj")
FOLDERS = ("scanqa", "ScanQA", "qa")
LAYOUT = (
    "ScanQA_v1.0_{split}.json    list: scene_id, question_id, question, answers, "
    "object_ids, object_names"
)


@dataclass(frozen=True)
class ScanqaQuestion:
    """One question with every answer that was given to it."""

    question_id: str
    scene_id: str
    question: str
    answers: tuple[str, ...]
    object_ids: tuple[int, ...] = ()


def load_scanqa(data_dir: Path, split: str) -> list[ScanqaQuestion]:
    """Read the questions of a split.

    Raises:
        FileNotFoundError: the file is missing.
        AnnotationError: a record is not what the format says; a test split's file without
            answers, which only its authors can score, is refused too.
    """
    path = find_published(data_dir, f"ScanQA_v1.0_{split}.json", FOLDERS)
    entries = load_entries(path, ("question_id",))
    refuse_repeats(((entry.text("question_id"), entry) for entry in entries), "question_id")
    questions = []
    for entry in entries:
        if split.startswith("test") and "answers" not in entry.raw:
            raise entry.error("answers", "answers", remedy="this split is scored by its authors")
        answers = entry.texts("answers", least=1)
        blank = [index for index, answer in enumerate(answers) if not answer.strip()]
        if blank:
            raise entry.error(f"answers[{blank[0]}]", "a string with words", "blank")
        has_objects = "object_ids" in entry.raw
        questions.append(
            ScanqaQuestion(
                entry.text("question_id"),
                entry.text("scene_id"),
                entry.text("question"),
                answers,
                entry.integers("object_ids") if has_objects else (),
            )
        )
    return questions
