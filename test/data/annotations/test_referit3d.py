# SPDX-License-Identifier: Apache-2.0
"""Nr3D's and Sr3D's files."""

import hand_made
import pytest

from vidllm_ros.data.annotations import referit3d as m
from vidllm_ros.data.annotations.records import AnnotationError


def changed(**fields):
    return [{**hand_made.NR3D_ROWS[0], **fields}]


def test_utterances_of_the_split_that_mention_the_class(tmp_path):
    hand_made.write_referit3d(tmp_path)
    first, second = m.load_referit3d(tmp_path, "nr3d", "test")
    # Row 2 does not mention the class, row 3 is in another split's scene.
    assert (first.row_id, first.target_id, first.same_class) == (0, 0, 2)
    assert (first.is_hard, first.is_view_dependent, first.was_understood) == (False, True, True)
    assert (second.row_id, second.target_id, second.same_class) == (1, 3, 3)
    assert (second.is_hard, second.is_view_dependent, second.was_understood) == (
        True,
        False,
        False,
    )


def test_words_not_letters_make_view_dependence(tmp_path):
    tokens = "['the', 'backpack', 'leftover', 'rights']"
    hand_made.write_referit3d(tmp_path, changed(tokens=tokens))
    (only,) = m.load_referit3d(tmp_path, "nr3d", "test")
    assert not only.is_view_dependent


def test_sr3d_has_no_guesses_and_ids_may_end_in_a_dash(tmp_path):
    row = {**hand_made.NR3D_ROWS[3], "stimulus_id": "scene0001_00-l-shaped-sofa-1-0-"}
    del row["correct_guess"]
    hand_made.write_referit3d(tmp_path, [row], ("scene0001_00",), "sr3d")
    (only,) = m.load_referit3d(tmp_path, "sr3d", "test")
    assert only.was_understood
    assert only.same_class == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stimulus_id": "scene0000_00-chair-2-0"}, "stimulus_id: expected 1 distractors"),
        ({"stimulus_id": "scene0000_00-chair"}, "scene-label-count-target-distractors"),
        ({"stimulus_id": "scene0001_00-chair-2-0-1"}, "begins with the scan_id 'scene0000_00'"),
        ({"target_id": 1}, "target_id: expected 0 as in stimulus_id"),
        ({"tokens": "the chair"}, r"tokens: expected a list of words"),
        ({"tokens": "__import__('os').getcwd()"}, r"tokens: expected a list of words"),
        ({"mentions_target_class": "maybe"}, "mentions_target_class: expected true or false"),
        ({"utterance": " "}, "utterance: expected a string with words"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path, fields, said):
    hand_made.write_referit3d(tmp_path, changed(**fields))
    with pytest.raises(AnnotationError, match=said) as caught:
        m.load_referit3d(tmp_path, "nr3d", "test")
    assert "nr3d.csv: row 2 (stimulus_id " in str(caught.value)


def test_no_scene_of_the_split(tmp_path):
    hand_made.write_referit3d(tmp_path, scenes=("scene0707_00",))
    with pytest.raises(AnnotationError, match=r"in scenes of scannetv2_val\.txt, got none"):
        m.load_referit3d(tmp_path, "nr3d", "test")
    (tmp_path / "scannetv2_val.txt").write_text("\n")
    with pytest.raises(AnnotationError, match="a scene id a line, got none"):
        m.load_referit3d(tmp_path, "nr3d", "test")
