# SPDX-License-Identifier: Apache-2.0
"""A seed becomes a whole sample: room, walk, pictures, truth, words.

`make_scene` is what the trainer, the evaluation and the demo call. The same seed gives the same
bytes with the same backend. Next: storage.py, which keeps samples on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vidllm_ros.data.samples import Caption, Question, Reference, SceneSample
from vidllm_ros.data.synthrooms.questions import ask
from vidllm_ros.data.synthrooms.references import describe, refer
from vidllm_ros.data.synthrooms.render import Rendering, render
from vidllm_ros.data.synthrooms.rooms import Room, generate_room
from vidllm_ros.data.synthrooms.view import View, look
from vidllm_ros.data.synthrooms.vocabulary import LABELS, SPLIT_SIZE, SPLITS
from vidllm_ros.data.synthrooms.walk import NoRoomToWalkError, Walk, make_walk
from vidllm_ros.structures import Frames

QUESTION_STREAM = 31
FRAME_NS = 100_000_000  # ten pictures a second
MOST_ATTEMPTS = 30
FEWEST_OBJECTS, FEWEST_SEEN = 6, 5


@dataclass(frozen=True)
class Annotations:
    """What is said about a view."""

    questions: tuple[Question, ...]
    references: tuple[Reference, ...]
    captions: tuple[Caption, ...]


def annotate(view: View, rng: np.random.Generator, prefix: str = "q") -> Annotations:
    """Return questions, references and captions about what a view shows, and nothing else."""
    return Annotations(ask(view, rng, prefix), refer(view, rng), describe(view, rng))


def annotate_frames(sample: SceneSample, indices: Sequence[int], seed: int = 0) -> SceneSample:
    """Return the chosen frames with objects and words about what these frames show.

    "The first view" then means the first chosen frame.
    """
    part = sample.select(indices)
    view = look(sample.objects, part.instance_ids, part.label_ids, part.depth, part.T_world_camera)
    rng = np.random.default_rng([seed, QUESTION_STREAM])
    words = annotate(view, rng, f"{sample.scene_id}-{seed}")
    return replace(
        part,
        objects=view.objects,
        questions=words.questions,
        references=words.references,
        captions=words.captions,
        situations=(),
    )


def build_sample(room: Room, walk: Walk, rendering: Rendering) -> SceneSample:
    """Return the sample of a rendered walk, with words."""
    count = len(rendering.images)
    T_world_camera = walk.T_world_camera
    view = look(
        room.objects, rendering.instance_ids, rendering.label_ids, rendering.depth, T_world_camera
    )
    scene_id = f"synthroom{room.seed:07d}"
    words = annotate(view, np.random.default_rng([room.seed, QUESTION_STREAM]), scene_id)
    stamps = tuple(index * FRAME_NS for index in range(count))
    return SceneSample(
        scene_id=scene_id,
        frames=Frames(rendering.images, stamps, K=rendering.K),
        depth=rendering.depth,
        instance_ids=rendering.instance_ids,
        label_ids=rendering.label_ids,
        T_world_camera=T_world_camera,
        objects=view.objects,
        labels=LABELS,
        questions=words.questions,
        references=words.references,
        captions=words.captions,
    )


def render_walk(
    room: Room,
    frames: int = 32,
    height: int = 84,
    width: int = 112,
    backend: str = "auto",
    device: str | torch.device | None = None,
    attempt: int = 0,
) -> SceneSample:
    """Walk through a room and return the sample.

    Raises:
        NoRoomToWalkError: the room is too full to walk in.
    """
    walk = make_walk(room, frames, room.seed, attempt)
    return build_sample(room, walk, render(room, walk, height, width, backend, device))


def make_scene(
    seed: int,
    frames: int = 32,
    height: int = 84,
    width: int = 112,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> SceneSample:
    """Return the sample of a seed: seeds from SPLITS["train"], ["val"] and ["test"] on.

    A seed whose room is too full to walk in, or whose walk shows fewer than five objects, goes on
    to its next attempt, the same one every time.

    Raises:
        ValueError: the seed is in no split, or there is nothing to render.
        RuntimeError: no attempt gave a room worth seeing.
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    for attempt in range(MOST_ATTEMPTS):
        room = generate_room(seed, attempt)
        if len(room.objects) < FEWEST_OBJECTS:
            continue
        try:
            sample = render_walk(room, frames, height, width, backend, device, attempt)
        except NoRoomToWalkError:
            continue
        if len(sample.objects) >= min(FEWEST_SEEN, frames):
            return sample
    raise RuntimeError(f"seed {seed}: no room worth seeing in {MOST_ATTEMPTS} attempts")


def iter_scenes(
    split: str,
    start: int = 0,
    count: int = SPLIT_SIZE,
    frames: int = 32,
    height: int = 84,
    width: int = 112,
) -> Iterator[SceneSample]:
    """Yield the samples of a split in order of seed."""
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {tuple(SPLITS)}, got {split!r}")
    for seed in range(SPLITS[split] + start, SPLITS[split] + min(start + count, SPLIT_SIZE)):
        yield make_scene(seed, frames, height, width)
