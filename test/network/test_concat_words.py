# SPDX-License-Identifier: Apache-2.0
"""Sentences put to public language models: clean, complete, and readable back."""

from __future__ import annotations

import numpy as np
import pytest

from vidllm_ros import prompts
from vidllm_ros.network import concat_words as words
from vidllm_ros.structures import GroundedBox


def test_unknown_points_are_said_to_be_unknown() -> None:
    points = np.array([[[1.04, -0.02, 2.0], [9.0, 9.0, 9.0]]])
    told = words.frame_words(3, np.array([0.0, 0.0, 1.25]), points, np.array([[True, False]]))
    assert told.startswith("Image 3. The camera is at (0.0, 0.0, 1.2).")
    assert told.endswith("(1.0, 0.0, 2.0) (unknown)")


def test_special_tokens_of_users_are_words() -> None:
    for prompt in (
        words.llava_box_prompt("<box> a\nchair"),
        words.vlm_box_prompt("<loc> a\nchair"),
    ):
        assert "<" not in prompt
        assert "a chair" in prompt


def test_choices_count_from_one_and_their_boxes_can_be_read() -> None:
    boxes = [GroundedBox("", 1.0, np.array([i, 2.0, 3.0]), np.ones(3)) for i in range(2)]
    asked = words.vlm_choice_prompt(boxes, "the lamp")
    assert [box.center[0] for box in prompts.parse_boxes(asked)] == [0.0, 1.0]
    assert "\n2. [1.00" in asked


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("1", 0),
        ("It is number 3.", 2),
        ("Number 2", 1),
        ("box #2.", 1),
        ("4", None),
        ("0", None),
        ("none", None),
        ("None of the 3 fits", None),
        ("1.5 m to the left", None),
    ],
)
def test_choice_is_a_number_alone(text: str, chosen: int | None) -> None:
    assert words.read_choice(text, 3) == chosen


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("2", (1,)),
        ("3, 1 and 3.", (2, 0)),
        ("Numbers 1, 2, and 7", (0, 1)),  # there is no seventh
        ("none", ()),
        ("None of the 3 fits", ()),
        ("1, the 2 chairs", ()),
        ("", ()),
    ],
)
def test_choices_are_a_list_of_numbers_alone(text: str, chosen: tuple[int, ...]) -> None:
    assert words.read_choices(text, 3) == chosen
    box = GroundedBox("", 1.0, np.zeros(3), np.ones(3))
    assert "none, one or several" in words.vlm_pick_prompt([box], "the lamps")
