# SPDX-License-Identifier: Apache-2.0
"""ScanRefer, Multi3DRefer, Nr3D and Sr3D: which object, or objects, a phrase means.

ScanRefer: Acc@k is the share of descriptions whose box has IoU >= k with the true one, overall and
for unique and multiple. Multi3DRefer: F1 at IoU k a phrase, averaged by type and over all.
Nr3D and Sr3D: accuracy of choosing among the true boxes. Boxes are axis-aligned in ScanNet's
aligned world. Next: caption_benchmarks.py shares these readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.annotations import (
    labels,
    multi3drefer,
    proposals,
    referit3d,
    scannet_scene,
    scanrefer,
)
from vidllm_ros.evaluation.benchmark_cases import (
    CASE_ID,
    Benchmark,
    Case,
    Cases,
    Record,
    Scores,
    cases_from_items,
    record_array,
    record_field,
    require_predictions,
)
from vidllm_ros.evaluation.grounding_metrics import best_iou, check_box, multi_f1
from vidllm_ros.evaluation.predictor import Predictor, SceneView, require_ability
from vidllm_ros.evaluation.scannet_views import (
    FRAMES_LAYOUT,
    GIVEN_PROPOSALS,
    GIVEN_TRUE_BOXES,
    OpenScene,
    open_with_proposals,
    open_with_true_boxes,
)

THRESHOLDS = (0.25, 0.5)
PERCENT = 100.0
Item = TypeVar("Item", scanrefer.Description, multi3drefer.MultiPhrase)


@dataclass(frozen=True)
class BoxTruth:
    """The boxes a phrase means.

    Attributes:
        aabbs: (G, 6), min x y z, max x y z, m; none for a phrase that means nothing.
        kind: the group scores are split by: "unique", "st_w_d", ...
    """

    aabbs: NDArray[np.float64]
    kind: str


@dataclass(frozen=True)
class ChoiceTruth:
    """The object an utterance means, and how hard it is."""

    object_id: int
    is_hard: bool
    is_view_dependent: bool
    was_understood: bool = True


def cases_by_scene(
    items: list[Item], make: Callable[[Item], Case], open_scene: OpenScene, split: str
) -> Cases:
    """Group items by scene; a scene's boxes are read when its cases are first asked for."""
    by_scene: dict[str, list[Item]] = {}
    for item in items:
        by_scene.setdefault(item.scene_id, []).append(item)

    @cache
    def cases_of(scene_id: str) -> tuple[Case, ...]:
        return tuple(make(item) for item in by_scene[scene_id])

    return Cases(tuple(by_scene), cases_of, open_scene, split)


def load_scanrefer_cases(data_dir: Path, split: str) -> Cases:
    """Read ScanRefer's descriptions; unique or multiple is counted over the whole split here."""
    found = scanrefer.load_scanrefer(data_dir, split)
    kind_of = scanrefer.unique_or_multiple(found, labels.load_classes(data_dir))

    def make(item: scanrefer.Description) -> Case:
        box = scannet_scene.read_scene(data_dir, item.scene_id).box(item.object_id, item.entry)
        request = {"phrase": item.description}
        return Case(item.key, item.scene_id, request, BoxTruth(box[None], kind_of[item.key]))

    return cases_by_scene(found, make, open_with_proposals(data_dir), split)


def load_multi3drefer_cases(data_dir: Path, split: str) -> Cases:
    """Read Multi3DRefer's phrases."""

    def make(item: multi3drefer.MultiPhrase) -> Case:
        scene = scannet_scene.read_scene(data_dir, item.scene_id)
        boxes = [scene.box(index, item.entry, "object_ids") for index in item.object_ids]
        truth = BoxTruth(np.array(boxes, np.float64).reshape(-1, 6), item.eval_type)
        return Case(item.key, item.scene_id, {"phrase": item.description}, truth)

    found = multi3drefer.load_multi3drefer(data_dir, split)
    return cases_by_scene(found, make, open_with_proposals(data_dir), split)


def load_referit3d_cases(data_dir: Path, split: str, name: str) -> Cases:
    """Read Nr3D's or Sr3D's utterances; a scene that lacks a target is refused when opened."""
    found = referit3d.load_referit3d(data_dir, name, split)
    open_boxes = open_with_true_boxes(data_dir)

    def open_scene(scene_id: str) -> SceneView:
        scene = scannet_scene.read_scene(data_dir, scene_id)
        for item in found:
            if item.scene_id == scene_id:
                scene.box(item.target_id, item.entry, "target_id")
        return open_boxes(scene_id)

    items = [
        Case(
            str(item.row_id),
            item.scene_id,
            {"phrase": item.utterance},
            ChoiceTruth(item.target_id, item.is_hard, item.is_view_dependent, item.was_understood),
        )
        for item in found
    ]
    return cases_from_items(items, open_scene, split)


def predict_box(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Ask for the one box of a description."""
    found = require_ability(predictor, "ground_one")(seen, case.request["phrase"])
    box = None if found is None else [float(value) for value in found.aabb]
    record = {CASE_ID: case.case_id, "box": box}
    if box is not None:
        check_box(record_array(record, "box", (6,)), record)
    return record


def predict_boxes(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Ask for all boxes of a phrase."""
    found = require_ability(predictor, "ground")(seen, case.request["phrase"])
    boxes = [[float(value) for value in item.aabb] for item in found]
    record = {CASE_ID: case.case_id, "boxes": boxes}
    record_boxes(record)
    return record


def predict_choice(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Ask which of the given objects an utterance means."""
    chosen = require_ability(predictor, "choose")(seen, case.request["phrase"])
    number = int(chosen) if isinstance(chosen, Integral) else chosen  # numpy's as well
    record = {CASE_ID: case.case_id, "object_id": number}
    if number is not None:
        record_field(record, "object_id", int)
    return record


def means_by_name(tallies: Mapping[str, list[float]], count_name: str) -> dict[str, float]:
    """Return per cent by name, and how many cases each rests on."""
    values = {name: PERCENT * float(np.mean(found)) for name, found in tallies.items()}
    values[count_name] = float(len(next(iter(tallies.values()), ())))
    return values


def score_scanrefer(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score one box a description; "box": null is a miss.

    Raises:
        ValueError: a prediction is missing or no box.
    """
    listed = list(cases)
    require_predictions(listed, predictions)
    tallies: dict[str, list[float]] = {f"acc@{limit}": [] for limit in THRESHOLDS}
    counts: dict[str, float] = defaultdict(float)
    per_case: dict[str, dict[str, float | str]] = {}
    for case in listed:
        record = predictions[case.case_id]
        if "box" not in record or record["box"] is not None:
            box = check_box(record_array(record, "box", (6,)), record)
            iou = best_iou(box, case.truth.aabbs)
        else:
            iou = 0.0
        for limit in THRESHOLDS:
            tallies[f"acc@{limit}"].append(iou >= limit)
            tallies.setdefault(f"{case.truth.kind}_acc@{limit}", []).append(iou >= limit)
        counts[f"descriptions_{case.truth.kind}"] += 1
        per_case[case.case_id] = {
            "phrase": str(case.request.get("phrase", "")),
            "kind": case.truth.kind,
            "iou": iou,
        }
    variant = (
        "per cent of descriptions with IoU >= k between axis-aligned boxes; unique: exactly one "
        "annotated object of the scene in the whole split is of the class, of ScanRefer's 18"
    )
    values = means_by_name(tallies, "descriptions") | counts
    return Scores(values, per_case, variant, "iou")


def record_boxes(record: Record) -> NDArray[np.float64]:
    """Return the boxes of a record, (P, 6); an empty list is none."""
    if record.get("boxes") == []:
        return np.zeros((0, 6))
    boxes = record_array(record, "boxes", (None, 6))
    for box in boxes:
        check_box(box, record)
    return boxes


def score_multi3drefer(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score sets of boxes: F1 a phrase, averaged by type and over all phrases.

    Raises:
        ValueError: a prediction is missing or no list of boxes.
    """
    listed = list(cases)
    require_predictions(listed, predictions)
    tallies: dict[str, list[float]] = {f"f1@{limit}": [] for limit in THRESHOLDS}
    per_case: dict[str, dict[str, float | str]] = {}
    for case in listed:
        kind = case.truth.kind
        boxes = record_boxes(predictions[case.case_id])
        f1 = {limit: multi_f1(boxes, case.truth.aabbs, limit) for limit in THRESHOLDS}
        for limit, value in f1.items():
            for group in {"", f"{kind}_", f"{kind.partition('_')[0]}_"}:
                tallies.setdefault(f"{group}f1@{limit}", []).append(value)
        per_case[case.case_id] = {
            "phrase": str(case.request.get("phrase", "")),
            "kind": kind,
            "predicted": float(len(boxes)),
            "true": float(len(case.truth.aabbs)),
            **{f"f1@{limit}": value for limit, value in f1.items()},
        }
    variant = (
        "per cent; F1 a phrase after Hungarian matching on IoU, averaged by type and over phrases "
        "(Multi3DRefer); a phrase of nothing scores 1 if nothing is predicted; the paper's header "
        "calls these numbers Acc"
    )
    values = means_by_name(tallies, "phrases")
    return Scores(values, per_case, variant, "f1@0.25", plotted=("f1@0.5",))


def score_referit3d(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score choices among the true boxes; "object_id": null is a miss.

    Raises:
        ValueError: a prediction is missing or no id.
    """
    listed = list(cases)
    require_predictions(listed, predictions)
    tallies: dict[str, list[float]] = {"accuracy": []}
    per_case: dict[str, dict[str, float | str]] = {}
    for case in listed:
        truth: ChoiceTruth = case.truth
        record = predictions[case.case_id]
        chosen = None
        if "object_id" not in record or record["object_id"] is not None:
            chosen = record_field(record, "object_id", int)
        hit = chosen == truth.object_id
        groups = [
            "accuracy",
            "hard" if truth.is_hard else "easy",
            "view_dependent" if truth.is_view_dependent else "view_independent",
        ]
        if truth.was_understood:
            groups.append("understood")
        for name in groups:
            tallies.setdefault(name, []).append(hit)
        per_case[case.case_id] = {
            "phrase": str(case.request.get("phrase", "")),
            "kind": f"{groups[1]}, {groups[2]}",
            "hit": float(hit),
        }
    variant = (
        "per cent of utterances that mention the target's class, of any length, whose object is "
        "chosen among all true boxes of the scene, without their labels; hard: more than two "
        "objects of the class; view-dependent: the utterance has one of ReferIt3D's ten words; "
        "understood: those another person understood (correct_guess), as some later work filters"
    )
    return Scores(means_by_name(tallies, "utterances"), per_case, variant, "hit")


_BOXES_LAYOUT = f"{scannet_scene.LAYOUT}\n{proposals.LAYOUT}\n{FRAMES_LAYOUT}"
SCANREFER = Benchmark(
    name="scanrefer",
    title="ScanRefer: the object a description means",
    splits=scanrefer.SPLITS,
    load=load_scanrefer_cases,
    predict=predict_box,
    score=score_scanrefer,
    layout=f"{scanrefer.LAYOUT}\n{labels.TABLE}    ScanNet's label table\n{_BOXES_LAYOUT}",
    source="Chen et al. 2020 (daveredrum/ScanRefer)",
    given=GIVEN_PROPOSALS,
)
MULTI3DREFER = Benchmark(
    name="multi3drefer",
    title="Multi3DRefer: none, one or several objects a phrase means",
    splits=multi3drefer.SPLITS,
    load=load_multi3drefer_cases,
    predict=predict_boxes,
    score=score_multi3drefer,
    layout=f"{multi3drefer.LAYOUT}\n{_BOXES_LAYOUT}",
    source="Zhang et al. 2023 (3dlg-hcvc/M3DRef-CLIP)",
    given=GIVEN_PROPOSALS,
)


def referit3d_benchmark(name: str, title: str) -> Benchmark:
    """Build Nr3D or Sr3D, which differ in their file alone."""
    files = f"{referit3d.LAYOUT}\n{scannet_scene.LAYOUT}\n{FRAMES_LAYOUT}"
    return Benchmark(
        name=name,
        title=title,
        splits=referit3d.SPLITS,
        load=partial(load_referit3d_cases, name=name),
        predict=predict_choice,
        score=score_referit3d,
        layout=files.replace("{name}", name),
        source="Achlioptas et al. 2020 (referit3d/referit3d)",
        given=GIVEN_TRUE_BOXES,
    )


NR3D = referit3d_benchmark("nr3d", "Nr3D: choose the object a person described")
SR3D = referit3d_benchmark("sr3d", "Sr3D: choose the object a template describes")
