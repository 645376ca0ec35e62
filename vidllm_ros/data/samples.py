# SPDX-License-Identifier: Apache-2.0
"""A scene with its truth: frames, depth, poses, ids, objects, and what is said about them.

Every data set of this project, rendered or real, ends as `SceneSample`; the trainer, the
evaluation and the demo read nothing else. The world of a sample is the room's: z up, metres.
Whoever wants the window's world (the first camera's optical frame) multiplies by the first pose's
inverse. Next: synthrooms/scene.py, which makes samples from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.structures import FloatArray, Frames, GroundedBox, check_shape

REFERENCE_KINDS = ("unique", "multiple", "many", "none")


@dataclass(frozen=True)
class SceneObject:
    """One thing in the room.

    Attributes:
        object_id: the number that marks it in `SceneSample.instance_ids`, >= 0.
        label: its class, a word of the data set's vocabulary.
        box: tight oriented box in the room's world; `box.label` repeats the class.
        color: word for its dominant colour; empty where no colour dominates (a window).
        attributes: further words by name, such as "kind": "office chair".
    """

    object_id: int
    label: str
    box: GroundedBox
    color: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.object_id < 0:
            raise ValueError(
                f"object_id: expected >= 0 (-1 marks structure), got {self.object_id}"
            )


@dataclass(frozen=True)
class Question:
    """A question with every answer that counts as right.

    Attributes:
        answers: short, lower case; the first is the one to learn.
        object_ids: the objects the answer rests on; empty for "no" and "0".
        family: "color", "existence", "count", "place", "relation", "object", "size", "distance"
            or "nearest".
    """

    question_id: str
    question: str
    answers: tuple[str, ...]
    object_ids: tuple[int, ...]
    family: str

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError(f"answers: expected at least one for {self.question!r}, got none")


@dataclass(frozen=True)
class Reference:
    """A phrase and all the objects it means.

    Attributes:
        object_ids: the targets, none to many.
        kind: "unique": one target, the only one of its class (ScanRefer); "multiple": one target
            among several of its class (ScanRefer); "many": several targets; "none": no target
            (Multi3DRefer).
    """

    phrase: str
    object_ids: tuple[int, ...]
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in REFERENCE_KINDS:
            raise ValueError(f"kind: expected one of {REFERENCE_KINDS}, got {self.kind!r}")
        if (self.kind == "none") != (not self.object_ids):
            raise ValueError(f"object_ids: {self.kind!r} does not fit {self.object_ids}")


@dataclass(frozen=True)
class Caption:
    """A sentence that describes one object (Scan2Cap)."""

    object_id: int
    text: str


@dataclass(frozen=True)
class Situation:
    """Where someone stands, in words and in numbers, and a question asked from there (SQA3D).

    Attributes:
        situation: the words.
        question: asked from that place.
        answers: the first is the one to learn.
        position: where, (3,), m, room's world.
        quat_xyzw: body axes (x forward, y left, z up) to the room's world, (4,).
        object_ids: the objects the answer rests on.
    """

    situation_id: str
    situation: str
    question: str
    answers: tuple[str, ...]
    position: FloatArray
    quat_xyzw: FloatArray
    object_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_shape("position", self.position, (3,))
        check_shape("quat_xyzw", self.quat_xyzw, (4,))


@dataclass(frozen=True)
class SceneSample:
    """A window of frames with geometry, objects and language; all in the room's world.

    Attributes:
        scene_id: name, unique in its data set.
        frames: the images with their intrinsics, S of them.
        depth: z along the optical axis, (S, H, W), m; NaN where invalid.
        instance_ids: `SceneObject.object_id` of each pixel, (S, H, W); -1 where there is none.
        label_ids: index into `labels` of each pixel, (S, H, W); -1 where unknown.
        T_world_camera: poses in the z-up room, (S, 4, 4), m.
        objects: the things that are seen in these frames.
        labels: the vocabulary of `label_ids`.
    """

    scene_id: str
    frames: Frames
    depth: NDArray[np.float32]
    instance_ids: NDArray[np.int32]
    label_ids: NDArray[np.int16]
    T_world_camera: NDArray[np.float64]
    objects: tuple[SceneObject, ...]
    labels: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    references: tuple[Reference, ...] = ()
    captions: tuple[Caption, ...] = ()
    situations: tuple[Situation, ...] = ()

    def __post_init__(self) -> None:
        count, height, width = self.frames.images.shape[:3]
        for name in ("depth", "instance_ids", "label_ids"):
            check_shape(name, getattr(self, name), (count, height, width))
        check_shape("T_world_camera", self.T_world_camera, (count, 4, 4))
        if self.frames.K is None:
            raise ValueError("frames: expected intrinsics, got K=None; a sample is calibrated")
        known = {item.object_id for item in self.objects}
        if len(known) != len(self.objects):
            raise ValueError(f"objects: expected distinct ids in {self.scene_id}, got repeats")
        named = {caption.object_id for caption in self.captions}
        named.update(*(item.object_ids for item in self.questions))
        named.update(*(item.object_ids for item in self.references))
        named.update(*(item.object_ids for item in self.situations))
        if not named <= known:
            raise ValueError(f"object_ids: {sorted(named - known)} are not among the objects")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def K(self) -> NDArray[np.float64]:
        """Intrinsics of the frames, (S, 3, 3), px."""
        if self.frames.K is None:  # refused when built
            raise AssertionError("a sample without intrinsics")
        return self.frames.K

    def object(self, object_id: int) -> SceneObject:
        """Return the object of this id; KeyError if no such object is listed."""
        for item in self.objects:
            if item.object_id == object_id:
                return item
        raise KeyError(f"object_id: {object_id} is not in {self.scene_id}")

    def select(self, indices: Sequence[int]) -> SceneSample:
        """Return the chosen frames, in this order; objects and words stay as they are.

        What is said may then speak of things only the other frames show:
        `synthrooms.annotate_frames` chooses frames and says anew.
        """
        chosen = list(indices)
        return replace(
            self,
            frames=self.frames.select(chosen),
            depth=self.depth[chosen],
            instance_ids=self.instance_ids[chosen],
            label_ids=self.label_ids[chosen],
            T_world_camera=self.T_world_camera[chosen],
        )


def visible_objects(
    sample: SceneSample, indices: Sequence[int] | None = None, min_fraction: float = 0.004
) -> tuple[int, ...]:
    """Return ids of the pixels' objects that fill at least this share of some frame, ascending.

    Ids of objects that `sample.objects` does not list are returned too: they are seen, if little.
    """
    chosen = range(len(sample)) if indices is None else indices
    best: dict[int, float] = {}
    for index in chosen:
        ids = sample.instance_ids[index]
        counts = np.bincount(ids[ids >= 0].ravel())
        for object_id in np.flatnonzero(counts):
            share = counts[object_id] / ids.size
            best[int(object_id)] = max(best.get(int(object_id), 0.0), float(share))
    return tuple(sorted(i for i, share in best.items() if share >= min_fraction))
