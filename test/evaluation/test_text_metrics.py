# SPDX-License-Identifier: Apache-2.0
"""Cleaning, matching and CIDEr-D."""

import math

import pytest

from vidllm_ros.evaluation import text_metrics as m


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  The Table. ", "table"),
        ("2", "two"),
        ("next to  the   sofa", "next to sofa"),
        ("1.5 m", "fifteen m"),  # the full stop goes first
        ("Yes!", "yes"),
        ("an office chair", "office chair"),
        ("<loc>", "loc"),
        ("none", "zero"),
        ("20", "twenty"),
        ("21", "21"),
        ("23", "twenty-three"),
        ("210", "210"),
        ("no1", "no"),
        ("mat22", "mat22"),  # one digit only
        ("TV", "TV"),
        ("tv stand", "TV stand"),
        ("to my letf", "to my left"),
        ("rght behine the chai", "right behind chair"),
        ("5 o' clock", "five o'clock"),
        ("10 oclock", "ten o'clock"),
        ("Backwards", "backward"),
        ("the a chair", "chair"),
        ("a", "a"),
        ("yes, left-hand: it's", "yes, left-hand: it's"),
        ("café", "caf"),
        ("let's", "left's"),
    ],
)
def test_cleaning(raw, clean):
    assert m.clean_answer(raw) == clean


def test_exact_and_refined():
    assert m.exact_match("The red", ["red", "dark red"])
    assert not m.exact_match("reddish", ["red"])
    assert m.exact_match("two chairs", ["2 chairs"])
    assert not m.exact_match("", ["chair"])


@pytest.mark.parametrize(
    ("said", "answers", "right"),
    [
        ("office chair", ["chair"], True),
        ("chair", ["office chair"], True),
        ("bored", ["red"], True),  # letters, not words
        ("book shelf", ["bookshelf"], True),
        ("shelf book", ["bookshelf"], False),
        ("2", ["twenty two"], True),
        ("table", ["chair", "round table"], True),
        ("", ["chair"], False),  # "" is in every string
        ("...", ["chair"], False),
        ("chair", ["!"], False),
    ],
)
def test_refined_match_is_the_substring_rule(said, answers, right):
    assert m.refined_match(said, answers) is right


def test_cider_is_greatest_for_the_reference_itself():
    references = [["a red chair by the door"], ["a blue sofa at the wall"], ["one table"]]
    exact = m.cider([texts[0] for texts in references], references)
    assert exact[0] == pytest.approx(10.0)
    assert exact[1] == pytest.approx(10.0)
    wrong = m.cider(["a blue sofa at the wall", "one table", ""], references)
    assert wrong[2] == 0.0
    assert max(wrong) < 3.0


def test_cider_unigram_part_by_hand():
    # Two documents; "red" is in one of them, "chair" in both (weight log 2 - log 2 = 0).
    references = [["red chair"], ["blue chair"]]
    (score, _) = m.cider(["red sofa", ""], references)
    idf = math.log(2)
    ours = math.hypot(idf, idf)  # red, and sofa, which no reference knows
    unigram = idf * idf / (ours * idf)
    assert score == pytest.approx(10.0 * unigram / 4)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="one an item"):
        m.cider(["a"], [])
