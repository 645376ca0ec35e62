# SPDX-License-Identifier: Apache-2.0
"""ScanQA and SQA3D: scores worked out by hand, traps, and a predictor of three lines."""

import hand_made
import numpy as np
import pytest

from vidllm_ros.evaluation import caption_metrics
from vidllm_ros.evaluation import qa_benchmarks as m
from vidllm_ros.evaluation.benchmark_registry import load_benchmark

pytest.importorskip("pycocoevalcap")


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(caption_metrics, "find_java", lambda: None)


@pytest.fixture
def root(tmp_path):
    return hand_made.write_everything(tmp_path)


def records(answers):
    return {key: {"case_id": key, "answer": text} for key, text in answers.items()}


def oracle(cases):
    return records({case.case_id: case.truth.answers[0] for case in cases})


def test_registered():
    assert load_benchmark("scanqa") is m.SCANQA
    assert load_benchmark("sqa3d") is m.SQA3D


def test_scanqa_oracle_has_everything(root):
    cases = m.SCANQA.load(root, "val")
    values = m.SCANQA.score(cases, oracle(cases)).values
    for name in ("em1", "em1_leo", "em1_refined_leo", "bleu1", "rouge_l"):
        assert values[name] == pytest.approx(100.0)
    assert values["questions"] == 3
    assert "meteor" not in values
    assert not [name for name in values if name.startswith("ptb_")]


def test_scanqa_by_hand(root):
    cases = m.SCANQA.load(root, "val")
    said = {
        "val-scene0000-0": "Brown",  # raw: no; cleaned: yes
        "val-scene0000-1": "left",  # inside "to left of door"
        "val-scene0001-0": "2.",  # raw "2." is no answer; its dot goes for sentences only
    }
    scores = m.SCANQA.score(cases, records(said))
    assert scores.values["em1"] == 0.0
    assert scores.values["em1_leo"] == pytest.approx(100 * 2 / 3)
    assert scores.values["em1_refined_leo"] == pytest.approx(100.0)
    # Words as they stand: "Brown" hits nothing, "left" one of one, "2" one of one.
    # Lengths said 3, closest references 1 + 6 + 1: brevity exp(1 - 8 / 3).
    assert scores.values["bleu1"] == pytest.approx(100 * 2 / 3 * np.exp(1 - 8 / 3))
    assert scores.per_case["val-scene0001-0"]["em1"] == 0.0
    assert scores.per_case["val-scene0001-0"]["rouge_l"] == pytest.approx(100.0)
    assert "no `java`" in scores.variant
    assert "Video-3D-LLM" in scores.variant


def test_scanqa_accepts_the_unstripped_answer(root):
    cases = m.SCANQA.load(root, "val")
    said = {
        "val-scene0000-0": "dark brown",
        "val-scene0000-1": "",
        "val-scene0001-0": "two chairs.",
    }
    values = m.SCANQA.score(cases, records(said)).values
    assert values["em1"] == pytest.approx(100 * 2 / 3)
    assert values["em1_refined_leo"] == pytest.approx(100 * 2 / 3)  # the empty one matches nothing


def test_scanqa_with_java_scores_ptb_tokens_too(root, monkeypatch):
    asked = []

    def tokens(texts):
        asked.append(texts)
        return [[t.lower().replace(".", "").strip() for t in group] for group in texts]

    monkeypatch.setattr(m, "why_no_java", lambda: "")
    monkeypatch.setattr(caption_metrics, "ptb_tokens", tokens)
    cases = m.SCANQA.load(root, "val")
    values = m.SCANQA.score(
        cases,
        records({"val-scene0000-0": "Brown", "val-scene0000-1": "x", "val-scene0001-0": "2."}),
    ).values
    assert asked[0][0] == ["Brown", "x", "2."]  # the dot is the tokeniser's business
    assert values["ptb_rouge_l"] == pytest.approx(100 * 2 / 3)
    assert values["rouge_l"] == pytest.approx(100 / 3)


def test_missing_and_wrong_predictions_are_named(root):
    cases = m.SCANQA.load(root, "val")
    some = oracle(cases)
    del some["val-scene0000-1"]
    with pytest.raises(ValueError, match="1 are missing \\(val-scene0000-1\\)"):
        m.SCANQA.score(cases, some)
    some["val-scene0000-1"] = {"case_id": "val-scene0000-1", "answer": 3}
    with pytest.raises(ValueError, match=r"val-scene0000-1.*'answer' to be a str"):
        m.SCANQA.score(cases, some)


def test_sqa3d_by_type(root):
    cases = m.SQA3D.load(root, "test")
    assert [case.truth.kind for case in cases] == [
        *("what", "what", "is", "how", "can", "which", "others")
    ]
    said = ["a chair", "table lamp", "No.", "1", "no", "left side", ""]
    answers = {case.case_id: text for case, text in zip(cases, said, strict=True)}
    values = m.SQA3D.score(cases, records(answers)).values
    assert values["em"] == pytest.approx(100 * 3 / 7)
    assert values["em_refined"] == pytest.approx(100 * 5 / 7)
    assert (values["em_what"], values["em_refined_what"]) == (50.0, 100.0)
    assert (values["em_is"], values["em_how"], values["em_can"]) == (100.0, 100.0, 0.0)
    assert (values["em_which"], values["em_refined_which"]) == (0.0, 100.0)
    assert (values["em_others"], values["em_refined_others"]) == (0.0, 0.0)
    assert (values["questions"], values["questions_what"]) == (7, 2)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What's behind me?", "others"),
        (" which one?", "which"),
        ("Is it?", "is"),
        ("Island or not?", "others"),
        ("", "others"),
    ],
)
def test_first_words(question, kind):
    assert m.question_kind(question) == kind


def test_a_predictor_is_asked_with_the_situation(root):
    hand_made.write_frames(root, "scene0000_00", count=40)

    class Parrot:
        name = "parrot"

        def see(self, view):
            return view

        def answer(self, seen, question, situation=""):
            return f"{len(seen.frames)} {situation} {question}"

    cases = m.SQA3D.load(root, "test")
    case = next(iter(cases))
    view = cases.open_scene(case.scene_id)
    assert view.T_benchmark_first is None
    record = m.SQA3D.predict(Parrot(), Parrot().see(view), case)
    assert record["answer"] == "32 I stand at the table. What is behind me?"
    question = next(iter(m.SCANQA.load(root, "val")))
    assert m.SCANQA.predict(Parrot(), view, question)["answer"] == "32  What color is the chair?"
