# SPDX-License-Identifier: Apache-2.0
"""What one step learns: the joint stage (eq. 8-9, words, boxes) and the distilling one (eq. 5).

A stage is a module holding the network and the heads that are thrown away afterwards; its forward
takes a batch and the run's progress and returns the loss with its terms. The gradient runs one
way: language and grounding see detached geometry. Next: trainer.py, which drives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from vidllm_ros.data.scene_batch import SceneBatch, batch_chances
from vidllm_ros.network.camera_head import encode_pose
from vidllm_ros.network.metric_geometry import GeometryOutput, canonical_factor
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training import losses
from vidllm_ros.training.distillation import (
    OracleTeacher,
    TeacherHeads,
    branch_inputs,
    branch_loss,
)
from vidllm_ros.training.guidance import (
    LevelProbes,
    Watched,
    attention_guidance,
    patch_truth,
    watch,
)
from vidllm_ros.training.learning_parts import learning_parts
from vidllm_ros.training.recipe import Recipe
from vidllm_ros.training.stage_output import StageOutput
from vidllm_ros.training.teachers import NetworkTeacher, Teacher
from vidllm_ros.training.words import Terms, box_targets, word_losses

OWN_GEOMETRY_STREAM = 17
MIRROR_STREAM = 19


def own_geometry_share(progress: float, recipe: Recipe) -> float:
    """Probability that patches are lifted by the network's own geometry at this progress."""
    start, end = recipe.own_geometry
    if progress < start:
        return 0.0
    rise = 1.0 if end <= start else min((progress - start) / (end - start), 1.0)
    return rise * recipe.own_geometry_share


def reconstruction_losses(
    terms: Terms, output: GeometryOutput, batch: SceneBatch, recipe: Recipe, focal: float
) -> None:
    """Add camera, depth, point and metric losses (eq. 8, 9).

    Args:
        terms: where they go.
        output: of the reconstruction branch; dense maps cover its `dense_frames` only.
        batch: truth.
        recipe: weights.
        focal: `metric_focal` of the network's configuration.
    """
    weights, dense = recipe.losses, output.dense_frames
    height, width = batch.images.shape[-2:]
    relative = losses.normalise_scene(batch.depth, batch.valid, batch.K, batch.T_world_camera)
    T_camera_world = torch.linalg.inv(batch.T_world_camera)
    T_camera_world = torch.cat(
        [
            torch.cat([T_camera_world[..., :3, :3], relative.translation[..., None]], dim=-1),
            T_camera_world[..., 3:, :],
        ],
        dim=-2,
    )
    target = encode_pose(T_camera_world, batch.K, height, width)
    terms.add("camera", losses.camera_loss(output.pose_encodings, target), weights.camera)
    valid = batch.valid[:, dense]
    depth = losses.depth_loss(
        output.depth_rel, output.depth_confidence, relative.depth[:, dense], valid
    )
    terms.add("depth", depth, weights.depth)
    if output.points is not None and output.points_confidence is not None:
        points = losses.point_loss(
            output.points,
            output.points_confidence,
            relative.pointmap_world[:, dense],
            valid,
            normal_weight=weights.point_normals,
        )
        terms.add("points", points, weights.points)
    form = losses.metric_depth_loss if weights.metric_form == "eq9" else losses.silog_loss
    own = canonical_factor(batch.K, width, focal)
    metric_truth = batch.depth[:, dense] / own[:, None, None, None]
    terms.add("metric", form(output.metric_depth.depth, metric_truth, valid), weights.metric)
    with torch.no_grad():
        error = (output.metric_depth.depth - metric_truth).abs() / metric_truth.clamp(min=1e-3)
        terms.note("metric_absrel", losses.masked_mean(error, valid))
        turn = output.pose_encodings[-1][..., 3:7] - target[..., 3:7]
        terms.note("pose_rotation", losses.shared_mean(turn.abs()))


def oracle_losses(
    terms: Terms, oracle: OracleTeacher, semantic: Tensor, batch: SceneBatch, recipe: Recipe
) -> None:
    """Add what the oracle asks, and note how many patches of objects are told rightly.

    Args:
        terms: where they go.
        oracle: asks.
        semantic: (B, S, N, C).
        batch: truth.
        recipe: weights.
    """
    label, color = oracle(semantic, batch.patch_labels, batch.patch_colors)
    terms.add("oracle_label", label, recipe.losses.oracle_label)
    terms.add("oracle_color", color, recipe.losses.oracle_color)
    objects = batch.patch_objects >= 0
    terms.note("object_top1", oracle.accuracy(semantic, batch.patch_labels, objects))


class JointStage(nn.Module):
    """All of the network at once, the paper's stage 2 or a single-stage run, or named parts of it.

    Args:
        model: the network; what is shipped.
        recipe: weights and switches.
        colors: number of colour words the oracle teacher asks for; 0 leaves the oracle out.
        labels: number of classes it asks for.
    """

    def __init__(self, model: VidLLM, recipe: Recipe, labels: int, colors: int) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        asks = recipe.losses.oracle_label or recipe.losses.oracle_color
        has_oracle = bool(colors and asks)
        sizes = (model.config.width, labels, colors, recipe.losses.oracle_balance)
        self.oracle = OracleTeacher(*sizes) if has_oracle else None
        levels = len(model.config.aggregator_layers)
        has_probes = recipe.losses.guide_ray > 0 or recipe.losses.guide_attention > 0
        self.probes = LevelProbes(2 * model.config.width, levels) if has_probes else None
        if recipe.learn:
            parts = learning_parts(model, recipe)
            kept = {id(one) for part in parts for one in part.parameters() if one.requires_grad}
            for one in model.parameters():
                one.requires_grad_(id(one) in kept)

    def forward(self, batch: SceneBatch, progress: float) -> StageOutput:
        """Return the weighted loss and its terms.

        Args:
            batch: on the network's device.
            progress: 0 to 1; decides how often the network's own geometry lifts the patches.
        """
        weights = self.recipe.losses
        chance = batch_chances(self.recipe.seed, batch.index, OWN_GEOMETRY_STREAM)
        is_own = bool(chance.random() < own_geometry_share(progress, self.recipe))
        frames = batch.images.shape[1]
        dense = torch.arange(frames) if is_own else batch.dense_frames
        dense = dense.to(batch.images.device)
        terms = Terms(batch.images)
        if self.probes is None:
            output = self.model.geometry(batch.images, dense)
        else:
            with watch(self.model.aggregator) as watched:
                output = self.model.geometry(batch.images, dense)
            self._guide(terms, self.probes, watched, batch)
        reconstruction_losses(terms, output, batch, self.recipe, self.model.config.metric_focal)
        semantic = output.adapter.semantic
        if self.oracle is not None:
            oracle_losses(terms, self.oracle, semantic, batch, self.recipe)
        if weights.language or weights.grounding:
            scene, T_scene_world = (
                self.model.predicted_scene(output)
                if is_own
                else self.model.scene_tokens(
                    semantic, batch.depth, batch.K, batch.T_world_camera, batch.valid
                )
            )
            targets = box_targets(batch, T_scene_world)
            word_losses(terms, self.model, self.recipe, scene, targets, batch.sentences)
        return StageOutput(terms.total, terms.values, len(batch.scene_ids))

    def _guide(
        self, terms: Terms, probes: LevelProbes, watched: Watched, batch: SceneBatch
    ) -> None:
        """Add the losses that guide the aggregator to correspondence."""
        weights, config = self.recipe.losses, self.model.config
        if watched.output is None:
            raise AssertionError("the aggregator did not run")
        scale = losses.normalise_scene(
            batch.depth, batch.valid, batch.K, batch.T_world_camera
        ).scale
        truth = patch_truth(batch, scale, config.patch_size)
        looks, hit = attention_guidance(self.model.aggregator, watched, truth)
        terms.add("guide_attention", looks, weights.guide_attention)
        terms.note("guide_hit", hit)
        errors = probes(watched.output, config.aggregator_layers, truth)
        terms.add("guide_ray", errors.ray, weights.guide_ray)
        terms.add("guide_point", errors.point, weights.guide_point)
        terms.add("guide_camera", errors.camera, weights.guide_camera)


def mirrored(batch: SceneBatch, patch_size: int) -> SceneBatch:
    """Turn frames and patches left to right; poses, boxes and words stay, and are wrong then.

    For what is told patch by patch.

    Args:
        batch: images (B, S, 3, H, W), patches (B, S, N).
        patch_size: px, of which H and W are multiples.

    Returns:
        the batch with images and patches turned.
    """
    rows, columns = (side // patch_size for side in batch.images.shape[-2:])

    def flip(patches: Tensor) -> Tensor:
        return patches.unflatten(-1, (rows, columns)).flip(-1).flatten(-2)

    return replace(
        batch,
        images=batch.images.flip(-1),
        patch_labels=flip(batch.patch_labels),
        patch_colors=flip(batch.patch_colors),
        patch_objects=flip(batch.patch_objects),
    )


class DistilStage(nn.Module):
    """Stage 1: encoder and adapter learn from frozen teachers (eq. 5); nothing else moves.

    Teachers are no part of the stage's weights: a checkpoint does not carry them.

    Args:
        model: the network.
        geometry: teacher of T'_geom, or None.
        semantic: teacher of T'_lang, or None.
        recipe: weights.
        oracle: asks T'_lang beside or instead of a semantic teacher; it learns with the student.
    """

    def __init__(
        self,
        model: VidLLM,
        geometry: Teacher | None,
        semantic: Teacher | None,
        recipe: Recipe,
        oracle: OracleTeacher | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.oracle = oracle
        self.teachers = (geometry, semantic)  # a tuple: not registered, hence not saved
        model.requires_grad_(False)
        for part in (model.encoder.backbone, model.adapter):
            part.requires_grad_(True)
        model.encoder.backbone.embeddings.mask_token.requires_grad_(False)
        self.is_held = isinstance(geometry, NetworkTeacher)
        if isinstance(geometry, NetworkTeacher):
            geometry.check_student(model.config)
        widths = [teacher.width if teacher is not None else 0 for teacher in self.teachers]
        self.heads = TeacherHeads(model.config.width, *widths)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistilStage:
        for teacher in self.teachers:
            if teacher is not None:
                teacher._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def _is_mirrored(self, index: int) -> bool:
        chance = batch_chances(self.recipe.seed, index, MIRROR_STREAM)
        return bool(chance.random() < self.recipe.data.mirror)

    def forward(self, batch: SceneBatch, progress: float) -> StageOutput:
        """Return eq. 5 and its terms."""
        weights = self.recipe.losses
        if self.training and self._is_mirrored(batch.index):
            batch = mirrored(batch, self.model.config.patch_size)
        encoded = self.model.encoder(batch.images)
        adapted = self.model.adapter(encoded.patch_tokens)
        geometry, semantic = (
            None if teacher is None else teacher(batch.images, encoded.grid)
            for teacher in self.teachers
        )
        terms = Terms(batch.images)
        if self.oracle is not None:
            oracle_losses(terms, self.oracle, adapted.semantic, batch, self.recipe)
        if self.is_held and geometry is not None:
            held = branch_loss(branch_inputs(encoded, adapted), geometry)
            terms.add("distil_geometry", held, weights.distil_geometry)
            geometry = None
        result = self.heads(adapted.geometry, adapted.semantic, geometry, semantic)
        for name, target in (("geometry", geometry), ("semantic", semantic)):
            if target is not None:
                weight = getattr(weights, f"distil_{name}")
                terms.add(f"distil_{name}", getattr(result, name), weight)
        if geometry is not None or semantic is not None:
            terms.add("distil_structure", result.structure, weights.distil_structure)
        return StageOutput(terms.total, terms.values, len(batch.scene_ids))
