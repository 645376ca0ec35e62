# SPDX-License-Identifier: Apache-2.0
"""Boxes as text survive the round trip; no user text can write a special token."""

import pytest

from vidllm_ros import prompts


def test_box_text_round_trip():
    text = prompts.format_box((1.128, -1.64, -0.001), (0.92, 0.03, 1.16))
    assert text == "[1.13, -1.64, 0.00, 0.92, 0.03, 1.16]"
    (box,) = prompts.parse_boxes(f"The chair is at {text}.")
    assert box.center == (1.13, -1.64, 0.0)
    assert box.size == (0.92, 0.03, 1.16)


def test_parse_boxes_takes_several_and_skips_malformed():
    text = "[1,2,3,4,5,6] [1,2,3] [1,2,3,4,5,-6] [a,b,c,d,e,f] "
    text += "[0,0,0,1e999,1,1] [.5, 1., -2e-1, 1, 1, 1]"
    boxes = prompts.parse_boxes(text)
    assert [box.center for box in boxes] == [(1.0, 2.0, 3.0), (0.5, 1.0, -0.2)]
    assert prompts.parse_boxes("") == ()


def test_format_box_refuses_nan():
    with pytest.raises(ValueError, match="six finite"):
        prompts.format_box((float("nan"), 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("", ""),
        ("  what\tcolour\n is it? ", "what colour is it?"),
        ("bell\x07 nul\x00", "bell nul"),
        ("\ud800 lone", "lone"),
        ("🪑 where?", "🪑 where?"),
        ("stop<eos><loc>", "stopeosloc"),
    ],
)
def test_clean_text(raw, clean):
    assert prompts.clean_text(raw) == clean


@pytest.mark.parametrize("template", prompts.TEMPLATES.values(), ids=prompts.TEMPLATES)
def test_prompts_hold_their_words_and_end_right(template):
    assert "is it red?" in prompts.question_prompt("is it red?", template=template)
    assert "I sit. is it red?" in prompts.question_prompt("is it red?", "I sit.", template)
    grounding = prompts.grounding_prompt("red <loc> {chair}", template)
    assert grounding.endswith("red loc {chair}" + prompts.LOC)
    assert grounding.count(prompts.LOC) == 1
    assert prompts.BOX in prompts.caption_prompt(template=template)
    assert "[1.00, " in prompts.caption_prompt(prompts.format_box((1, 2, 3), (1, 1, 1)), template)
    assert "red chair" in prompts.box_prompt("red  chair", template)
    assert prompts.answer_text("two ") == " two"


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("Where is the red chair?", "the red chair"),
        ("where's my mug", "my mug"),
        ("Find me a table.", "a table"),
        ("locate the lamps", "the lamps"),
        ("where", "where"),
    ],
)
def test_question_for_a_place_names_what_is_wanted(question: str, phrase: str) -> None:
    assert prompts.asks_for_place(question)
    assert prompts.place_phrase(question) == phrase


def test_a_place_without_a_box_is_not_seen() -> None:
    assert prompts.place_answer("Where is it?", "on the left", False) == prompts.NOT_SEEN
    assert prompts.place_answer("Where is it?", "on the left", True) == "on the left"
    assert prompts.place_answer("How many are there?", "two", False) == "two"


@pytest.mark.parametrize("question", ["whereas", "how many chairs are there?", "what is finding"])
def test_other_questions_ask_for_no_place(question: str) -> None:
    assert not prompts.asks_for_place(question)
    assert prompts.place_phrase(question) == question.rstrip("?")
