# SPDX-License-Identifier: Apache-2.0
"""Scan2Cap: describe an object that is found in the scene, m@kIoU.

Every annotated object of the split counts. For each the protocol takes the proposal that overlaps
its true box most and asks for a description of what is there; below the IoU the object is missed.
Three variants of the same predictions: plain names are the definition, m times 1[IoU >= k]
averaged over all objects, so a miss scores exactly 0; `placeholder_*` compares an empty caption,
as the released code of LEO and Video-3D-LLM does, and so do the paper's rows; `official_*` is
Scan2Cap's own: IoU > k, references of the data set's first 30 tokens, a miss is "sos eos".
Next: grounding_benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.annotations import proposals, scannet_scene, scanrefer
from vidllm_ros.evaluation.benchmark_cases import (
    CASE_ID,
    Benchmark,
    Case,
    Cases,
    Record,
    Scores,
    record_array,
    record_field,
)
from vidllm_ros.evaluation.caption_metrics import CaptionScores, score_texts, why_no_java
from vidllm_ros.evaluation.grounding_metrics import check_box
from vidllm_ros.evaluation.predictor import Predictor, require_ability
from vidllm_ros.evaluation.scannet_views import FRAMES_LAYOUT, GIVEN_PROPOSALS, open_with_proposals
from vidllm_ros.geometry.boxes import aabb_iou

THRESHOLDS = (0.25, 0.5)
MISS = "sos eos"
MAX_TOKENS = 30
MEASURES = ("cider", "bleu4", "meteor", "rouge_l")


@dataclass(frozen=True)
class CaptionTruth:
    """An object and all that was said of it.

    Attributes:
        texts: its descriptions.
        aabb: its true box, (6,), m.
        tokens: the descriptions as the data set tokenised them; split at spaces where not given.
    """

    texts: tuple[str, ...]
    aabb: NDArray[np.float64]
    tokens: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("texts: expected at least one description, got none")


def wrap_text(text: str) -> str:
    """Return a caption as LEO and Video-3D-LLM compare it: "sos a chair .  eos".

    The double space after a full stop is theirs; ROUGE-L splits at single spaces and counts it.
    """
    return "sos " + text.replace(".", " . ").replace(",", " , ").lower() + " eos"


def wrap_tokens(tokens: Sequence[str]) -> str:
    """Return a reference as Scan2Cap's code does: its first 30 tokens between sos and eos."""
    return " ".join(("sos", *tokens[:MAX_TOKENS], "eos"))


def load_scan2cap_cases(data_dir: Path, split: str) -> Cases:
    """Read the described objects of a split; boxes and proposals are read scene by scene."""
    objects: dict[str, list[scanrefer.DescribedObject]] = {}
    for item in scanrefer.described_objects(scanrefer.load_scanrefer(data_dir, split)):
        objects.setdefault(item.scene_id, []).append(item)

    @cache
    def cases_of(scene_id: str) -> tuple[Case, ...]:
        scene = scannet_scene.read_scene(data_dir, scene_id)
        found = proposals.read_proposals(data_dir, scene_id)
        boxes = None if found is None else np.array([item.aabb for item in found]).reshape(-1, 6)
        cases = []
        for item in objects[scene_id]:
            aabb = scene.box(item.object_id, item.entry)
            truth = CaptionTruth(item.descriptions, aabb, item.tokens)
            request: dict[str, Any] = {"given": "own" if boxes is None else "mask3d"}
            if boxes is not None:
                request["box"] = nearest_box(boxes, aabb)
            cases.append(Case(item.key, scene_id, request, truth))
        return tuple(cases)

    return Cases(tuple(objects), cases_of, open_with_proposals(data_dir), split)


def nearest_box(boxes: NDArray[np.float64], aabb: NDArray[np.float64]) -> list[float] | None:
    """Return the box, of (P, 6), that overlaps `aabb` most; None where none reaches the least IoU.

    The choice looks at the true box: the protocol asks for it (LEO, Video-3D-LLM, VG-LLM).
    """
    if not len(boxes):
        return None
    ious = aabb_iou(boxes, aabb)[:, 0]
    best = int(ious.argmax())
    return [float(v) for v in boxes[best]] if ious[best] >= min(THRESHOLDS) else None


def predict_caption(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Describe the object's proposal: the given one, else the model's own nearest detection."""
    if case.request.get("given") == "own":
        found = require_ability(predictor, "detect")(seen)
        boxes = np.array([item.aabb for item in found], np.float64).reshape(-1, 6)
        box = nearest_box(boxes, case.truth.aabb)
    else:
        box = case.request["box"]
    text = ""
    if box is not None:
        text = require_ability(predictor, "caption")(seen, np.array(box, np.float64))
    record = {CASE_ID: case.case_id, "caption": text, "box": box}
    caption_and_iou(record, case.truth)  # refuses what is no caption with a box
    return record


def caption_and_iou(record: Record | None, truth: CaptionTruth) -> tuple[str, float]:
    """Return what was said of an object and the IoU of where; no record or no box is a miss."""
    if record is None:
        return "", 0.0
    text = record_field(record, "caption", str)
    if record.get("box") is None:
        return text, 0.0
    box = check_box(record_array(record, "box", (6,)), record)
    return text, float(aabb_iou(box, truth.aabb)[0, 0])


def score_scan2cap(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score descriptions; an object without a prediction is missed.

    Predictions in scenes that were left out by choice are not looked at.

    Raises:
        ValueError: a record is no caption with a box, or is about no object of the split.
        ImportError: pycocoevalcap is not installed.
    """
    listed = list(cases)
    strange = sorted(
        key
        for key in set(predictions) - {case.case_id for case in listed}
        if key.partition("|")[0] not in cases.others
    )
    if strange:
        raise ValueError(
            f"predictions: expected objects of split {cases.split!r} by 'scene|object_id|name', "
            f"got {len(strange)} others ({strange[0]!r}, ...); they would count for nothing"
        )
    truths: list[CaptionTruth] = [case.truth for case in listed]
    told = [
        caption_and_iou(predictions.get(case.case_id), truth)
        for case, truth in zip(listed, truths, strict=True)
    ]
    texts, ious = [text for text, _ in told], np.array([iou for _, iou in told])
    references = [[wrap_text(text) for text in truth.texts] for truth in truths]
    cut = [
        [wrap_tokens(tokens) for tokens in truth.tokens or [t.split() for t in truth.texts]]
        for truth in truths
    ]
    values: dict[str, float] = {}
    per_case: dict[str, dict[str, float | str]] = {}
    for limit in THRESHOLDS:
        described = np.array([bool(text.strip()) for text in texts])
        hit, beyond = (ious >= limit) & described, (ious > limit) & described
        said = [wrap_text(text if ok else "") for text, ok in zip(texts, hit, strict=True)]
        loose = score_texts(said, references)
        short = [text if ok else MISS for text, ok in zip(said, beyond, strict=True)]
        official = score_texts([" ".join(text.split()) for text in short], cut)
        strict = exact_zeros(loose, said, references, hit)
        for prefix, found in (
            ("", strict),
            ("placeholder_", loose.corpus),
            ("official_", official.corpus),
        ):
            values |= {
                f"{prefix}{name}@{limit}": found[name] for name in MEASURES if name in found
            }
        values[f"found@{limit}"] = 100.0 * float(hit.mean())
        per_case = {
            case.case_id: {
                "said": texts[row],
                "references": " | ".join(truths[row].texts),
                "iou": float(ious[row]),
                "cider": loose.items["cider"][row] * float(hit[row]),
                "rouge_l": loose.items["rouge_l"][row] * float(hit[row]),
            }
            for row, case in enumerate(listed)
        }
    values["objects"] = float(len(listed))
    variant = (
        "per cent over all annotated objects, IoU >= k, whitespace words between sos and eos "
        "without PTB (LEO, Video-3D-LLM); plain names score a miss 0; placeholder_* score it as "
        "an empty caption between them, like the released code and so the paper's Table 2; "
        "official_*: references of the data set's first 30 tokens, IoU > k (Scan2Cap)"
    )
    missing = why_no_java()
    return Scores(
        values,
        per_case,
        f"{variant}; {missing}" if missing else variant,
        "cider",
        plotted=("iou", "rouge_l"),
    )


def exact_zeros(
    scores: CaptionScores,
    said: Sequence[str],
    references: Sequence[Sequence[str]],
    hit: NDArray[np.bool_],
) -> dict[str, float]:
    """Return the measures with misses at exactly 0: means of items, BLEU of empty candidates."""
    strict = {
        name: float(np.mean(np.array(values) * hit)) for name, values in scores.items.items()
    }
    silent = [text if ok else "" for text, ok in zip(said, hit, strict=True)]
    strict["bleu4"] = score_texts(silent, references).corpus["bleu4"] if hit.any() else 0.0
    return strict


SCAN2CAP = Benchmark(
    name="scan2cap",
    title="Scan2Cap: describe an object",
    splits=scanrefer.SPLITS,
    load=load_scan2cap_cases,
    predict=predict_caption,
    score=score_scan2cap,
    layout=f"{scanrefer.LAYOUT}\n{scannet_scene.LAYOUT}\n{proposals.LAYOUT}\n{FRAMES_LAYOUT}",
    source="Chen et al. 2021 (daveredrum/Scan2Cap); LEO and Video-3D-LLM for proposals and words",
    given=f"{GIVEN_PROPOSALS}: for each object the one that overlaps its true box most",
)
