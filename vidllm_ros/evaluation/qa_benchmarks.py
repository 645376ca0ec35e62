# SPDX-License-Identifier: Apache-2.0
"""ScanQA and SQA3D: questions about a scene, answered in few words.

ScanQA is scored twice. `em1`, `bleu*`, `meteor`, `rouge_l`, `cider` are the numbers of
Video-3D-LLM and 3DRS, and so of the paper's Table 1: words as they stand, final dots stripped for
the sentence metrics only. `ptb_*` are the official ones, on PTB tokens. `em1` is the same in both:
the raw string among the raw answers. SQA3D is exact match after LEO's cleaning, by the question's
first word. Next: caption_benchmarks.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidllm_ros.data.annotations import scanqa, sqa3d
from vidllm_ros.evaluation.benchmark_cases import (
    CASE_ID,
    Benchmark,
    Case,
    Cases,
    Record,
    Scores,
    cases_from_items,
    record_field,
    require_predictions,
)
from vidllm_ros.evaluation.caption_metrics import PERCENT, score_ptb, score_texts, why_no_java
from vidllm_ros.evaluation.predictor import Predictor, require_ability
from vidllm_ros.evaluation.scannet_views import FRAMES_LAYOUT, GIVEN_FRAMES, open_frames
from vidllm_ros.evaluation.text_metrics import exact_match, refined_match

FIRST_WORDS = ("what", "is", "how", "can", "which")
OTHER_WORDS = "others"
EM_VARIANTS = ("em1", "em1_leo", "em1_refined_leo")


@dataclass(frozen=True)
class AnswerTruth:
    """Every answer that counts as right, and the kind of question.

    Attributes:
        answers: at least one.
        kind: the group scores are split by; empty where there is none.
    """

    answers: tuple[str, ...]
    kind: str = ""

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError("answers: expected at least one, got none")


def question_kind(question: str) -> str:
    """Return SQA3D's type of a question: its first word, or "others"."""
    first = question.split()[0].lower() if question.split() else ""
    return first if first in FIRST_WORDS else OTHER_WORDS


def load_scanqa_cases(data_dir: Path, split: str) -> Cases:
    """Read ScanQA's questions as cases."""
    items = [
        Case(
            item.question_id, item.scene_id, {"question": item.question}, AnswerTruth(item.answers)
        )
        for item in scanqa.load_scanqa(data_dir, split)
    ]
    return cases_from_items(items, open_frames(data_dir), split)


def load_sqa3d_cases(data_dir: Path, split: str) -> Cases:
    """Read SQA3D's situated questions as cases."""
    items = [
        Case(
            str(item.question_id),
            item.scene_id,
            {"question": item.question, "situation": item.situation},
            AnswerTruth(item.answers, question_kind(item.question)),
        )
        for item in sqa3d.load_sqa3d(data_dir, split)
    ]
    return cases_from_items(items, open_frames(data_dir), split)


def predict_answer(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Ask the question, with its situation where it has one."""
    answer = require_ability(predictor, "answer")
    request = case.request
    if "situation" in request:
        said = answer(seen, request["question"], situation=request["situation"])
    else:
        said = answer(seen, request["question"])
    record = {CASE_ID: case.case_id, "answer": said}
    record_field(record, "answer", str)  # here, not after hours of predicting
    return record


def said_and_truths(
    cases: Cases, predictions: Mapping[str, Record]
) -> tuple[list[Case], list[str], list[tuple[str, ...]]]:
    """Pair every case with what was said; refuses predictions that leave one out."""
    listed = list(cases)
    require_predictions(listed, predictions)
    said = [record_field(predictions[case.case_id], "answer", str) for case in listed]
    return listed, said, [case.truth.answers for case in listed]


def score_scanqa(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score ScanQA by both protocols.

    Raises:
        ValueError: a prediction is missing or no text.
        ImportError: pycocoevalcap is not installed.
    """
    listed, said, answers = said_and_truths(cases, predictions)
    hits = [
        (text in truths, exact_match(text, truths), refined_match(text, truths))
        for text, truths in zip(said, answers, strict=True)
    ]
    values = {
        name: PERCENT * float(np.mean([hit[column] for hit in hits]))
        for column, name in enumerate(EM_VARIANTS)
    }
    plain = score_texts([text.rstrip(".") for text in said], answers)
    values |= plain.corpus
    missing = why_no_java()
    if not missing:
        official = score_ptb(said, answers)
        values |= {f"ptb_{name}": value for name, value in official.corpus.items()}
    values["questions"] = float(len(listed))
    per_case: dict[str, dict[str, float | str]] = {
        case.case_id: {
            "said": said[row],
            "answers": " | ".join(answers[row]),
            **{name: float(hit) for name, hit in zip(EM_VARIANTS, hits[row], strict=True)},
            "cider": plain.items["cider"][row],
            "rouge_l": plain.items["rouge_l"][row],
        }
        for row, case in enumerate(listed)
    }
    variant = (
        "per cent; em1, bleu, meteor, rouge_l, cider as Video-3D-LLM and 3DRS compute them "
        "(words as they stand, final dots stripped for sentences only; the paper's Table 1); "
        "ptb_* on PTB tokens, the official way; em1_leo and em1_refined_leo after LEO's cleaning"
    )
    return Scores(values, per_case, with_note(variant, missing), "cider", plotted=("rouge_l",))


def score_sqa3d(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score SQA3D: exact and refined match after LEO's cleaning, by the question's first word.

    Raises:
        ValueError: a prediction is missing or no text.
    """
    listed, said, answers = said_and_truths(cases, predictions)
    hits: dict[str, list[bool]] = defaultdict(list)
    per_case: dict[str, dict[str, float | str]] = {}
    for case, text, truths in zip(listed, said, answers, strict=True):
        exact, refined = exact_match(text, truths), refined_match(text, truths)
        for name in ("em", f"em_{case.truth.kind}"):
            hits[name].append(exact)
        for name in ("em_refined", f"em_refined_{case.truth.kind}"):
            hits[name].append(refined)
        hits[f"questions_{case.truth.kind}"].append(True)
        per_case[case.case_id] = {
            "said": text,
            "answers": " | ".join(truths),
            "kind": case.truth.kind,
            "em": float(exact),
            "em_refined": float(refined),
        }
    values = {
        name: float(len(found))
        if name.startswith("questions_")
        else PERCENT * float(np.mean(found))
        for name, found in hits.items()
    }
    values["questions"] = float(len(listed))
    variant = (
        "per cent; em is the table's exact match after LEO's cleaning of both sides (SQA3D, "
        "LLaVA-3D, Video-3D-LLM), by the question's first word; em_refined also counts one inside "
        "the other without spaces (LEO), an empty answer excepted"
    )
    return Scores(values, per_case, variant, "em_refined", plotted=("em",))


def with_note(variant: str, note: str) -> str:
    """Return the variant's sentence with what was left out."""
    return f"{variant}; {note}" if note else variant


SCANQA = Benchmark(
    name="scanqa",
    title="ScanQA: questions about a scene",
    splits=scanqa.SPLITS,
    load=load_scanqa_cases,
    predict=predict_answer,
    score=score_scanqa,
    layout=f"{scanqa.LAYOUT}\n{FRAMES_LAYOUT}",
    source="Azuma et al. 2022 (ATR-DBI/ScanQA); Video-3D-LLM for the table's numbers",
    given=GIVEN_FRAMES,
)
SQA3D = Benchmark(
    name="sqa3d",
    title="SQA3D: questions asked from a place in the scene",
    splits=sqa3d.SPLITS,
    load=load_sqa3d_cases,
    predict=predict_answer,
    score=score_sqa3d,
    layout=f"{sqa3d.LAYOUT}\n{FRAMES_LAYOUT}",
    source="Ma et al. 2023 (SilongYong/SQA3D); LEO's cleaning and refined match",
    given=f"{GIVEN_FRAMES}; the situation in words, not its position",
)
