# SPDX-License-Identifier: Apache-2.0
"""ScanQA's file."""

import hand_made
import pytest

from vidllm_ros.data.annotations import scanqa as m
from vidllm_ros.data.annotations.records import AnnotationError


def test_questions(tmp_path):
    hand_made.write_scanqa(tmp_path)
    first, second, third = m.load_scanqa(tmp_path, "val")
    assert first == m.ScanqaQuestion(
        "val-scene0000-0",
        "scene0000_00",
        "What color is the chair?",
        ("brown", "dark brown"),
        (0,),
    )
    assert second.answers == ("to the left of the door",)
    assert third.scene_id == "scene0001_00"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v[1].update(question_id=v[0]["question_id"]), "as in record 0"),
        (lambda v: v[1].update(answers=[]), r"answers: expected a list of at least 1"),
        (lambda v: v[1].update(answers="left"), r"answers: .*got str 'left'"),
        (lambda v: v[1].update(answers=["x", " "]), r"answers\[1\]: .*got blank"),
        (lambda v: v[1].update(object_ids=["2"]), r"object_ids\[0\]: expected an integer"),
        (lambda v: v[1].pop("scene_id"), "scene_id: .*no such field"),
        (lambda v: v[1].update(question=5), "question: expected a string"),
    ],
)
def test_records_that_are_wrong_are_named(tmp_path, change, said):
    path = hand_made.change_json(hand_made.write_scanqa(tmp_path), change)
    with pytest.raises(AnnotationError, match=said) as caught:
        m.load_scanqa(tmp_path, "val")
    assert f"{path}: record 1 (question_id " in str(caught.value)


def test_a_test_split_without_answers(tmp_path):
    path = hand_made.write_scanqa(tmp_path)
    hand_made.change_json(path, lambda value: [record.pop("answers") for record in value])
    path.rename(tmp_path / "ScanQA_v1.0_test_w_obj.json")
    with pytest.raises(AnnotationError, match="scored by its authors"):
        m.load_scanqa(tmp_path, "test_w_obj")
