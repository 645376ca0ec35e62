# SPDX-License-Identifier: Apache-2.0
"""What can be known from the chosen frames: which objects show, how they lie to one another.

Everything that is asked is asked of a `View`, so that a question never rests on what no frame
shows. A class is unclear when one of its things shows too little to count on: nobody asks about
it. Next: questions.py and references.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneObject
from vidllm_ros.data.synthrooms.vocabulary import LABELS, OBJECT_LABELS

SEEN_FRACTION = 0.004  # of a frame's pixels: the object counts as seen
HIDDEN_FRACTION = 0.0006  # below it nobody could tell that something is there
FIRST_FRACTION = 0.008  # of the first frame's pixels: it may be asked about "in the first view"
BESIDE_M = 0.6


@dataclass(frozen=True)
class InFirstView:
    """An object in the first frame: its mean column (0 to 1), nearest depth, cut by an edge."""

    column: float
    nearest_m: float
    cut: bool


@dataclass(frozen=True)
class View:
    """What some frames show of a room.

    Attributes:
        objects: those that are seen.
        unclear: classes of which something shows a little.
        complete: nothing shows a little, so that all things of a colour can be counted.
        T_world_camera: poses of the cameras, (S, 4, 4).
        first: objects well seen in the first frame, by id.
        gaps_m: shortest distance between the objects' boxes, (O, O), inf on the diagonal.
    """

    objects: tuple[SceneObject, ...]
    unclear: frozenset[str]
    complete: bool
    T_world_camera: NDArray[np.float64]
    first: dict[int, InFirstView]
    gaps_m: NDArray[np.float64]
    by_label: dict[str, list[SceneObject]] = field(default_factory=dict)

    @property
    def T_world_first(self) -> NDArray[np.float64]:
        """Pose of the first camera, (4, 4)."""
        return self.T_world_camera[0]

    def of_label(self, label: str) -> list[SceneObject]:
        return self.by_label.get(label, [])

    def clear_labels(self) -> list[str]:
        """Return the classes that are seen and can be counted."""
        return [label for label in OBJECT_LABELS if self.is_clear(label) and self.of_label(label)]

    def absent_labels(self) -> list[str]:
        """Return the classes of which nothing shows."""
        return [
            label for label in OBJECT_LABELS if self.is_clear(label) and not self.of_label(label)
        ]

    def is_clear(self, label: str) -> bool:
        return label not in self.unclear

    def name(self, item: SceneObject) -> str | None:
        """Return the shortest words that mean this object alone, or None."""
        if not self.is_clear(item.label):
            return None
        same = self.of_label(item.label)
        if len(same) == 1:
            return item.label
        if item.color and sum(other.color == item.color for other in same) == 1:
            return f"{item.color} {item.label}"
        return None

    def named(self) -> list[tuple[SceneObject, str]]:
        """Return all objects that have a name of their own."""
        return [(item, name) for item in self.objects if (name := self.name(item)) is not None]

    def neighbor(self, item: SceneObject) -> SceneObject | None:
        """Return the one object beside this one; None if there is none or it is a close call."""
        row = self.gaps_m[self.objects.index(item)]
        order = np.argsort(row, kind="stable")
        if len(row) < 2 or row[order[0]] > BESIDE_M or row[order[1]] < row[order[0]] + 0.25:
            return None
        return self.objects[int(order[0])]

    def beside(self, item: SceneObject) -> list[SceneObject]:
        """Return all objects beside this one, nearest first."""
        row = self.gaps_m[self.objects.index(item)]
        return [self.objects[int(i)] for i in np.argsort(row, kind="stable") if row[i] <= BESIDE_M]


def look(
    objects: Sequence[SceneObject],
    instance_ids: NDArray[np.int32],
    label_ids: NDArray[np.int16],
    depth: NDArray[np.float32],
    T_world_camera: NDArray[np.float64],
) -> View:
    """Return what these frames, (S, H, W) each, show of these objects."""
    shares, labels = shares_of_frames(instance_ids, label_ids)
    best = shares.max(0)
    seen = tuple(
        item
        for item in objects
        if item.object_id < len(best) and best[item.object_id] >= SEEN_FRACTION
    )
    seen_ids = {item.object_id for item in seen}
    doubtful = [i for i in np.flatnonzero(best >= HIDDEN_FRACTION) if int(i) not in seen_ids]
    by_label: dict[str, list[SceneObject]] = {}
    for item in seen:
        by_label.setdefault(item.label, []).append(item)
    first = {
        item.object_id: first
        for item in seen
        if shares[0, item.object_id] >= FIRST_FRACTION
        and (first := in_first_view(instance_ids[0] == item.object_id, depth[0])) is not None
    }
    return View(
        objects=seen,
        unclear=frozenset(LABELS[labels[i]] for i in doubtful),
        complete=not doubtful,
        T_world_camera=T_world_camera,
        first=first,
        gaps_m=box_gaps(seen),
        by_label=by_label,
    )


def shares_of_frames(
    instance_ids: NDArray[np.int32], label_ids: NDArray[np.int16]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the share of each frame's pixels by object id, (S, O), and each id's label, (O,)."""
    frames = len(instance_ids)
    flat = instance_ids.reshape(frames, -1).astype(np.int64) + 1
    columns = int(flat.max()) + 1
    keyed = flat + columns * np.arange(frames)[:, None]
    counts = np.bincount(keyed.ravel(), minlength=frames * columns).reshape(frames, columns)
    labels = np.zeros(columns, np.int64)
    labels[flat.ravel()] = label_ids.ravel()
    return np.maximum(counts[:, 1:], 0) / flat.shape[1], labels[1:]


def in_first_view(mask: NDArray[np.bool_], depth: NDArray[np.float32]) -> InFirstView | None:
    """Return where the object of a mask (H, W) lies in its frame."""
    columns = np.flatnonzero(mask.any(0))
    if len(columns) == 0:
        return None
    width = mask.shape[1]
    weight = mask.sum(0)
    return InFirstView(
        column=float((weight * np.arange(width)).sum() / weight.sum() / width),
        nearest_m=float(np.percentile(depth[mask], 10)),
        cut=bool(columns[0] == 0 or columns[-1] == width - 1),
    )


def floor_plan(item: SceneObject) -> tuple[NDArray[np.float64], float, float, float]:
    """Return the centre (2,) of a box on the floor plan, its half edges and its yaw."""
    z, w = item.box.quat_xyzw[2], item.box.quat_xyzw[3]
    half = np.asarray(item.box.size, float) / 2
    return np.asarray(item.box.center, float)[:2], half[0], half[1], 2 * float(np.arctan2(z, w))


def box_gaps(objects: Sequence[SceneObject]) -> NDArray[np.float64]:
    """Return the shortest distance between every two upright boxes, (O, O), inf to itself."""
    count = len(objects)
    if count == 0:
        return np.zeros((0, 0))
    plans = [floor_plan(item) for item in objects]
    centers = np.array([plan[0] for plan in plans])
    halves = np.array([plan[1:3] for plan in plans])
    yaws = np.array([plan[3] for plan in plans])
    turn = np.stack([np.cos(yaws), -np.sin(yaws), np.sin(yaws), np.cos(yaws)], -1)
    turn = turn.reshape(count, 2, 2)  # box axes to the room's
    signs = np.array(
        [[-1, -1], [1, -1], [1, 1], [-1, 1], [0, 0], [0, -1], [1, 0], [0, 1], [-1, 0]]
    )
    points = np.einsum("nij,nkj->nki", turn, signs[None] * halves[:, None]) + centers[:, None]
    local = np.einsum("mji,nkmj->nkmi", turn, points[:, :, None] - centers[None, None])
    outside = np.maximum(np.abs(local) - halves[None, None], 0)  # (N, K, M, 2)
    plan = np.sqrt((outside**2).sum(-1)).min(1)
    plan = np.minimum(plan, plan.T)
    middle = np.array([item.box.center[2] for item in objects])
    tall = np.array([item.box.size[2] for item in objects]) / 2
    above = np.maximum(np.abs(middle[:, None] - middle[None]) - tall[:, None] - tall[None], 0)
    gaps = np.hypot(plan, above)
    np.fill_diagonal(gaps, np.inf)
    return gaps
