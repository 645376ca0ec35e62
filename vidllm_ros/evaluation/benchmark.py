# SPDX-License-Identifier: Apache-2.0
"""Run a model over rooms nobody has seen, and its trivial rivals over the same rooms.

Depth is compared as it is, without alignment; clouds are compared in the first camera's frame,
whose pose is given, without scale; answers after cleaning; boxes axis-aligned in the room. The
report is flat, one number a name. Next: cli/evaluate.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import Question, SceneSample
from vidllm_ros.evaluation import geometry_metrics as geometry
from vidllm_ros.evaluation import grounding_metrics as grounding
from vidllm_ros.evaluation import text_metrics as text
from vidllm_ros.evaluation.baselines import Baselines, still_camera
from vidllm_ros.geometry.boxes import aabb_iou, corners_of
from vidllm_ros.geometry.camera import unproject
from vidllm_ros.structures import (
    Answer,
    FloatArray,
    Frames,
    GroundedBox,
    Reconstruction,
    SceneContext,
)

F_LIMITS_M = (0.10, 0.05)
CONFIDENCE_QUANTILE = 0.1
CAPTION_IOU = 0.5


class Model(Protocol):
    """What is measured; `network.vidllm.VidLLM` is one."""

    def reconstruct(self, frames: Frames) -> Reconstruction: ...

    def answer(self, scene: SceneContext, question: str) -> Answer: ...

    def ground(
        self, scene: SceneContext, phrase: str, threshold: float | None, max_boxes: int
    ) -> tuple[GroundedBox, ...]: ...

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]: ...

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer: ...


TextOnly = Callable[[Question], str]


@dataclass
class Tally:
    """Numbers by name; each is averaged in the end, by median where its name ends in _median."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    captions: list[str] = field(default_factory=list)
    caption_truths: list[list[str]] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        self.values[name].append(float(value))

    def report(self) -> dict[str, float]:
        flat = {
            name: float(np.median(v) if name.endswith("_median") else np.mean(v))
            for name, v in sorted(self.values.items())
        }
        if self.caption_truths:
            flat["caption_cider50"] = float(
                np.mean(text.cider(self.captions, self.caption_truths))
            )
        flat["questions"] = len(self.values["qa_em"])
        flat["phrases"] = len(self.values["grounding_acc25"])
        return flat


def window_cloud(
    depth: FloatArray, mask: NDArray[np.bool_], K: FloatArray, T_world_camera: FloatArray
) -> NDArray[np.float64]:
    """Points of all frames in the window's world, (N, 3), m."""
    clean = np.where(mask, depth, 1.0).astype(np.float64)
    points = np.asarray(unproject(clean, K), np.float64)
    poses = np.asarray(T_world_camera, np.float64)[:, None, None]  # (S, 1, 1, 4, 4)
    moved = (poses[..., :3, :3] @ points[..., None])[..., 0] + poses[..., :3, 3]
    return np.asarray(moved[mask], np.float64)


def truth_in_window(sample: SceneSample) -> NDArray[np.float64]:
    """Return true poses in the first camera's frame, (S, 4, 4)."""
    return np.linalg.inv(sample.T_world_camera[0]) @ sample.T_world_camera


def measure_geometry(
    tally: Tally, reconstruction: Reconstruction, sample: SceneSample, baselines: Baselines
) -> None:
    """Depth, scale, pose and cloud of one room, with their baselines."""
    valid = np.isfinite(sample.depth) & (sample.depth > 0)
    if reconstruction.depth.shape != sample.depth.shape:
        raise ValueError(
            "depth: expected the room's frames at the network's size "
            f"{reconstruction.depth.shape}, got {sample.depth.shape}; render them so"
        )
    constant = np.full_like(sample.depth, baselines.depth_m)
    for prefix, depth in (("", reconstruction.depth), ("baseline_constant_", constant)):
        errors = [
            geometry.depth_errors(depth[i], sample.depth[i], valid[i])
            for i in range(len(depth))
            if valid[i].any()
        ]
        tally.add(f"{prefix}depth_absrel", float(np.mean([e.absrel for e in errors])))
        tally.add(f"{prefix}depth_delta1", float(np.mean([e.delta1 for e in errors])))
        error = geometry.scale_error(depth, sample.depth, valid)
        tally.add(f"{prefix}scale_error_median", error)
    aligned = geometry.depth_errors(reconstruction.depth, sample.depth, valid, align=True)
    tally.add("depth_absrel_median_scaled", aligned.absrel)
    truth = truth_in_window(sample)
    still = still_camera(len(sample))
    true_cloud = window_cloud(sample.depth, valid, sample.K, truth)
    floor = np.quantile(reconstruction.confidence, CONFIDENCE_QUANTILE)
    sure = reconstruction.valid & (reconstruction.confidence >= floor)
    ours = reconstruction.T_world_camera
    for prefix, poses, depth, mask, K in (
        ("", ours, reconstruction.depth, sure, reconstruction.K),
        ("baseline_constant_", still, constant, valid, sample.K),
    ):
        if len(sample) > 1:
            rotation, direction = geometry.relative_pose_errors(poses, truth)
            name = f"{prefix}pose_maa30".replace("constant", "still")
            tally.add(name, geometry.mean_average_accuracy(rotation, direction))
            if not prefix:
                tally.add("pose_rotation_deg_median", float(np.median(rotation)))
        cloud = window_cloud(depth, mask, K, poses)
        for limit, score in geometry.f_scores(cloud, true_cloud, F_LIMITS_M).items():
            tally.add(f"{prefix}fscore_{round(limit * 100)}cm", score.f)


def measure_answers(
    tally: Tally,
    model: Model,
    scene: SceneContext,
    questions: Sequence[Question],
    baselines: Baselines,
    text_only: TextOnly | None,
) -> None:
    """Exact match of every question of one room, overall and by family, with baselines."""
    for question in questions:
        said = model.answer(scene, question.question).text
        hit = text.exact_match(said, question.answers)
        tally.add("qa_em", hit)
        tally.add(f"qa_em_{question.family}", hit)
        tally.add("qa_em_refined", text.refined_match(said, question.answers))
        common = text.exact_match(baselines.answer, question.answers)
        tally.add("baseline_most_frequent_qa_em", common)
        of_family = baselines.answer_of_family.get(question.family, baselines.answer)
        tally.add(
            "baseline_most_frequent_in_family_qa_em", text.exact_match(of_family, question.answers)
        )
        if text_only is not None:
            blind = text.exact_match(text_only(question), question.answers)
            tally.add("qa_em_text_only", blind)
            tally.add(f"qa_em_text_only_{question.family}", blind)


def room_boxes(sample: SceneSample, object_ids: Sequence[int]) -> NDArray[np.float64]:
    """Return true boxes along the room's axes, (G, 6), m."""
    corners = [np.asarray(corners_of(sample.object(i).box)) for i in object_ids]
    return np.array([np.concatenate([c.min(0), c.max(0)]) for c in corners]).reshape(-1, 6)


def measure_grounding(
    tally: Tally, model: Model, scene: SceneContext, sample: SceneSample, baselines: Baselines
) -> None:
    """ScanRefer accuracy of phrases with one target, Multi3DRefer F1 of all phrases."""
    T_room_window = sample.T_world_camera[0]
    mean_box = grounding.room_aabb(baselines.box, T_room_window)
    for reference in sample.references:
        targets = room_boxes(sample, reference.object_ids)
        found = model.ground(scene, reference.phrase, threshold=None, max_boxes=8)
        boxes = np.array([grounding.room_aabb(b, T_room_window) for b in found]).reshape(-1, 6)
        for limit in (25, 50):
            tally.add(f"multi_f1_{limit}", grounding.multi_f1(boxes, targets, limit / 100))
        if len(reference.object_ids) != 1:
            continue
        best = model.ground(scene, reference.phrase, threshold=0.0, max_boxes=1)
        box = grounding.room_aabb(best[0], T_room_window) if best else None
        ours = grounding.best_iou(box, targets)
        trivial = grounding.best_iou(mean_box, targets)
        tally.add("grounding_iou", ours)
        for limit in (25, 50):
            tally.add(f"grounding_acc{limit}", ours >= limit / 100)
            tally.add(f"grounding_acc{limit}_{reference.kind}", ours >= limit / 100)
            tally.add(f"baseline_mean_box_grounding_acc{limit}", trivial >= limit / 100)


def measure_captions(tally: Tally, model: Model, scene: SceneContext, sample: SceneSample) -> None:
    """Describe, for every captioned object, the detected box nearest to it; misses say nothing."""
    T_room_window = sample.T_world_camera[0]
    found = model.detect(scene)
    boxes = np.array([grounding.room_aabb(b, T_room_window) for b in found]).reshape(-1, 6)
    truths: dict[int, list[str]] = defaultdict(list)
    for caption in sample.captions:
        truths[caption.object_id].append(caption.text.lower())
    for object_id, texts in truths.items():
        said = ""
        if len(boxes):
            ious = np.asarray(aabb_iou(room_boxes(sample, [object_id]), boxes))[0]
            if ious.max() >= CAPTION_IOU:
                said = model.describe(scene, found[int(ious.argmax())]).text.lower()
        tally.captions.append(said)
        tally.caption_truths.append(texts)


def measure_room(
    tally: Tally,
    model: Model,
    sample: SceneSample,
    baselines: Baselines,
    text_only: TextOnly | None = None,
) -> Reconstruction:
    """Measure everything on one room and return what the model made of it."""
    reconstruction = model.reconstruct(sample.frames)
    measure_geometry(tally, reconstruction, sample, baselines)
    scene = reconstruction.scene
    measure_answers(tally, model, scene, sample.questions, baselines, text_only)
    measure_grounding(tally, model, scene, sample, baselines)
    measure_captions(tally, model, scene, sample)
    return reconstruction
