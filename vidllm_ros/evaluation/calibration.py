# SPDX-License-Identifier: Apache-2.0
"""Choose the score from which a box is reported, on rooms the network was not trained on.

A score is a product of two sigmoids and means nothing by itself: the threshold that is stored with
a checkpoint is the one with the best F1 of detected objects. Next: cli/calibrate.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.evaluation.benchmark import room_boxes
from vidllm_ros.evaluation.grounding_metrics import room_aabb
from vidllm_ros.geometry.boxes import aabb_iou
from vidllm_ros.structures import Frames, GroundedBox, Reconstruction, SceneContext

HIT_IOU = 0.25
THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(1, 46))


class Detector(Protocol):
    """What is calibrated; `network.vidllm.VidLLM` is one."""

    def reconstruct(self, frames: Frames) -> Reconstruction: ...

    def detect(
        self, scene: SceneContext, *, threshold: float | None
    ) -> tuple[GroundedBox, ...]: ...


@dataclass(frozen=True)
class Calibration:
    """The best threshold and what it gives.

    Attributes:
        threshold: score from which a box is reported.
        f1: of detected objects at IoU 0.25 with the right label, over all rooms.
        curve: (threshold, F1) of every threshold tried.
    """

    threshold: float
    f1: float
    curve: tuple[tuple[float, float], ...]


def count_hits(
    found: Sequence[GroundedBox],
    boxes: NDArray[np.float64],
    sample: SceneSample,
    truths: NDArray[np.float64],
) -> int:
    """Count boxes that hit an object of their label; best scores choose first, once an object.

    Args:
        found: best first.
        boxes: the same along the room's axes, (P, 6).
        sample: names the objects.
        truths: its objects along the room's axes, (G, 6).
    """
    if not len(found) or not len(truths):
        return 0
    free = np.ones(len(truths), bool)
    ious = np.asarray(aabb_iou(boxes, truths))
    hits = 0
    for box, row in zip(found, ious, strict=True):
        named = np.array([target.label == box.label for target in sample.objects])
        row = np.where(free & named, row, 0.0)
        if row.max() >= HIT_IOU:
            free[int(row.argmax())] = False
            hits += 1
    return hits


def calibrate(model: Detector, samples: Iterable[SceneSample]) -> Calibration:
    """Return the threshold with the best F1 of detected objects.

    Raises:
        ValueError: there are no rooms.
    """
    hits = np.zeros(len(THRESHOLDS))
    reported = np.zeros(len(THRESHOLDS))
    present = 0
    for sample in samples:
        scene = model.reconstruct(sample.frames).scene
        every = model.detect(scene, threshold=THRESHOLDS[0])
        T_room_window = sample.T_world_camera[0]
        boxes = np.array([room_aabb(box, T_room_window) for box in every]).reshape(-1, 6)
        truths = room_boxes(sample, [target.object_id for target in sample.objects])
        present += len(truths)
        for index, threshold in enumerate(THRESHOLDS):
            kept = sum(box.score >= threshold for box in every)  # best first
            hits[index] += count_hits(every[:kept], boxes[:kept], sample, truths)
            reported[index] += kept
    if not present:
        raise ValueError("samples: expected rooms with objects, got none; give another range")
    f1 = 2 * hits / np.maximum(reported + present, 1)
    best = int(f1.argmax())
    curve = tuple((t, round(float(v), 4)) for t, v in zip(THRESHOLDS, f1, strict=True))
    return Calibration(THRESHOLDS[best], float(f1[best]), curve)
