# SPDX-License-Identifier: Apache-2.0
"""SQA3D's two files, joined."""

import hand_made
import pytest

from vidllm_ros.data.annotations import sqa3d as m
from vidllm_ros.data.annotations.records import AnnotationError


def test_questions_meet_their_answers(tmp_path):
    hand_made.write_sqa3d(tmp_path)
    found = m.load_sqa3d(tmp_path, "test")
    assert len(found) == 7
    assert found[0] == m.Sqa3dQuestion(
        220602000000,
        "scene0000_00",
        "I stand at the table.",
        "What is behind me?",
        ("chair",),
        ("Standing at the table.",),
        (0.5, -1.0, 0.0),
        (0.0, 0.0, 0.6, 0.8),
    )
    assert [item.answers[0] for item in found[3:]] == ["one", "yes", "left", "yes"]


@pytest.mark.parametrize(
    ("which", "change", "said"),
    [
        (0, lambda v: v["questions"].pop(0), r"annotations_.*question_id: expected a question in"),
        (1, lambda v: v["annotations"].pop(), r"questions_.*record 0 .*expected an annotation in"),
        (0, lambda v: v["questions"][1].update(question_id=220602000000), "as in record 0"),
        (1, lambda v: v["annotations"][6].update(scene_id="scene0009_00"), "scene_id: expected"),
        (1, lambda v: v["annotations"][6].update(answers=[{}]), r"answers\[0\]\.answer"),
        (1, lambda v: v["annotations"][6]["position"].pop("y"), "position: y: expected a finite"),
        (0, lambda v: v.pop("questions"), "questions: expected a list under this name"),
        (0, lambda v: v["questions"][0].update(situation=None), "situation: expected a string"),
    ],
)
def test_files_that_do_not_fit(tmp_path, which, change, said):
    hand_made.change_json(hand_made.write_sqa3d(tmp_path)[which], change)
    with pytest.raises(AnnotationError, match=said):
        m.load_sqa3d(tmp_path, "test")
