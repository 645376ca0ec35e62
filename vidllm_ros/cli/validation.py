# SPDX-License-Identifier: Apache-2.0
"""A look at rooms a run does not learn from: a few numbers for its curve, a picture of them.

Training may not import evaluation, so the trainer is handed this object. It measures what can be
measured of the stage: metric geometry, answers and boxes of a whole network, the share of patches
an image-text teacher names rightly, eq. 5 for stage 1. Next: validation_picture.py draws,
training/trainer.py calls.
"""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidllm_ros.cli.validation_picture import ValidatedRoom, draw_rooms
from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.image import plan_resize

if TYPE_CHECKING:
    from torch import nn

    from vidllm_ros.data.samples import SceneSample
    from vidllm_ros.data.scene_batch import SceneBatch
    from vidllm_ros.network.vidllm import VidLLM
    from vidllm_ros.structures import GroundedBox, Reconstruction
    from vidllm_ros.training.recipe import Recipe
    from vidllm_ros.training.run_log import Validated

PICTURES = "validation"
BOX_IOU = 0.25
NEAR_M = 0.10


class RoomValidator:
    """Measures a stage on the recipe's validation rooms, rendered when first needed.

    Args:
        recipe: of the run; `validation` says which rooms.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def rooms(self) -> list[SceneSample]:
        """Return windows of the validation rooms, with words about what they show."""
        from vidllm_ros.data.synthrooms import annotate_frames, make_scene

        wanted, data = self.recipe.validation, self.recipe.data
        rooms = []
        for seed in range(wanted.first_seed, wanted.first_seed + wanted.rooms):
            room = make_scene(seed, height=data.height, width=data.width)
            step = max(1, len(room) // wanted.frames)
            rooms.append(annotate_frames(room, range(0, len(room), step)[: wanted.frames], seed))
        return rooms

    def __call__(self, stage: nn.Module, folder: Path, step: int) -> Validated:
        """Measure; write the picture into the run's folder.

        Args:
            stage: in evaluation mode.
            folder: of the run.
            step: how many it has made.
        """
        from vidllm_ros.training.losses import alone
        from vidllm_ros.training.run_log import Validated

        torch.manual_seed(0)
        if self.recipe.stage in ("image_text", "distil"):
            with torch.no_grad(), alone():
                return Validated(self.stage_terms(stage))
        model: Any = stage.model
        numbers: dict[str, list[float]] = defaultdict(list)
        shown = []
        for index, room in enumerate(self.rooms):
            found, reconstruction, boxes = self.measure(model, room)
            for name, value in found.items():
                numbers[name].append(value)
            if index < self.recipe.validation.pictures:
                shown.append(ValidatedRoom(room, reconstruction, boxes))
        picture = draw_rooms(folder / PICTURES / f"step{step:07d}.png", shown) if shown else None
        return Validated({name: float(np.mean(v)) for name, v in numbers.items()}, picture)

    def check(self) -> None:
        """Say, before a run rather than at its end, that its rooms could not be measured.

        Raises:
            ValueError: the network would read them at another size than they are drawn at.
        """
        from vidllm_ros.training.build import network_config

        if self.recipe.stage in ("image_text", "distil"):  # whose frames are not resized
            return
        config = network_config(self.recipe)
        size = (self.recipe.data.height, self.recipe.data.width)
        plan = plan_resize(*size, config.image_size, config.patch_size, config.resize_mode)
        if size != (plan.height, plan.width):
            raise ValueError(
                f"data.height, data.width: expected the size the network reads, {plan.height} x "
                f"{plan.width} with model.image_size {config.image_size} and resize_mode "
                f"{config.resize_mode!r}, got {size[0]} x {size[1]}; set one to the other"
            )

    def stage_terms(self, stage: nn.Module) -> dict[str, float]:
        """Return the stage's own terms over the validation rooms, without learning."""
        device = next(stage.parameters()).device
        rows: dict[str, list[float]] = defaultdict(list)
        for batch in self.batches():
            output = stage(batch.to(device), 1.0)
            for name, value in {**output.terms, "loss": output.loss}.items():
                rows[f"held_out_{name}"].append(float(value))
        return {name: float(np.mean(values)) for name, values in rows.items()}

    def batches(self) -> list[SceneBatch]:
        """Return the validation rooms as batches of a few, without noise."""
        from dataclasses import replace

        from vidllm_ros.data.scene_batch import batch_samples
        from vidllm_ros.training.build import loader_settings, patch_size_of

        settings = loader_settings(self.recipe, patch_size_of(self.recipe))
        settings = replace(settings, noise=0.0, dense_frames=0)
        size = max(1, self.recipe.data.frames_per_batch // self.recipe.validation.frames)
        batches = []
        for start in range(0, len(self.rooms), size):
            part = self.rooms[start : start + size]
            rngs = [np.random.default_rng((start, i)) for i in range(len(part))]
            batches.append(batch_samples(part, settings, start, rngs))
        return batches

    def measure(
        self, model: VidLLM, room: SceneSample
    ) -> tuple[dict[str, float], Reconstruction, tuple[GroundedBox, ...]]:
        """Return numbers, reconstruction and detected boxes of one room.

        Numbers are in the benchmark's sense (`vidllm evaluate synthrooms`) on fewer frames.
        """
        with model.autocast():
            reconstruction = model.reconstruct(room.frames)
        numbers = measure_geometry(reconstruction, room)
        boxes: tuple[GroundedBox, ...] = ()
        losses = self.recipe.losses
        if losses.language and model.language.has_tokenizer:
            numbers |= self.measure_answers(model, reconstruction, room)
        if losses.grounding and room.objects:
            most = 2 * len(room.objects)
            boxes = model.detect(reconstruction.scene, threshold=0.0, max_boxes=most)
            numbers["box_recall25"] = box_recall(boxes, room)
        return numbers, reconstruction, boxes

    def measure_answers(
        self, model: VidLLM, reconstruction: Reconstruction, room: SceneSample
    ) -> dict[str, float]:
        """Return the exact match of some questions, evenly taken."""
        from vidllm_ros.evaluation.text_metrics import exact_match

        step = max(1, len(room.questions) // max(1, self.recipe.validation.questions))
        asked = room.questions[::step][: self.recipe.validation.questions]
        hits = [
            exact_match(model.answer(reconstruction.scene, q.question).text, q.answers)
            for q in asked
        ]
        return {"qa_em": float(np.mean(hits))} if hits else {}


def measure_geometry(reconstruction: Reconstruction, room: SceneSample) -> dict[str, float]:
    """Return depth, scale and pose errors of one room, unaligned."""
    from vidllm_ros.evaluation import geometry_metrics as geometry

    valid = np.isfinite(room.depth) & (room.depth > 0)
    depth = geometry.depth_errors(reconstruction.depth, room.depth, valid)
    aligned = geometry.depth_errors(reconstruction.depth, room.depth, valid, align=True)
    truth = np.linalg.inv(room.T_world_camera[0]) @ room.T_world_camera
    rotation, direction = geometry.relative_pose_errors(reconstruction.T_world_camera, truth)
    ours = points_of(
        reconstruction.depth,
        reconstruction.valid,
        reconstruction.K,
        reconstruction.T_world_camera,
    )
    score = geometry.f_scores(ours, points_of(room.depth, valid, room.K, truth), (NEAR_M,))
    return {
        "fscore_10cm": score[NEAR_M].f,
        "depth_absrel": depth.absrel,
        "depth_delta1": depth.delta1,
        "depth_absrel_median_scaled": aligned.absrel,
        "scale_error": geometry.scale_error(reconstruction.depth, room.depth, valid),
        "pose_rotation_deg": float(np.median(rotation)),
        "pose_maa30": geometry.mean_average_accuracy(rotation, direction),
    }


def points_of(
    depth: NDArray[np.float32],
    valid: NDArray[np.bool_],
    K: NDArray[np.float64],
    T_world_camera: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the points of all frames in the window's world, (N, 3), m."""
    points = np.asarray(unproject(np.where(valid, depth, 1.0), K), np.float64)
    poses = T_world_camera[:, None, None]  # (S, 1, 1, 4, 4)
    moved = (poses[..., :3, :3] @ points[..., None])[..., 0] + poses[..., :3, 3]
    return np.asarray(moved[valid], np.float64)


def box_recall(boxes: tuple[GroundedBox, ...], room: SceneSample) -> float:
    """Return the share of objects some box of their label overlaps by a quarter.

    Boxes are compared along the room's axes; there are at most twice as many as objects.
    """
    from vidllm_ros.evaluation.grounding_metrics import room_aabb
    from vidllm_ros.geometry.boxes import aabb_iou, aabb_of

    hits = 0
    for item in room.objects:
        truth = np.asarray(aabb_of(item.box)).reshape(1, 6)
        ours = [room_aabb(b, room.T_world_camera[0]) for b in boxes if b.label == item.label]
        if ours:
            hits += bool(np.max(aabb_iou(np.stack(ours), truth)) >= BOX_IOU)
    return hits / len(room.objects)


def build_validator(recipe: Recipe) -> RoomValidator | None:
    """Return the recipe's validator; None where it has no validation rooms, or another process."""
    is_first = int(os.environ.get("RANK", "0")) == 0
    return RoomValidator(recipe) if recipe.validation.rooms and is_first else None
