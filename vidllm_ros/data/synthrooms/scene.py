# SPDX-License-Identifier: Apache-2.0
"""A seed becomes a whole sample: room, walk, pictures, truth, words.

`make_scene` is what the trainer, the evaluation and the demo call. The same seed gives the same
bytes with the same backend. Next: storage.py, which keeps samples on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vidllm_ros.data.samples import Caption, Question, Reference, SceneSample, Situation
from vidllm_ros.data.synthrooms.questions import ask
from vidllm_ros.data.synthrooms.references import describe, refer
from vidllm_ros.data.synthrooms.render import Rendering, render
from vidllm_ros.data.synthrooms.rooms import Room, generate_room
from vidllm_ros.data.synthrooms.situations import situate
from vidllm_ros.data.synthrooms.view import View, look
from vidllm_ros.data.synthrooms.vocabulary import LABELS, SPLIT_SIZE, SPLITS
from vidllm_ros.data.synthrooms.walk import NoRoomToWalkError, Walk, make_walk, walk_kind
from vidllm_ros.structures import Frames

QUESTION_STREAM = 31
FRAME_NS = 100_000_000  # ten pictures a second
MOST_ATTEMPTS = 16
FEWEST_OBJECTS, FEWEST_SEEN, FEWEST_SEEN_HARD = 6, 5, 3


@dataclass(frozen=True)
class Annotations:
    """What is said about a view."""

    questions: tuple[Question, ...]
    references: tuple[Reference, ...]
    captions: tuple[Caption, ...]
    situations: tuple[Situation, ...]


def annotate(
    view: View, rng: np.random.Generator, prefix: str = "q", rounds: int = 1
) -> Annotations:
    """Return everything that is said about what a view shows, and nothing else."""
    questions, references = ask(view, rng, prefix, rounds), refer(view, rng)
    captions = describe(view, rng)
    return Annotations(questions, references, captions, situate(view, rng, prefix))


def annotate_frames(
    sample: SceneSample, indices: Sequence[int], seed: int = 0, rounds: int = 1
) -> SceneSample:
    """Return the chosen frames with objects and words about what these frames show.

    "The first view" then means the first chosen frame.

    Args:
        sample: a walk.
        indices: of the chosen frames.
        seed: of the words.
        rounds: how many times over questions are drawn.
    """
    part = sample.select(indices)
    view = look(sample.objects, part.instance_ids, part.label_ids, part.depth, part.T_world_camera)
    rng = np.random.default_rng([seed, QUESTION_STREAM])
    words = annotate(view, rng, f"{sample.scene_id}-{seed}", rounds)
    return replace(
        part,
        objects=view.objects,
        questions=words.questions,
        references=words.references,
        captions=words.captions,
        situations=words.situations,
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
        situations=words.situations,
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

    A seed whose room is too full to walk in, or whose walk shows fewer than five objects (three
    where the walk is a hard one), goes on to its next attempt, the same one every time.

    Raises:
        ValueError: the seed is in no split, or there is nothing to render.
        RuntimeError: no attempt gave a room worth seeing.
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    _, _, _, sample = search_scene(
        seed, frames, lambda room, walk: render(room, walk, height, width, backend, device)
    )
    return sample


def search_scene(
    seed: int, frames: int, see: Callable[[Room, Walk], Rendering]
) -> tuple[int, Room, Walk, SceneSample]:
    """Return the first attempt worth seeing: its number, room, walk and sample.

    Args:
        seed: of the room.
        frames: length of the walk.
        see: renders a walk.

    Raises:
        RuntimeError: there is none.
    """
    fewest = FEWEST_SEEN if walk_kind(seed) == "walk" else FEWEST_SEEN_HARD
    for attempt in range(MOST_ATTEMPTS):
        room = generate_room(seed, attempt)
        if len(room.objects) < FEWEST_OBJECTS:
            continue
        try:
            walk = make_walk(room, frames, seed, attempt)
        except NoRoomToWalkError:
            continue
        sample = build_sample(room, walk, see(room, walk))
        if len(sample.objects) >= min(fewest, frames):
            return attempt, room, walk, sample
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
