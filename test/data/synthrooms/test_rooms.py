# SPDX-License-Identifier: Apache-2.0
"""Rooms hold what rooms hold, in sizes of the real world, with nothing inside anything else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vidllm_ros.data.samples import SceneObject
from vidllm_ros.data.synthrooms import LABELS, OBJECT_LABELS, SPLITS, generate_room, split_of
from vidllm_ros.data.synthrooms.layout import MOST_OBJECTS
from vidllm_ros.data.synthrooms.rooms import Room
from vidllm_ros.data.synthrooms.vocabulary import (
    COLOR_RANGES,
    COLORS,
    color_words,
    hsv,
    sample_rgb,
)
from vidllm_ros.geometry.boxes import box_corners

HEIGHTS = {  # m, generous real-world ranges of the whole thing
    "cabinet": (0.4, 2.3),
    "bed": (0.7, 1.3),
    "chair": (0.6, 1.3),
    "sofa": (0.65, 1.0),
    "table": (0.35, 0.8),
    "door": (1.9, 2.3),
    "window": (0.9, 1.5),
    "bookshelf": (1.2, 2.2),
    "picture": (0.35, 1.0),
    "counter": (0.8, 1.0),
    "desk": (0.65, 0.8),
    "curtain": (1.3, 2.4),
    "refrigerator": (1.4, 1.9),
    "shower curtain": (1.5, 2.1),
    "toilet": (0.6, 0.95),
    "sink": (0.2, 1.2),
    "bathtub": (0.45, 0.85),
    "trash can": (0.25, 0.75),
}


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return [generate_room(seed) for seed in range(60)]


def deepest_overlap(first: SceneObject, second: SceneObject) -> float:
    """Return how far two upright boxes run into each other, m, <= 0 if they do not."""
    boxes = []
    for item in (first, second):
        corners = box_corners(item.box.center, item.box.size, item.box.quat_xyzw)
        boxes.append(np.asarray(corners, float))
    axes = [np.array([0.0, 0.0, 1.0])]
    for item in (first, second):
        yaw = 2 * np.arctan2(item.box.quat_xyzw[2], item.box.quat_xyzw[3])
        axes += [np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([-np.sin(yaw), np.cos(yaw), 0])]
    depth = np.inf
    for axis in axes:
        a, b = boxes[0] @ axis, boxes[1] @ axis
        depth = min(depth, min(a.max(), b.max()) - max(a.min(), b.min()))
    return float(depth)


def test_every_class_and_colour_appears(rooms: list[Room]) -> None:
    labels = {item.label for room in rooms for item in room.objects}
    assert labels == set(OBJECT_LABELS)
    assert {item.color for room in rooms for item in room.objects} == {*COLORS, ""}
    assert {room.boxes.label_ids.max() < len(LABELS) for room in rooms} == {True}


def test_nothing_runs_into_anything(rooms: list[Room]) -> None:
    for room in rooms:
        for first, second in itertools.combinations(room.objects, 2):
            depth = deepest_overlap(first, second)
            assert depth < 1e-6, f"room {room.seed}: {first.label} in {second.label}, {depth} m"


def test_objects_stand_inside_the_room_in_real_sizes(rooms: list[Room]) -> None:
    for room in rooms:
        half = np.array([room.size[0] / 2, room.size[1] / 2])
        for item in room.objects:
            corners = box_corners(item.box.center, item.box.size, item.box.quat_xyzw)
            assert (np.abs(corners[:, :2]) <= half + 1e-4).all(), (room.seed, item.label)
            assert corners[:, 2].min() >= -1e-6
            assert corners[:, 2].max() <= room.size[2] + 1e-6
            low, high = HEIGHTS[item.label]
            assert low <= item.box.size[2] <= high, (room.seed, item.label, item.box.size)
            assert np.linalg.norm(item.box.quat_xyzw) == pytest.approx(1)
            assert item.box.quat_xyzw[3] >= 0


def test_rooms_are_furnished_but_not_crammed(rooms: list[Room]) -> None:
    counts = [len(room.objects) for room in rooms]
    assert max(counts) <= MOST_OBJECTS == 20
    assert np.median(counts) >= 9
    assert np.mean([count >= 6 for count in counts]) > 0.9  # emptier ones are drawn again


def test_boxes_of_an_object_fill_its_box_tightly(rooms: list[Room]) -> None:
    for room in rooms[:15]:
        boxes = room.boxes
        for item in room.objects:
            rows = np.flatnonzero(boxes.object_ids == item.object_id)
            signs = np.array(list(itertools.product((-1, 1), repeat=3)))
            local = signs[None] * boxes.halves[rows][:, None]
            points = np.einsum("nij,nkj->nki", boxes.rotations[rows], local)
            points = (points + boxes.centers[rows][:, None]).reshape(-1, 3) - item.box.center
            z, w = item.box.quat_xyzw[2:]
            c, s = w * w - z * z, 2 * z * w
            own = points @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            np.testing.assert_allclose(own.max(0), item.box.size / 2, atol=1e-4)
            np.testing.assert_allclose(own.min(0), -np.asarray(item.box.size) / 2, atol=1e-4)


def test_the_colour_word_is_the_largest_surface(rooms: list[Room]) -> None:
    centers = {
        word: np.array(hsv(*(np.mean(limits) for limits in ranges)))
        for word, ranges in COLOR_RANGES.items()
    }
    right, total = 0, 0
    for room in rooms:
        for item in room.objects:
            if not item.color or item.label == "picture":
                continue  # a frame's back is hidden by its canvas
            rows = np.flatnonzero(room.boxes.object_ids == item.object_id)
            area = dict.fromkeys(COLORS, 0.0)
            for row in rows:
                h = room.boxes.halves[row]
                word = min(
                    centers, key=lambda w: float(((centers[w] - room.boxes.rgb[row]) ** 2).sum())
                )
                area[word] += float(h[0] * h[1] + h[1] * h[2] + h[0] * h[2])
            right += max(area, key=lambda w: area[w]) == item.color
            total += 1
    assert right / total > 0.97


@pytest.mark.parametrize("color", COLORS)
def test_colours_are_called_by_one_word(color: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert color_words(sample_rgb(color, rng)) == (color,)


def test_same_seed_same_room_and_splits_are_disjoint() -> None:
    first, again, other = generate_room(5), generate_room(5), generate_room(6)
    assert first.boxes.centers.tobytes() == again.boxes.centers.tobytes()
    assert first.boxes.pattern.tobytes() == again.boxes.pattern.tobytes()
    assert first.boxes.centers.tobytes() != other.boxes.centers.tobytes()
    assert [split_of(first) for first in SPLITS.values()] == list(SPLITS)
    assert split_of(SPLITS["val"] - 1) == "train"
    with pytest.raises(ValueError, match="seed"):
        generate_room(3_000_000)
