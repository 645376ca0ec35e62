# SPDX-License-Identifier: Apache-2.0
"""Questions to a session: what is answered, from what, and what cannot be asked."""

import numpy as np
import pytest

from vidllm_ros.streaming.session import EmptyQuestionError, NoWindowYetError, QuestionTooLongError


def test_answer_rests_on_named_boxes_in_the_map(make_session, walk):
    session = make_session()
    newest = walk(session, 20)[-1]
    answer = session.ask("  where is\x00 the\tchair? <loc> ")
    assert answer.text == "heard where is the chair? loc"
    assert answer.confidence == 0.7
    assert answer.stamps_ns == newest.reconstruction.stamps_ns
    assert answer.window_index == newest.window_index
    (chair,) = answer.boxes
    assert chair.object_id == "chair_1"
    np.testing.assert_allclose(chair.center, session.objects[0].center, atol=1e-6)


def test_a_place_without_evidence_is_not_seen(room, make_session, walk):
    session = make_session(room.Backend(boxes=()))
    walk(session, 8)
    answer = session.ask("Where is the piano?")
    assert (answer.text, answer.boxes) == ("not seen", ())
    assert session.ask("is there a piano?").text == "heard is there a piano?"


def test_questions_that_cannot_be_asked_say_why(make_session, walk):
    session = make_session(max_question_chars=20)
    with pytest.raises(NoWindowYetError, match="0 frames of 8"):
        session.ask("what is it?")
    walk(session, 8)
    for empty in ("", " \n\t ", "\x00\x07"):
        with pytest.raises(EmptyQuestionError, match="expected words"):
            session.ask(empty)
    with pytest.raises(QuestionTooLongError, match="at most 20 characters, got 100000"):
        session.ask("x" * 100_000)
    assert session.check_question("Wo ist der Stuhl? 🪑") == "Wo ist der Stuhl? 🪑"
    assert session.ask("Wo ist der Stuhl? 🪑").text
