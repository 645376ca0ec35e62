# SPDX-License-Identifier: Apache-2.0
"""Vid-LLM as a predictor: what the node's network answers to each benchmark.

Boxes leave the window's world (the first camera's optical frame) by the true pose of the first
frame, where the benchmark gives it, and become axis-aligned around their corners. Where it gives
proposals, they come in the other way and the network chooses among them. Next:
benchmark_synthrooms.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.evaluation.grounding_metrics import room_aabb
from vidllm_ros.evaluation.predictor import Float64, SceneView, ScoredAabb
from vidllm_ros.geometry.boxes import aabb_iou
from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import invert_transform, quat_xyzw_from_matrix
from vidllm_ros.structures import (
    Answer,
    FloatArray,
    Frames,
    GroundedBox,
    Reconstruction,
    SceneContext,
)

CONFIDENCE_QUANTILE = 0.1  # the least sure tenth of the pixels is no part of the cloud
MOST_BOXES = 8
PROPOSAL_SCORE = 0.5  # a given box is meant by a phrase from here on


class Model(Protocol):
    """The network's methods that are measured; `network.vidllm.VidLLM` has them."""

    def reconstruct(self, frames: Frames) -> Reconstruction: ...

    def answer(self, scene: SceneContext, question: str) -> Answer: ...

    def ground(
        self, scene: SceneContext, phrase: str, threshold: float | None, max_boxes: int
    ) -> tuple[GroundedBox, ...]: ...

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]: ...

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer: ...


@dataclass
class SeenScene:
    """A scene after its reconstruction, and what of it is computed once."""

    view: SceneView
    reconstruction: Reconstruction
    detected: tuple[GroundedBox, ...] | None = None

    @property
    def T_benchmark_window(self) -> Float64:
        """Takes the window's world to the benchmark's.

        Raises:
            ValueError: the benchmark gives no pose.
        """
        if self.view.T_benchmark_first is None:
            raise ValueError(
                f"{self.view.scene_id}: expected the true pose of the first frame, got none; "
                "boxes cannot be placed in this benchmark's world"
            )
        return self.view.T_benchmark_first


class VidLLMPredictor:
    """Put a network of this project through benchmarks.

    Args:
        model: the network, on its device.
        name: in reports.

    Attributes:
        proposal_rule: which of given boxes a phrase means, in words, for reports.
    """

    proposal_rule = f"those that fit the phrase by {PROPOSAL_SCORE} or more, at most {MOST_BOXES}"

    def __init__(self, model: Model, name: str = "vidllm") -> None:
        self.model, self.name = model, name

    def see(self, view: SceneView) -> SeenScene:
        return SeenScene(view, self.model.reconstruct(view.frames))

    def depth(self, seen: SeenScene) -> NDArray[np.float32]:
        return seen.reconstruction.depth

    def poses(self, seen: SeenScene) -> Float64:
        return seen.reconstruction.T_world_camera

    def cloud(self, seen: SeenScene) -> Float64:
        return reconstruction_cloud(seen.reconstruction)

    def answer(self, seen: SeenScene, question: str, situation: str = "") -> str:
        words = f"{situation} {question}".strip()
        return self.model.answer(seen.reconstruction.scene, words).text

    def ground(self, seen: SeenScene, phrase: str) -> list[ScoredAabb]:
        if is_blank(seen):
            return []
        if seen.view.proposals:
            return self._meant(seen, phrase)[:MOST_BOXES]
        found = self.model.ground(
            seen.reconstruction.scene, phrase, threshold=None, max_boxes=MOST_BOXES
        )
        return [self._placed(seen, box) for box in found]

    def ground_one(self, seen: SeenScene, phrase: str) -> ScoredAabb | None:
        if is_blank(seen):
            return None
        if seen.view.proposals:
            first = self._rated(seen, phrase)[0]
            return first if first.score > 0 else None
        scene = seen.reconstruction.scene
        best = self.model.ground(scene, phrase, threshold=0.0, max_boxes=1)
        return self._placed(seen, best[0]) if best else None

    def choose(self, seen: SeenScene, phrase: str) -> int | None:
        if not seen.view.proposals or is_blank(seen):
            return None  # a miss: nothing speaks for any of the boxes
        fits = self._fits(seen, phrase)
        best = int(np.argmax(fits))
        return seen.view.proposals[best].object_id if fits[best] > 0 else None

    def caption(self, seen: SeenScene, aabb: Float64) -> str:
        """Describe a box: of the detected ones the one that it is, else the box itself."""
        for box in self._detected(seen):
            if aabb_iou(self._placed(seen, box).aabb[None], aabb[None])[0, 0] > 1 - 1e-6:
                return self.model.describe(seen.reconstruction.scene, box).text
        box = box_in_window(np.asarray(aabb, float), invert_transform(seen.T_benchmark_window))
        return self.model.describe(seen.reconstruction.scene, box).text

    def detect(self, seen: SeenScene) -> list[ScoredAabb]:
        return [self._placed(seen, box) for box in self._detected(seen)]

    def _meant(self, seen: SeenScene, phrase: str) -> list[ScoredAabb]:
        """Return the proposals that a phrase means, none, one or several, best first."""
        return [box for box in self._rated(seen, phrase) if box.score >= PROPOSAL_SCORE]

    def _given(self, seen: SeenScene) -> tuple[GroundedBox, ...]:
        """Return the proposals in the window's world."""
        T_window_benchmark = invert_transform(seen.T_benchmark_window)
        return tuple(
            box_in_window(p.aabb, T_window_benchmark, p.label) for p in seen.view.proposals
        )

    def _fits(self, seen: SeenScene, phrase: str) -> NDArray[np.float32]:
        """Say how well a phrase fits each proposal, (P,), 0 to 1; 0 is not at all."""
        model: Any = self.model
        scene = seen.reconstruction.scene
        return np.asarray(model.score_boxes(scene, self._given(seen), phrase), np.float32)

    def _rated(self, seen: SeenScene, phrase: str) -> list[ScoredAabb]:
        """Return the proposals by how well a phrase fits, best first."""
        fits = self._fits(seen, phrase)
        order = np.argsort(-fits, kind="stable")
        return [ScoredAabb(seen.view.proposals[i].aabb, float(fits[i])) for i in order]

    def _detected(self, seen: SeenScene) -> Sequence[GroundedBox]:
        if seen.detected is None:
            seen.detected = self.model.detect(seen.reconstruction.scene)
        return seen.detected

    def _placed(self, seen: SeenScene, box: GroundedBox) -> ScoredAabb:
        return ScoredAabb(room_aabb(box, seen.T_benchmark_window), box.score)


def is_blank(seen: SeenScene) -> bool:
    """Whether no patch of the scene has a place in space: then every box fits equally badly."""
    return len(seen.reconstruction.scene.tokens) == 0


def box_in_window(aabb: Float64, T_window_benchmark: Float64, label: str = "") -> GroundedBox:
    """Bring an axis-aligned box of the benchmark into the window's world, where it is oriented."""
    low, high = aabb[:3], aabb[3:]
    center = T_window_benchmark[:3, :3] @ ((low + high) / 2) + T_window_benchmark[:3, 3]
    return GroundedBox(
        label=label,
        score=1.0,
        center=center,
        size=high - low,
        quat_xyzw=quat_xyzw_from_matrix(T_window_benchmark[:3, :3]),
    )


def reconstruction_cloud(reconstruction: Reconstruction) -> Float64:
    """Points of the surer nine tenths of all pixels, (N, 3), m, in the window's world."""
    floor = np.quantile(reconstruction.confidence, CONFIDENCE_QUANTILE)
    sure = reconstruction.valid & (reconstruction.confidence >= floor)
    return window_cloud(
        reconstruction.depth, sure, reconstruction.K, reconstruction.T_world_camera
    )


def window_cloud(
    depth: FloatArray, mask: NDArray[np.bool_], K: FloatArray, T_world_camera: FloatArray
) -> Float64:
    """Points of all frames in the window's world, (N, 3), m."""
    clean = np.where(mask, depth, 1.0).astype(np.float64)
    points = np.asarray(unproject(clean, K), np.float64)
    poses = np.asarray(T_world_camera, np.float64)[:, None, None]  # (S, 1, 1, 4, 4)
    moved = (poses[..., :3, :3] @ points[..., None])[..., 0] + poses[..., :3, 3]
    return np.asarray(moved[mask], np.float64)
