# SPDX-License-Identifier: Apache-2.0
"""A backend that knows the truth of a rendered room and spoils it by stated amounts.

What streaming/ makes of windows can so be measured apart from how good a network is: the errors
are drawn anew for every window, as a network's would be. Next: bench_walk.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.geometry.transforms import invert_transform, make_transform
from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction, SceneContext

LEAST_PIXELS = 30


@dataclass(frozen=True)
class Spoiling:
    """How wrong windows are; spreads (one sigma) where nothing else is said.

    Attributes:
        scale: of a window's scale, a share.
        turn_rad, shift_m: of each camera.
        depth: of each pixel, a share.
        center_m: of a box's centre, along each axis.
        size: of a box's edges, a share.
        missed: share of the boxes that a window does not find.
        misnamed: share of the boxes with another object's label.
    """

    scale: float = 0.03
    turn_rad: float = 0.01
    shift_m: float = 0.02
    depth: float = 0.03
    center_m: float = 0.1
    size: float = 0.15
    missed: float = 0.2
    misnamed: float = 0.05


class SpoiledTruth:
    """Reconstructs frames of one rendered walk, named by their stamps."""

    def __init__(
        self, sample: SceneSample, spoiling: Spoiling | None = None, seed: int = 0
    ) -> None:
        self.sample = sample
        self.spoiling = spoiling or Spoiling()
        self._rng = np.random.default_rng(seed)
        self._place_of = {stamp: i for i, stamp in enumerate(sample.frames.stamps_ns)}

    def reconstruct(self, frames: Frames) -> Reconstruction:
        """Return the true window with this draw's errors.

        Raises:
            KeyError: a stamp is not of this walk.
        """
        rng, spoiling = self._rng, self.spoiling
        places = [self._place_of[stamp] for stamp in frames.stamps_ns]
        count = len(places)
        scale = float(np.exp(rng.normal(0, spoiling.scale)))
        truth = self.sample.T_world_camera[places]
        turn = Rotation.from_rotvec(rng.normal(0, spoiling.turn_rad, (count, 3))).as_matrix()
        wrong = truth @ make_transform(turn, rng.normal(0, spoiling.shift_m, (count, 3)))
        poses = invert_transform(wrong[0]) @ wrong
        poses[:, :3, 3] *= scale
        depth = self.sample.depth[places]
        valid = np.isfinite(depth)
        noise = np.exp(rng.normal(0, spoiling.depth, depth.shape))
        depth = np.where(valid, depth * scale * noise, 0).astype(np.float32)
        return Reconstruction(
            images=self.sample.frames.images[places],
            stamps_ns=frames.stamps_ns,
            depth=depth,
            valid=valid,
            confidence=np.ones(depth.shape, np.float32),
            K=self.sample.K[places],
            T_world_camera=poses,
            scale=scale,
            scale_spread=spoiling.scale,
            scene=SceneContext(
                torch.zeros(1, 1), torch.zeros(1, 3), frames.stamps_ns, poses
            ),
            frame_id=frames.frame_id,
        )  # fmt: skip

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]:
        """Return the boxes of the objects these frames show, spoiled, in the window's world."""
        rng, spoiling = self._rng, self.spoiling
        places = [self._place_of[stamp] for stamp in scene.stamps_ns]
        ids, pixels = np.unique(self.sample.instance_ids[places], return_counts=True)
        shown = set(ids[pixels >= LEAST_PIXELS].tolist())
        labels = [entry.label for entry in self.sample.objects]
        T_window_room = invert_transform(self.sample.T_world_camera[places[0]])
        found = []
        for entry in self.sample.objects:
            if entry.object_id not in shown or rng.uniform() < spoiling.missed:
                continue
            label = entry.label
            if rng.uniform() < spoiling.misnamed:
                label = str(rng.choice(labels))
            wrong = replace(
                entry.box,
                label=label,
                score=float(rng.uniform(0.4, 1.0)),
                center=np.asarray(entry.box.center, float) + rng.normal(0, spoiling.center_m, 3),
                size=np.asarray(entry.box.size, float) * np.exp(rng.normal(0, spoiling.size, 3)),
            )
            found.append(transform_box(T_window_room, wrong))
        return tuple(found)

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        """Return the boxes whose label is in the phrase."""
        return tuple(box for box in self.detect(scene) if box.label in phrase)

    def answer(self, scene: SceneContext, question: str) -> Answer:
        """Name what the question names; there are no other words here."""
        boxes = self.ground(scene, question)
        return Answer(", ".join(box.label for box in boxes), 1.0, boxes, scene.stamps_ns)

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer:
        """Return the label."""
        return Answer(box.label, 1.0, (box,), scene.stamps_ns)
