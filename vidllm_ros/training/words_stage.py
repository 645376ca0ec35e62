# SPDX-License-Identifier: Apache-2.0
"""Teach words and boxes on the geometry the network really has: everything before them stays.

The joint stage sees a scene once and pays for its geometry each time. Here the frozen network
turns windows into pooled 3D patches without a gradient, a buffer keeps the newest, and language
model, projector and box decoder learn from several of them a step, each time with other sentences.
What they read is what they will read on a robot: poses and depth with their errors; for a share
of a run it may be the truth with such errors, which is cheaper (true_looks.py).
Source: ours (docs/deviations.md, D32, D77). Next: trainer.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidllm_ros.data.scene_batch import SceneBatch, Sentence, batch_chances
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.metric_geometry import MetricGeometry
from vidllm_ros.network.patches3d import (
    ScenePatches,
    lift_patches,
    patch_center_depth,
    pool_voxels,
)
from vidllm_ros.network.scene_places import channels
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training.grounding_losses import BoxTargets
from vidllm_ros.training.learning_parts import learning_parts
from vidllm_ros.training.recipe import Recipe
from vidllm_ros.training.stage_output import StageOutput
from vidllm_ros.training.true_looks import spoiled, true_geometry
from vidllm_ros.training.varied_scene import varied
from vidllm_ros.training.words import Terms, box_targets, word_losses

FRAME_NS = 100_000_000  # rendered rooms: ten frames a second
EXTRA_STATE = "_extra_state"
TRUE_LOOKS_STREAM, CHANCES_STREAM = 37, 41


@dataclass(frozen=True)
class PooledScene:
    """One window as the language branch reads it.

    Attributes:
        tokens: (M, C), in the precision of the run; with how they were seen where the network
            has `scene_places`, (M, C + SIGHT).
        positions: (M, 3), m.
        evidence: share of each token's patches that show each object, (M, O).
        targets: the O objects.
        sentences: everything there is to say.
        fine: tokens (M', C), positions (M', 3) and evidence (M', O) of the box decoder, where it
            has its own.
    """

    tokens: Tensor
    positions: Tensor
    evidence: Tensor
    targets: BoxTargets
    sentences: tuple[Sentence, ...]
    fine: tuple[Tensor, Tensor, Tensor] | None = None

    def to(self, device: torch.device) -> PooledScene:
        return PooledScene(
            self.tokens.to(device),
            self.positions.to(device),
            self.evidence.to(device),
            self.targets.to(device),
            self.sentences,
            None
            if self.fine is None
            else (self.fine[0].to(device), self.fine[1].to(device), self.fine[2].to(device)),
        )


def with_shares(scene: PooledScene) -> PooledScene:
    """Return a scene remembered before fine tokens had evidence, which only votes read."""
    fine: tuple[Tensor, ...] = scene.fine or ()
    if len(fine) != 2:
        return scene
    nobody = torch.zeros(len(fine[0]), len(scene.targets), device=fine[0].device)
    return replace(scene, fine=(fine[0], fine[1], nobody))


class WordsStage(nn.Module):
    """Freeze the geometry, replay pooled scenes, teach the language branch.

    Args:
        model: the network.
        recipe: weights; `replay_scenes` and `replay_buffer` size a step and the memory.
    """

    def __init__(self, model: VidLLM, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.buffer: list[PooledScene] = []
        boxes = recipe.losses.boxes
        is_taught = recipe.losses.grounding and boxes.vote and boxes.thing
        if model.config.grounding_votes and not is_taught:
            raise ValueError(
                "losses.grounding, boxes.vote, boxes.thing: expected all above 0 with "
                f"model.grounding_votes, got {recipe.losses.grounding}, {boxes.vote}, "
                f"{boxes.thing}; queries would follow votes that nobody taught"
            )
        model.requires_grad_(False)
        for part in learning_parts(model, recipe):
            part.requires_grad_(True)

    def get_extra_state(self) -> list[PooledScene]:
        """Return the memory: a resumed run remembers what the stopped one did."""
        return self.buffer

    def set_extra_state(self, state: list[PooledScene]) -> None:
        # Scenes remembered by a network that pooled otherwise are not what this one reads.
        config = self.model.config
        parts = 3 if config.grounding_tokens else 0
        kept = state if config.grounding_votes else [with_shares(scene) for scene in state]
        width = channels(config.width, config.scene_places)
        self.buffer = [
            scene
            for scene in kept
            if len(scene.fine or ()) == parts and scene.tokens.shape[-1] == width
        ]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights and memory; checkpoints from before the memory was kept have none."""
        return super().load_state_dict({EXTRA_STATE: [], **state_dict}, strict, assign)

    def forward(self, batch: SceneBatch, progress: float) -> StageOutput:
        """Look at new windows, then learn from them and from some seen before."""
        is_true = self.looks_truly(batch.index, progress)
        fresh = self.look_truly(batch) if is_true else self.look(batch)
        chances = self._chances(batch)
        old = min(self.recipe.replay_scenes - len(fresh), len(self.buffer))
        order = torch.randperm(len(self.buffer), generator=chances)[: max(old, 0)].tolist()
        scenes = [*fresh, *(self.buffer[i].to(batch.images.device) for i in order)]
        self.buffer = [*self.buffer, *fresh][-self.recipe.replay_buffer :]
        if self.training:
            how = (self.recipe.replay_variety, self.model.config.scene_places, chances)
            scenes = [varied(scene, *how) for scene in scenes]
        terms = Terms(batch.images)
        if self.recipe.true_looks:
            terms.note("true_look", torch.full((), float(is_true), device=batch.images.device))
        word_losses(
            terms,
            self.model,
            self.recipe,
            join_scenes(scenes),
            [scene.targets for scene in scenes],
            [shuffled(scene.sentences, chances) for scene in scenes],
            pad([scene.evidence for scene in scenes]),
            pad([scene.evidence if scene.fine is None else scene.fine[2] for scene in scenes]),
        )
        return StageOutput(terms.total, terms.values, len(scenes))

    def _chances(self, batch: SceneBatch) -> torch.Generator:
        """Return what decides on a batch: other chances in every process, the same resumed."""
        names = zlib.crc32(" ".join(batch.scene_ids).encode())
        stream = np.random.SeedSequence((self.recipe.seed, batch.index, CHANCES_STREAM, names))
        return torch.Generator().manual_seed(int(stream.generate_state(1)[0]))

    def looks_truly(self, index: int, progress: float) -> bool:
        """Say whether a batch's windows are placed by the truth; alike in every process."""
        if not self.training or progress >= self.recipe.true_looks_until:
            return False
        chance = batch_chances(self.recipe.seed, index, TRUE_LOOKS_STREAM)
        return bool(chance.random() < self.recipe.true_looks)

    def _refined(self, metric: MetricGeometry, batch: SceneBatch) -> MetricGeometry:
        """Take the lens and correct the poses as the network does when it is used."""
        images = (batch.images.movedim(2, -1) * 255.0).round().to(torch.uint8).cpu().numpy()
        K = batch.K.double().cpu().numpy()
        seconds = range(0, len(images[0]) * FRAME_NS, FRAME_NS)
        return self.model.corrected(metric, images, K, [seconds] * len(images))

    @torch.no_grad()
    def look(self, batch: SceneBatch) -> list[PooledScene]:
        """Turn windows into pooled scenes by the network's own geometry."""
        output = self.model.geometry(batch.images)
        metric = self._refined(self.model.metric_geometry(output), batch)
        return self._pooled(batch, output.adapter.semantic, metric)

    @torch.no_grad()
    def look_truly(self, batch: SceneBatch) -> list[PooledScene]:
        """Turn windows into pooled scenes by the truth, spoiled; each by chances of its own."""
        encoded = self.model.encoder(batch.images)
        semantic = self.model.adapter(encoded.patch_tokens).semantic
        stream = (self.recipe.seed, batch.index, TRUE_LOOKS_STREAM)
        rngs = [
            np.random.default_rng((*stream, zlib.crc32(name.encode()))) for name in batch.scene_ids
        ]
        patch_size = int(self.model.config.patch_size)
        return self._pooled(batch, semantic, spoiled(true_geometry(batch), patch_size, rngs))

    def _pooled(
        self, batch: SceneBatch, semantic: Tensor, metric: MetricGeometry
    ) -> list[PooledScene]:
        """Pool what windows mean, (B, S, N, C), at the places a geometry gives."""
        scene, T_scene_world = self.model.scene_tokens(
            semantic,
            metric.depth,
            metric.K,
            metric.T_world_camera,
            metric.valid,
        )
        targets = box_targets(batch, T_scene_world)
        shown = shows(batch.patch_objects, targets)
        size = self.model.config.patch_size
        depth, good = patch_center_depth(metric.depth.float(), metric.valid, size)
        T_scene_camera = exact_product(T_scene_world[:, None], metric.T_world_camera)
        points = lift_patches(depth, metric.K.float(), T_scene_camera, size)
        flat = ScenePatches(
            shown.flatten(1, 2), points.flatten(1, 2), good.flatten(2).flatten(1, 2)
        )
        config = self.model.config
        evidence = pool_voxels(flat, config.voxel_size_m, config.max_scene_tokens)
        check_pooled_alike(evidence, scene)
        fine: list[tuple[Tensor, Tensor, Tensor] | None] = [None] * len(targets)
        if scene.fine is not None:
            shares = pool_voxels(flat, config.voxel_size_m, config.grounding_tokens)
            check_pooled_alike(shares, scene.fine)
            fine = [
                (*scene.fine.of_scene(i), shares.of_scene(i)[0][:, : len(target)])
                for i, target in enumerate(targets)
            ]
        return [
            PooledScene(
                *scene.of_scene(i),
                evidence.of_scene(i)[0][:, : len(target)],
                target,
                batch.sentences[i],
                fine[i],
            )
            for i, target in enumerate(targets)
        ]


def check_pooled_alike(evidence: ScenePatches, scene: ScenePatches) -> None:
    """Evidence is pooled by itself: row by row it must be the tokens' own."""
    is_alike = evidence.mask.shape == scene.mask.shape and torch.equal(evidence.mask, scene.mask)
    if not is_alike or not torch.equal(evidence.positions, scene.positions):
        raise AssertionError("evidence and tokens were pooled differently")


def shows(patch_objects: Tensor, targets: Sequence[BoxTargets]) -> Tensor:
    """Say which target each patch shows, (B, S, N, O), 0 or 1.

    Args:
        patch_objects: object id of each patch, (B, S, N), -100 for none.
        targets: objects of every scene.
    """
    most = max(1, *(len(target) for target in targets))
    shown = torch.zeros(*patch_objects.shape, most, device=patch_objects.device)
    for i, target in enumerate(targets):
        for column, object_id in enumerate(target.object_ids):
            shown[i, ..., column] = (patch_objects[i] == object_id).float()
    return shown


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Stack (M, O) tables of several sizes, zeros behind: (B, M, O)."""
    height = max(len(row) for row in rows)
    width = max(1, *(row.shape[1] for row in rows))
    out = rows[0].new_zeros(len(rows), height, width)
    for i, row in enumerate(rows):
        out[i, : row.shape[0], : row.shape[1]] = row
    return out


def join_scenes(scenes: Sequence[PooledScene]) -> ScenePatches:
    """Pad scenes to one batch."""
    joined = pad_patches([(scene.tokens, scene.positions) for scene in scenes])
    fine = [scene.fine[:2] for scene in scenes if scene.fine is not None]
    if not fine:
        return joined
    if len(fine) < len(scenes):
        raise ValueError(f"scenes: expected fine tokens in all or none, got {len(fine)} of them")
    return replace(joined, fine=pad_patches(fine))


def pad_patches(scenes: Sequence[tuple[Tensor, Tensor]]) -> ScenePatches:
    """Pad tokens (M, C) and positions (M, 3) of each scene to one batch."""
    counts = torch.tensor([len(tokens) for tokens, _ in scenes])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    tokens, positions = (pad(part) for part in zip(*scenes, strict=True))
    return ScenePatches(tokens.float(), positions, mask.to(tokens.device))


def shuffled(sentences: Sequence[Sentence], chances: torch.Generator) -> list[Sentence]:
    """Return the sentences in a new order: the packer takes those that fit."""
    return [sentences[i] for i in torch.randperm(len(sentences), generator=chances).tolist()]
