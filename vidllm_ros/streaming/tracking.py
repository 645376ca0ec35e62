# SPDX-License-Identifier: Apache-2.0
"""Objects over time: boxes of each window joined to those known, under names that stay.

A box continues an object when they overlap, or when their labels agree and their centres are near
for their size; the best pairs over all are chosen together. Next: session.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vidllm_ros.geometry.box_overlap import aabbs_of, oriented_iou_pairs
from vidllm_ros.geometry.transforms import invert_transform, transform_points
from vidllm_ros.structures import GroundedBox

Float64 = NDArray[np.float64]

_SAME_TURN = 0.99  # cosine of half an angle: 16 degrees


@dataclass(frozen=True)
class TrackingSettings:
    """When two boxes are one object.

    Attributes:
        same_label_iou: overlap from which boxes of one label are the same.
        other_label_iou: overlap from which boxes of different labels are the same.
        center_share: boxes of one label whose centres are nearer than this share of their mean
            diagonal are the same even without overlap.
        min_score: boxes below it begin no object; 0 leaves it to the network's own threshold.
        min_windows: windows that must find an object before it is reported, or all there were
            where those are fewer: what a network sees once and never again is mostly not there.
            Windows of a camera that stands still count too, else what is put before it would
            never be reported.
        memory: windows whose evidence the position is averaged over.
        forget: an object in full view that this many windows in a row did not find is forgotten.
        max_objects: bound; the least sure, longest unseen go first.
    """

    same_label_iou: float = 0.15
    other_label_iou: float = 0.5
    center_share: float = 0.4
    min_score: float = 0.0
    min_windows: int = 2
    memory: float = 5.0
    forget: int = 3
    max_objects: int = 500


@dataclass(frozen=True)
class View:
    """What a window could see, for telling "gone" from "not looked at".

    Attributes:
        T_map_camera: poses, (S, 4, 4), m.
        K: (S, 3, 3), px.
        depth: (S, H, W), m; objects behind what was seen were hidden.
    """

    T_map_camera: Float64
    K: Float64
    depth: NDArray[np.float32]

    def sees(self, point: Float64) -> bool:
        """Whether at least a quarter of the frames show this place, (3,), unhidden."""
        p = transform_points(invert_transform(self.T_map_camera), np.tile(point, (len(self.K), 1)))
        height, width = self.depth.shape[1:]
        in_front = p[:, 2] > 0.1
        z = np.where(in_front, p[:, 2], 1.0)
        u = np.round(p[:, 0] / z * self.K[:, 0, 0] + self.K[:, 0, 2]).astype(int)
        v = np.round(p[:, 1] / z * self.K[:, 1, 1] + self.K[:, 1, 2]).astype(int)
        inside = in_front & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        frames = np.flatnonzero(inside)
        seen_m = self.depth[frames, v[frames], u[frames]]
        unhidden = z[frames] <= 1.1 * seen_m + 0.1
        return int(unhidden.sum()) * 4 >= len(self.K)


@dataclass
class _Track:
    box: GroundedBox
    weight: float
    votes: dict[str, float] = field(default_factory=dict)
    missed: int = 0
    found: int = 1  # windows that showed it


class ObjectTracker:
    """All objects of a world; not thread-safe: session.py holds the lock."""

    def __init__(self, settings: TrackingSettings | None = None) -> None:
        self.settings = settings or TrackingSettings()
        self._tracks: list[_Track] = []
        self._windows = 0
        self._numbers: defaultdict[str, int] = defaultdict(int)

    @property
    def objects(self) -> tuple[GroundedBox, ...]:
        """Every object that enough windows found, ordered by its id's name and number."""
        wanted = min(self.settings.min_windows, self._windows)
        sure = (track.box for track in self._tracks if track.found >= wanted)
        return tuple(sorted(sure, key=lambda box: _id_order(box.object_id)))

    def update(
        self, boxes: Sequence[GroundedBox], stamp_ns: int, view: View | None = None
    ) -> tuple[GroundedBox, ...]:
        """Join a window's boxes to the objects and return all that are reported.

        Args:
            boxes: in the map, as detected.
            stamp_ns: of the newest frame.
            view: what the window could see; without it nothing is ever forgotten.
        """
        self._windows += 1
        found = suppress_twins(boxes, self.settings)
        matched = self._match(found)
        seen: set[int] = set()
        for i, box in enumerate(found):
            j = matched.get(i)
            if j is not None:
                seen.add(j)
                self._join(self._tracks[j], box, stamp_ns)
        self._forget(seen, view)
        for i, box in enumerate(found):
            if i not in matched and box.score >= self.settings.min_score:
                self._begin(box, stamp_ns)
        self._bound()
        return self.objects

    def identify(self, boxes: Sequence[GroundedBox]) -> tuple[GroundedBox, ...]:
        """Give an answer's boxes the ids of the objects they are, each id once; learns nothing.

        Where several may be one object the likest is; what is no known object has no id.
        """
        found = suppress_twins(boxes, self.settings)
        matched = self._match(found)
        known = [self._tracks[j].box for j in matched.values()]
        spare = [box for i, box in enumerate(found) if i not in matched]
        is_taken = np.asarray(likeness(spare, known, self.settings).any(axis=1)).tolist()
        strangers = {id(box) for box, taken in zip(spare, is_taken, strict=True) if not taken}
        named = []
        for i, box in enumerate(found):
            if i in matched:
                old = self._tracks[matched[i]].box
                named.append(replace(box, object_id=old.object_id, last_seen_ns=old.last_seen_ns))
            elif id(box) in strangers:
                named.append(box)
        return tuple(named)

    def _match(self, found: Sequence[GroundedBox]) -> dict[int, int]:
        """Pair found boxes with tracks, each at most once, for the greatest likeness in all."""
        if not found or not self._tracks:
            return {}
        like = likeness(found, [track.box for track in self._tracks], self.settings)
        rows, columns = linear_sum_assignment(-like)
        return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if like[i, j] > 0}

    def _begin(self, box: GroundedBox, stamp_ns: int) -> None:
        name = re.sub(r"\W+", "_", box.label.strip().lower()).strip("_") or "object"
        self._numbers[name] += 1
        named = replace(box, object_id=f"{name}_{self._numbers[name]}", last_seen_ns=stamp_ns)
        self._tracks.append(_Track(named, max(box.score, 1e-3), {box.label: box.score}))

    def _join(self, track: _Track, box: GroundedBox, stamp_ns: int) -> None:
        """Average place and size; the turn is the surer box's, for turns of boxes have no mean."""
        old = track.box
        weight = max(box.score, 1e-3)
        share = weight / (track.weight + weight)
        track.weight = min(track.weight + weight, self.settings.memory)
        track.votes[box.label] = track.votes.get(box.label, 0.0) + box.score
        track.missed = 0
        track.found += 1
        surer = box if box.score > old.score else old
        size = np.asarray(surer.size, float)
        cosine = float(np.dot(old.quat_xyzw, box.quat_xyzw))  # of half the turn between them
        if abs(cosine) > _SAME_TURN:  # edges belong together, so their lengths have a mean
            size = (1 - share) * np.asarray(old.size, float) + share * np.asarray(box.size, float)
        track.box = replace(
            old,
            label=max(track.votes, key=lambda label: track.votes[label]),
            score=float((1 - share) * old.score + share * box.score),
            center=(1 - share) * np.asarray(old.center, float)
            + share * np.asarray(box.center, float),
            size=size,
            quat_xyzw=surer.quat_xyzw,
            last_seen_ns=max(stamp_ns, old.last_seen_ns),
        )

    def _forget(self, seen: set[int], view: View | None) -> None:
        if view is None:
            return
        for j, track in enumerate(self._tracks):
            if j not in seen and view.sees(np.asarray(track.box.center, float)):
                track.missed += 1
                weaker = track.box.score * (1 - 1 / (self.settings.forget + 1))
                track.box = replace(track.box, score=weaker)
        self._tracks = [t for t in self._tracks if t.missed < self.settings.forget]

    def _bound(self) -> None:
        surplus = len(self._tracks) - self.settings.max_objects
        if surplus > 0:
            worst = sorted(self._tracks, key=lambda t: (t.box.last_seen_ns, t.box.score))[:surplus]
            dropped = {id(track) for track in worst}
            self._tracks = [t for t in self._tracks if id(t) not in dropped]


def likeness(
    boxes_a: Sequence[GroundedBox], boxes_b: Sequence[GroundedBox], settings: TrackingSettings
) -> Float64:
    """How far each pair is one object, (A, B): 0 means not, 3 is one box twice."""
    if not boxes_a or not boxes_b:
        return np.zeros((len(boxes_a), len(boxes_b)))
    same = _same_label(boxes_a, boxes_b)
    center_a, center_b = (np.array([b.center for b in boxes]) for boxes in (boxes_a, boxes_b))
    reach_a, reach_b = (
        np.array([np.linalg.norm(b.size) for b in boxes]) for boxes in (boxes_a, boxes_b)
    )
    reach = settings.center_share * (reach_a[:, None] + reach_b[None]) / 2
    apart = np.linalg.norm(center_a[:, None] - center_b[None], axis=-1)
    near = np.clip(1 - apart / np.maximum(reach, 1e-9), 0, 1)
    least = np.where(same & (near == 0), settings.same_label_iou, settings.other_label_iou)
    overlap = _overlaps(boxes_a, boxes_b, np.where(same & (near > 0), 0.0, least))
    is_one = same & ((overlap >= settings.same_label_iou) | (near > 0))
    is_one |= ~same & (overlap >= settings.other_label_iou)
    return np.where(is_one, overlap + near + same, 0.0)


def suppress_twins(
    boxes: Sequence[GroundedBox], settings: TrackingSettings
) -> tuple[GroundedBox, ...]:
    """Drop boxes that show what a surer box of the same window shows."""
    ordered = sorted(boxes, key=lambda box: -box.score)
    if not ordered:
        return ()
    same = _same_label(ordered, ordered)
    wanted = np.where(same, settings.same_label_iou, settings.other_label_iou)
    wanted[np.triu_indices(len(ordered))] = np.inf  # each pair once: surer boxes come first
    overlap = _overlaps(ordered, ordered, wanted)
    kept: list[int] = []
    for i, box in enumerate(ordered):
        limits = (
            settings.same_label_iou if ordered[j].label == box.label else settings.other_label_iou
            for j in kept
        )
        if all(overlap[i, j] < limit for j, limit in zip(kept, limits, strict=True)):
            kept.append(i)
    return tuple(ordered[i] for i in kept)


def _same_label(
    boxes_a: Sequence[GroundedBox], boxes_b: Sequence[GroundedBox]
) -> NDArray[np.bool_]:
    return np.array([[a.label == b.label for b in boxes_b] for a in boxes_a], bool)


def _overlaps(
    boxes_a: Sequence[GroundedBox], boxes_b: Sequence[GroundedBox], least: Float64
) -> Float64:
    """Return the exact overlap of the pairs that may reach `least`, (A, B), and 0 for others.

    Bounds share at least what the boxes share, and the boxes have at least their own volume: so
    most pairs are ruled out at once, and clipping boxes against each other is for the rest.
    """
    bounds_a, bounds_b = aabbs_of(boxes_a), aabbs_of(boxes_b)
    low = np.maximum(bounds_a[:, None, :3], bounds_b[None, :, :3])
    high = np.minimum(bounds_a[:, None, 3:], bounds_b[None, :, 3:])
    volume_a, volume_b = (
        np.array([np.prod(np.asarray(b.size, float)) for b in boxes])
        for boxes in (boxes_a, boxes_b)
    )
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    shared = np.minimum(shared, np.minimum(volume_a[:, None], volume_b[None]))
    most = shared / np.maximum(volume_a[:, None] + volume_b[None] - shared, 1e-12)
    overlap = np.zeros(most.shape)
    near = (most > 0) & (most >= least - 1e-9)
    pairs = np.argwhere(near).tolist()
    overlap[near] = oriented_iou_pairs(
        [boxes_a[i] for i, _ in pairs], [boxes_b[j] for _, j in pairs]
    )
    return overlap


def _id_order(object_id: str) -> tuple[str, int]:
    name, _, number = object_id.rpartition("_")
    return name, int(number)
