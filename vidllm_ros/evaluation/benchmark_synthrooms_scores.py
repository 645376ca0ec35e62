# SPDX-License-Identifier: Apache-2.0
"""Score rooms: each kind of case by the published benchmark's own scorer, under flat names.

Depth is compared as it is, without alignment; clouds in the first camera's frame, whose pose is
given, without scale; answers after LEO's cleaning; boxes axis-aligned in the room. The trivial
answers of baselines.py are scored as records like any other model's. Next: report.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import Question, SceneSample
from vidllm_ros.evaluation import geometry_metrics as geometry
from vidllm_ros.evaluation.baselines import Baselines, still_camera
from vidllm_ros.evaluation.benchmark_cases import (
    Case,
    Cases,
    Record,
    Scores,
    cases_from_items,
    record_array,
    require_predictions,
)
from vidllm_ros.evaluation.caption_benchmarks import caption_and_iou
from vidllm_ros.evaluation.grounding_benchmarks import score_multi3drefer, score_scanrefer
from vidllm_ros.evaluation.grounding_metrics import room_aabb
from vidllm_ros.evaluation.predictor import SceneView
from vidllm_ros.evaluation.predictor_vidllm import window_cloud
from vidllm_ros.evaluation.qa_benchmarks import score_sqa3d
from vidllm_ros.evaluation.text_metrics import cider
from vidllm_ros.geometry.transforms import invert_transform

GEOMETRY = "geometry"
F_LIMITS_M = (0.10, 0.05)
CAPTION_IOU = 0.5
VARIANT = (
    "SynthRooms, ours: shares, not per cent; intrinsics are given. Depth of every frame without "
    "alignment, means over frames and rooms; pose mAA(30) of all pairs of frames, pooled; "
    "clouds thinned to 2 cm in the first camera's frame, no scale, no ICP; answers exact after "
    "LEO's cleaning; ScanRefer accuracy of phrases with one target and Multi3DRefer F1 of all "
    "phrases, boxes axis-aligned in the room by the first camera's true pose; CIDEr-D of the "
    "detected box nearest an object, IoU 0.5, misses count 0."
)
TextOnly = Callable[[Question], str]
Rows = dict[str, dict[str, "float | str"]]


def task_of(case_id: str) -> str:
    """Return what a case of a room asks: "geometry", "question", "one", "phrase", "object"."""
    parts = case_id.split("/")
    if len(parts) < 2:
        raise ValueError(f"case_id: expected room/task/number, got {case_id!r}")
    return parts[1]


@dataclass
class RoomScorer:
    """Collects rooms, one in memory at a time, and scores them all.

    Attributes:
        geometry: numbers of each room by name, lists over rooms.
        errors: pose errors of all pairs, deg, a room each.
        words: cases of language by task.
        per_case: what the pages show.
    """

    geometry: dict[str, list[float]] = field(default_factory=dict)
    errors: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)
    words: dict[str, list[Case]] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    per_case: Rows = field(default_factory=dict)

    def add(self, case: Case, record: Record) -> None:
        """Take a case with its prediction; the arrays of a geometry are not kept."""
        if task_of(case.case_id) == GEOMETRY:
            row = self._measure(case.truth, record)
            for name, value in row.items():
                self.geometry.setdefault(name, []).append(value)
            self.per_case[case.case_id] = {"task": GEOMETRY, "quality": row["depth_delta1"], **row}
        else:
            self.words.setdefault(task_of(case.case_id), []).append(case)
            self.records[case.case_id] = record

    def _measure(self, sample: SceneSample, record: Record) -> dict[str, float]:
        valid = np.isfinite(sample.depth) & (sample.depth > 0)
        depth = record_array(record, "depth", (len(sample), None, None))
        depth = np.stack(
            [geometry.resize_aligned_corners(d, sample.depth.shape[1:]) for d in depth]
        )
        poses = record_array(record, "T_world_camera", (len(sample), 4, 4))
        cloud = record_array(record, "cloud", (None, 3))
        row = depth_row(depth, sample, valid)
        truth = truth_in_window(sample)
        if len(sample) > 1:
            rotation, direction = geometry.relative_pose_errors(poses, truth)
            self.errors.append((rotation, direction))
            row["pose_maa30"] = geometry.mean_average_accuracy(rotation, direction)
            row["pose_rotation_deg_median"] = float(np.median(rotation))
        true_cloud = window_cloud(sample.depth, valid, sample.K, truth)
        for limit, f_score in geometry.f_scores(cloud, true_cloud, F_LIMITS_M).items():
            row[f"fscore_{round(limit * 100)}cm"] = f_score.f
            row[f"precision_{round(limit * 100)}cm"] = f_score.precision
            row[f"recall_{round(limit * 100)}cm"] = f_score.recall
        return row

    def values(self) -> dict[str, float]:
        """Score everything taken so far."""
        flat = {
            name: float(np.median(v) if name.endswith("_median") else np.mean(v))
            for name, v in self.geometry.items()
        }
        if self.errors:
            pairs = [np.concatenate([pair[i] for pair in self.errors]) for i in (0, 1)]
            flat["pose_maa30"] = geometry.mean_average_accuracy(pairs[0], pairs[1])
        flat.update(self._answers())
        flat.update(self._boxes())
        flat.update(self._captions())
        return {name: flat[name] for name in sorted(flat)}

    def _scores(self, task: str, scorer: Callable[..., Scores]) -> Mapping[str, float]:
        """Run a published benchmark's scorer over the cases of a task, shares for per cent."""
        scores = scorer(cases_from_items(self.words[task], _no_frames), self.records)
        for case_id, row in scores.per_case.items():
            quality = {"task": task, "quality": row[scores.worst_by]}
            self.per_case[case_id] = {**quality, **row}
        return {
            name: value / 100 if not name.startswith(("questions", "phrases", "desc")) else value
            for name, value in scores.values.items()
        }

    def _answers(self) -> dict[str, float]:
        flat = {"questions": float(len(self.words.get("question", ())))}
        if "question" not in self.words:
            return flat
        for name, value in self._scores("question", score_sqa3d).items():
            is_split_refined = name.startswith("em_refined_")
            if name.startswith("em") and not is_split_refined:
                flat[f"qa_{name}"] = value
        return flat

    def _boxes(self) -> dict[str, float]:
        flat = {"phrases": float(len(self.words.get("one", ())))}
        if "one" in self.words:
            for name, value in self._scores("one", score_scanrefer).items():
                kind, at, limit = name.rpartition("acc@")
                if at:
                    share = round(float(limit) * 100)
                    flat[f"grounding_acc{share}{'_' + kind[:-1] if kind else ''}"] = value
            ious = [float(self.per_case[case.case_id]["iou"]) for case in self.words["one"]]
            flat["grounding_iou"] = float(np.mean(ious))
        if "phrase" in self.words:
            scored = self._scores("phrase", score_multi3drefer)
            flat["multi_f1_25"], flat["multi_f1_50"] = scored["f1@0.25"], scored["f1@0.5"]
        return flat

    def _captions(self) -> dict[str, float]:
        cases = self.words.get("object", [])
        if not cases:
            return {}
        said, truths = [], []
        for case in cases:
            text, iou = caption_and_iou(self.records.get(case.case_id), case.truth)
            said.append(text.lower() if iou >= CAPTION_IOU else "")
            truths.append(list(case.truth.texts))
            self.per_case[case.case_id] = {"task": "object", "iou": iou}
        scores = cider(said, truths)
        for case, value, text in zip(cases, scores, said, strict=True):
            self.per_case[case.case_id] |= {"cider": value, "quality": value, "said": text}
        return {"caption_cider50": float(np.mean(scores))}


def _no_frames(scene_id: str) -> SceneView:
    raise AssertionError(f"{scene_id}: a scorer asked for frames")


def depth_row(
    depth: NDArray[np.float64], sample: SceneSample, valid: NDArray[np.bool_]
) -> dict[str, float]:
    """Return the depth measures of one room: means over frames, and its scale."""
    errors = [
        geometry.depth_errors(depth[i], sample.depth[i], valid[i])
        for i in range(len(depth))
        if valid[i].any()
    ]
    aligned = geometry.depth_errors(depth, sample.depth, valid, align=True)
    return {
        "depth_absrel": float(np.mean([e.absrel for e in errors])),
        "depth_delta1": float(np.mean([e.delta1 for e in errors])),
        "depth_rmse_m": float(np.mean([e.rmse_m for e in errors])),
        "depth_log10": float(np.mean([e.log10 for e in errors])),
        "depth_absrel_median_scaled": aligned.absrel,
        "scale_error_median": geometry.scale_error(depth, sample.depth, valid),
    }


def truth_in_window(sample: SceneSample) -> NDArray[np.float64]:
    """Return true poses in the first camera's frame, (S, 4, 4)."""
    return invert_transform(sample.T_world_camera[0]) @ sample.T_world_camera


@dataclass
class RoomTally:
    """The model's scores and, where baselines are given, those of the trivial answers.

    Attributes:
        baselines: constants fitted on training rooms; None leaves their numbers out.
        text_only: answers without seeing; None leaves its numbers out.
    """

    baselines: Baselines | None = None
    text_only: TextOnly | None = None
    ours: RoomScorer = field(default_factory=RoomScorer)
    constant: RoomScorer = field(default_factory=RoomScorer)
    by_family: RoomScorer = field(default_factory=RoomScorer)
    blind: RoomScorer = field(default_factory=RoomScorer)

    def add_room(
        self, sample: SceneSample, cases: Sequence[Case], predictions: Mapping[str, Record]
    ) -> None:
        """Take all cases of a room."""
        require_predictions(cases, predictions)
        for case in cases:
            self.ours.add(case, predictions[case.case_id])
            task = task_of(case.case_id)
            if self.baselines is not None and task in TRIVIAL:
                self.constant.add(case, TRIVIAL[task](self.baselines, sample))
            if task == "question":
                self._add_question(case)

    def _add_question(self, case: Case) -> None:
        question, family = str(case.request["question"]), case.truth.kind
        if self.baselines is not None:
            said = self.baselines.answer_of_family.get(family, self.baselines.answer)
            self.by_family.add(case, {"case_id": case.case_id, "answer": said})
        if self.text_only is not None:
            asked = Question(case.case_id, question, case.truth.answers, (), family)
            said = self.text_only(asked)
            self.blind.add(case, {"case_id": case.case_id, "answer": said})

    def report(self) -> dict[str, float]:
        """Return every number by its flat name."""
        flat = self.ours.values()
        for name, value in self.constant.values().items():
            prefix = next((p for start, p in BASELINE_PREFIXES if name.startswith(start)), None)
            if self.constant.geometry and prefix is not None:
                flat[f"baseline_{prefix}_{name}"] = value
        family, blind = self.by_family.values(), self.blind.values()
        if "qa_em" in family:
            flat["baseline_most_frequent_in_family_qa_em"] = family["qa_em"]
        for name, value in blind.items():
            if name.startswith("qa_em") and name != "qa_em_refined":
                flat[name.replace("qa_em", "qa_em_text_only", 1)] = value
        return {name: flat[name] for name in sorted(flat)}


BASELINE_PREFIXES = (
    ("depth_absrel", "constant"),
    ("depth_delta1", "constant"),
    ("scale_error", "constant"),
    ("fscore", "constant"),
    ("pose_maa30", "still"),
    ("qa_em", "most_frequent"),
    ("grounding_acc", "mean_box"),
)


def trivial_geometry(baselines: Baselines, sample: SceneSample) -> Record:
    """Constant depth before a camera that stands still."""
    depth = np.full(sample.depth.shape, baselines.depth_m)
    still = still_camera(len(sample))
    cloud = window_cloud(depth, np.ones(depth.shape, bool), sample.K, still)
    return {"depth": depth, "T_world_camera": still, "cloud": cloud}


def trivial_answer(baselines: Baselines, sample: SceneSample) -> Record:
    """Return the commonest answer of all."""
    return {"answer": baselines.answer}


def trivial_box(baselines: Baselines, sample: SceneSample) -> Record:
    """Return the mean box of training rooms, placed before this room's first camera."""
    box = room_aabb(baselines.box, sample.T_world_camera[0])
    return {"box": [float(value) for value in box]}


TRIVIAL: dict[str, Callable[[Baselines, SceneSample], Record]] = {
    GEOMETRY: trivial_geometry,
    "question": trivial_answer,
    "one": trivial_box,
}


def score(
    cases: Cases,
    predictions: Mapping[str, Record],
    baselines: Baselines | None = None,
    text_only: TextOnly | None = None,
) -> Scores:
    """Score rooms, one in memory at a time, beside trivial answers where they are given."""
    tally = RoomTally(baselines, text_only)
    for scene_id in cases.scene_ids:
        items = cases.cases_of(scene_id)
        sample = next(c.truth for c in items if task_of(c.case_id) == GEOMETRY)
        tally.add_room(sample, items, predictions)
    values = tally.report() | {"rooms": float(len(cases.scene_ids))}
    plotted = ("depth_absrel", "pose_maa30", "fscore_10cm", "iou", "cider", "em")
    return Scores(values, tally.ours.per_case, VARIANT, "quality", plotted=plotted)
