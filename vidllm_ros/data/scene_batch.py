# SPDX-License-Identifier: Apache-2.0
"""A training batch: scenes of equal length in their windows' worlds, and what is said of them.

Arrays are stacked, boxes and sentences stay lists; words stay words until the trainer packs them.
The window's world is the first chosen camera's optical frame. Next: loader.py, which draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.geometry.transforms import matrix_from_quat_xyzw
from vidllm_ros.prompts import answer_text, caption_prompt, grounding_prompt, question_prompt

IGNORED = -100
DENSE_STREAM = 23


@dataclass(frozen=True)
class Sentence:
    """One segment to pack after a scene.

    Attributes:
        kind: "answer", "caption" or "phrase".
        prompt: text the network is given; a phrase's ends in <loc>, a caption's holds <box>.
        answer: text to learn; empty for a phrase.
        object_ids: objects the segment is about.
        family: question family, or the reference's kind.
    """

    kind: str
    prompt: str
    answer: str
    object_ids: tuple[int, ...]
    family: str


@dataclass(frozen=True)
class Boxes:
    """Visible objects of a scene in the window's world.

    Attributes:
        center, size: (G, 3), m.
        rotation: box axes in the window's world, (G, 3, 3); the third column is up.
        object_ids, labels: (G,).
    """

    center: Tensor
    size: Tensor
    rotation: Tensor
    object_ids: tuple[int, ...]
    labels: Tensor


@dataclass(frozen=True)
class SceneBatch:
    """B scenes of S frames each; the window's world is the first chosen camera's optical frame.

    Attributes:
        images: (B, S, 3, H, W), [0, 1].
        depth: (B, S, H, W), m, 0 where not valid.
        valid: (B, S, H, W).
        K: (B, S, 3, 3), px.
        T_world_camera: (B, S, 4, 4), m; the first is the identity.
        patch_labels, patch_colors: majority of each patch, (B, S, N), -100 where unknown.
        patch_objects: id of the object most of a patch shows, (B, S, N), -100 for none.
        dense_frames: frames the dense heads shall see, (F,), ascending.
        boxes, sentences, scene_ids: one a scene.
        index: number of the batch.
    """

    images: Tensor
    depth: Tensor
    valid: Tensor
    K: Tensor
    T_world_camera: Tensor
    patch_labels: Tensor
    patch_colors: Tensor
    patch_objects: Tensor
    dense_frames: Tensor
    boxes: tuple[Boxes, ...]
    sentences: tuple[tuple[Sentence, ...], ...]
    scene_ids: tuple[str, ...]
    index: int

    def to(self, device: torch.device) -> SceneBatch:
        moved = {
            item.name: getattr(self, item.name).to(device, non_blocking=True)
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> SceneBatch:
        """Return the batch in page-locked memory, from which a GPU copies without waiting."""
        pinned = {
            item.name: getattr(self, item.name).pin_memory()
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, **pinned)


@dataclass(frozen=True)
class LoaderSettings:
    """How batches are drawn; `training.recipe_parts.DataRecipe` explains each.

    Attributes:
        frames_per_batch: scenes a batch = this over the frames of each, at least 1.
        total_batches: length of the run, which `long_from` is a share of.
        colors: words the patch colours index.
    """

    seed: int
    frames_per_batch: int
    max_scenes: int
    total_batches: int
    min_frames: int
    max_frames: int
    long_from: float
    long_share: float
    long_min_frames: int
    long_max_frames: int
    dense_frames: int
    segments: int
    captions: int
    phrases: int
    noise: float
    patch_size: int
    colors: tuple[str, ...]


def batch_chances(seed: int, index: int, stream: int) -> np.random.Generator:
    """Return what decides on a whole batch: alike in every process, and no scene's own chances.

    A scene draws from (seed, index, place), for which numpy takes (seed, index) too when the place
    is 0: hence the zero, behind which no place stands.

    Args:
        seed: of the run.
        index: number of the batch.
        stream: what is decided, above 0.
    """
    return np.random.default_rng((seed, index, 0, stream))


def patch_majority(ids: NDArray[np.integer], patch_size: int, count: int) -> NDArray[np.int64]:
    """Most frequent id of each patch, (S, N); -100 where most pixels have none.

    Args:
        ids: (S, H, W), -1 where unknown.
        patch_size: edge, px; must divide both sides.
        count: number of different ids.
    """
    frames, height, width = ids.shape
    rows, columns = height // patch_size, width // patch_size
    cells = (
        ids[:, : rows * patch_size, : columns * patch_size]
        .reshape(frames, rows, patch_size, columns, patch_size)
        .transpose(0, 1, 3, 2, 4)
        .reshape(frames * rows * columns, -1)
    )
    offset = np.arange(len(cells))[:, None] * (count + 1)
    table = np.bincount(
        (cells.astype(np.int64) + 1 + offset).ravel(), minlength=len(cells) * (count + 1)
    )
    best = table.reshape(len(cells), count + 1).argmax(-1) - 1
    best[best < 0] = IGNORED
    return best.reshape(frames, rows * columns)


def photometric_noise(
    images: NDArray[np.float32], strength: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Change exposure, contrast and gamma a little, and add sensor noise, alike in every frame."""
    if strength <= 0:
        return images
    gain = np.exp(rng.normal(0, 0.12 * strength))
    tint = np.exp(rng.normal(0, 0.03 * strength, size=3)).astype(np.float32)
    gamma = np.exp(rng.normal(0, 0.12 * strength))
    noisy = np.clip(images * (gain * tint), 0, 1) ** np.float32(gamma)
    noisy = noisy + rng.normal(0, 0.02 * strength * rng.random(), size=images.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def build_sentences(
    sample: SceneSample, settings: LoaderSettings, rng: np.random.Generator
) -> tuple[Sentence, ...]:
    """Choose what is said about a scene: questions, some captions, some phrases; shuffled."""
    phrases = [
        Sentence("phrase", grounding_prompt(r.phrase), "", r.object_ids, r.kind)
        for r in sample.references
    ]
    by_label: dict[str, list[int]] = {}
    for item in sample.objects:
        by_label.setdefault(item.label, []).append(item.object_id)
    phrases += [
        Sentence("phrase", grounding_prompt(label), "", tuple(ids), "class")
        for label, ids in by_label.items()
    ]
    absent = [label for label in sample.labels if label not in by_label]
    if absent:
        word = absent[int(rng.integers(len(absent)))]
        phrases.append(Sentence("phrase", grounding_prompt(word), "", (), "none"))
    phrases += [
        Sentence("phrase", grounding_prompt(q.question), "", q.object_ids, "question")
        for q in sample.questions
        if q.object_ids and rng.random() < 0.3
    ]
    captions = [
        Sentence("caption", caption_prompt(), answer_text(c.text), (c.object_id,), "caption")
        for c in sample.captions
    ]
    answers = [
        Sentence(
            "answer",
            question_prompt(q.question),
            answer_text(q.answers[0]),
            q.object_ids,
            q.family,
        )
        for q in sample.questions
    ]
    answers += [
        Sentence(
            "answer",
            question_prompt(s.question, s.situation),
            answer_text(s.answers[0]),
            s.object_ids,
            "situation",
        )
        for s in sample.situations
    ]
    chosen = draw(phrases, settings.phrases, rng) + draw(captions, settings.captions, rng)
    chosen = chosen + draw(answers, settings.segments - len(chosen), rng)
    return tuple(draw(chosen, len(chosen), rng))


def draw(items: list[Sentence], count: int, rng: np.random.Generator) -> list[Sentence]:
    """Return at most `count` of the items, in random order."""
    order = rng.permutation(len(items))[: max(count, 0)]
    return [items[int(i)] for i in order]


def window_boxes(sample: SceneSample, T_window_room: NDArray[np.float64]) -> Boxes:
    """Bring the objects' boxes from the room to the window's world."""
    count = len(sample.objects)
    center, size = np.zeros((count, 3)), np.zeros((count, 3))
    rotation = np.zeros((count, 3, 3))
    index_of = {label: i for i, label in enumerate(sample.labels)}
    for row, item in enumerate(sample.objects):
        center[row] = T_window_room[:3, :3] @ item.box.center + T_window_room[:3, 3]
        size[row] = item.box.size
        rotation[row] = T_window_room[:3, :3] @ matrix_from_quat_xyzw(item.box.quat_xyzw)
    return Boxes(
        torch.from_numpy(center).float(),
        torch.from_numpy(size).float(),
        torch.from_numpy(rotation).float(),
        tuple(item.object_id for item in sample.objects),
        torch.tensor([index_of.get(item.label, 0) for item in sample.objects], dtype=torch.long),
    )


def color_ids(sample: SceneSample, colors: Sequence[str]) -> NDArray[np.int64]:
    """Colour word of each pixel's object as an index, (S, H, W); -1 for structure."""
    index_of = {word: i for i, word in enumerate(colors)}
    table = np.full(int(sample.instance_ids.max(initial=0)) + 2, -1, dtype=np.int64)
    for item in sample.objects:
        if item.object_id + 1 < len(table):
            table[item.object_id + 1] = index_of.get(item.color, -1)
    return table[sample.instance_ids + 1]


def batch_samples(
    samples: Sequence[SceneSample],
    settings: LoaderSettings,
    index: int,
    rngs: Sequence[np.random.Generator],
) -> SceneBatch:
    """Join samples of equal frame count and size into one batch."""
    frames = len(samples[0])
    per_scene: list[dict[str, Any]] = []
    for sample, rng in zip(samples, rngs, strict=True):
        T_window_room = np.linalg.inv(sample.T_world_camera[0])
        poses = T_window_room @ sample.T_world_camera
        poses[0] = np.eye(4)
        images = photometric_noise(
            sample.frames.images.astype(np.float32) / 255.0, settings.noise, rng
        )
        valid = np.isfinite(sample.depth) & (sample.depth > 0)
        per_scene.append(
            {
                "images": images.transpose(0, 3, 1, 2),
                "depth": np.where(valid, sample.depth, 0).astype(np.float32),
                "valid": valid,
                "K": sample.K.astype(np.float32),
                "T_world_camera": poses.astype(np.float32),
                "patch_labels": patch_majority(
                    sample.label_ids, settings.patch_size, len(sample.labels)
                ),
                "patch_colors": patch_majority(
                    color_ids(sample, settings.colors), settings.patch_size, len(settings.colors)
                ),
                "patch_objects": patch_majority(
                    sample.instance_ids,
                    settings.patch_size,
                    int(sample.instance_ids.max(initial=0)) + 1,
                ),
                "boxes": window_boxes(sample, T_window_room),
                "sentences": build_sentences(sample, settings, rng),
            }
        )
    arrays = {
        name: torch.from_numpy(np.stack([scene[name] for scene in per_scene]))
        for name in (
            "images",
            "depth",
            "valid",
            "K",
            "T_world_camera",
            "patch_labels",
            "patch_colors",
            "patch_objects",
        )
    }
    wanted = frames if settings.dense_frames <= 0 else min(settings.dense_frames, frames)
    # Of its own: every process of a run must choose the same frames, whichever scenes it has.
    chance = batch_chances(settings.seed, index, DENSE_STREAM)
    dense = np.sort(chance.choice(frames, size=wanted, replace=False))
    return SceneBatch(
        **arrays,
        dense_frames=torch.from_numpy(dense),
        boxes=tuple(scene["boxes"] for scene in per_scene),
        sentences=tuple(scene["sentences"] for scene in per_scene),
        scene_ids=tuple(sample.scene_id for sample in samples),
        index=index,
    )
