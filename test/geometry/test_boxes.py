# SPDX-License-Identifier: Apache-2.0
"""Box overlap against closed forms, against sampling, and under motion."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.boxes import (
    aabb_iou,
    aabb_of,
    box_corners,
    corners_of,
    oriented_iou,
    points_in_box,
    transform_box,
    transform_boxes,
)
from vidllm_ros.geometry.transforms import make_transform, transform_points
from vidllm_ros.structures import GroundedBox


def make_box(center, size, rotvec=(0, 0, 0)):
    quat = Rotation.from_rotvec(rotvec).as_quat()
    return GroundedBox("chair", 0.5, np.array(center, float), np.array(size, float), quat)


def random_box(rng, spread=0.6):
    return make_box(rng.normal(size=3) * spread, rng.uniform(0.4, 2, 3), rng.normal(size=3))


def test_corners_are_ordered_and_bound_the_box():
    corners = box_corners([1, 2, 3], [2, 4, 6], [0, 0, 0, 1])
    np.testing.assert_allclose(corners[0], [0, 0, 0])
    np.testing.assert_allclose(corners[1], [0, 0, 6])
    np.testing.assert_allclose(corners[4], [2, 0, 0])
    np.testing.assert_allclose(corners[7], [2, 4, 6])
    many = box_corners(np.zeros((5, 3)), np.ones((5, 3)), np.tile([0, 0, 0, 1.0], (5, 1)))
    assert many.shape == (5, 8, 3)
    quarter = make_box([0, 0, 0], [2, 1, 1], (0, 0, np.pi / 4))
    reach = (2 + 1) / 2 / np.sqrt(2)
    np.testing.assert_allclose(aabb_of(quarter), [-reach, -reach, -0.5, reach, reach, 0.5])


def test_aabb_iou_pairs():
    a = [[0, 0, 0, 1, 1, 1], [0, 0, 0, 2, 2, 2]]
    b = [[0.5, 0, 0, 1.5, 1, 1], [5, 5, 5, 6, 6, 6], [0, 0, 0, 1, 1, 1]]
    np.testing.assert_allclose(aabb_iou(a, b), [[0.5 / 1.5, 0, 1], [1 / 8, 0, 1 / 8]], atol=1e-12)
    np.testing.assert_array_equal(aabb_iou([[0] * 6], [[0] * 6]), [[0]])


def test_oriented_equals_axis_aligned_when_neither_is_turned():
    rng = np.random.default_rng(0)
    for _ in range(100):
        a, b = (make_box(rng.normal(size=3) * 0.5, rng.uniform(0.5, 2, 3)) for _ in range(2))
        want = aabb_iou([aabb_of(a)], [aabb_of(b)])[0, 0]
        assert oriented_iou(a, b) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("turn", [(0, 0, 0), (0.3, -1.2, 0.7), (0, 0, np.pi / 2)])
def test_closed_forms(turn):
    box = make_box([1, -2, 0.5], [1, 2, 3], turn)
    R = Rotation.from_rotvec(turn).as_matrix()
    assert oriented_iou(box, box) == pytest.approx(1, abs=1e-7)
    half = make_box(box.center + R @ [0.5, 0, 0], [1, 2, 3], turn)
    assert oriented_iou(box, half) == pytest.approx(1 / 3, abs=1e-7)
    inner = make_box(box.center, [0.5, 1, 1.5], turn)
    assert oriented_iou(box, inner) == pytest.approx(1 / 8, abs=1e-7)
    flush = make_box(box.center + R @ [0, 0.5, 0], [1, 1, 3], turn)  # shares five faces
    assert oriented_iou(box, flush) == pytest.approx(1 / 2, abs=1e-7)
    touching = make_box(box.center + R @ [1.0, 0, 0], [1, 2, 3], turn)
    assert oriented_iou(box, touching) == pytest.approx(0, abs=1e-7)
    flat = make_box(box.center, [1, 2, 0], turn)
    assert oriented_iou(box, flat) == 0


def test_square_turned_by_45_degrees_is_an_octagon():
    a, b = make_box([0, 0, 0], [1, 1, 1]), make_box([0, 0, 0], [1, 1, 1], (0, 0, np.pi / 4))
    octagon = 2 * (np.sqrt(2) - 1)
    assert oriented_iou(a, b) == pytest.approx(octagon / (2 - octagon), abs=1e-9)


def test_permuted_axes_are_the_same_box():
    a = make_box([0.3, 0.1, 0], [1, 2, 3], (0.2, 0.5, -0.4))
    R = Rotation.from_rotvec((0.2, 0.5, -0.4)).as_matrix() @ [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    b = make_box([0.3, 0.1, 0], [2, 1, 3], Rotation.from_matrix(R).as_rotvec())
    assert oriented_iou(a, b) == pytest.approx(1, abs=1e-7)


def test_oriented_against_sampling():
    rng = np.random.default_rng(1)
    overlapping = 0
    for _ in range(30):
        a, b = random_box(rng), random_box(rng)
        low, high = np.minimum(aabb_of(a), aabb_of(b))[:3], np.maximum(aabb_of(a), aabb_of(b))[3:]
        samples = rng.uniform(low, high, (100_000, 3))
        in_a, in_b = points_in_box(samples, a), points_in_box(samples, b)
        want = (in_a & in_b).sum() / (in_a | in_b).sum()
        got = oriented_iou(a, b)
        assert got == pytest.approx(want, abs=0.012), (a, b)
        overlapping += want > 0.05
    assert overlapping > 10


def test_nearly_equal_boxes_never_jump():
    """Faces within rounding of each other must be counted once, not twice or never."""
    rng = np.random.default_rng(2)
    for step in (1e-13, 1e-11, 1e-9, 3e-9, 1e-8, 1e-6):
        for _ in range(20):
            a = random_box(rng)
            b = make_box(
                a.center + rng.normal(size=3) * step,
                np.asarray(a.size) + rng.normal(size=3) * step,
                Rotation.from_quat(a.quat_xyzw).as_rotvec() + rng.normal(size=3) * step,
            )
            assert oriented_iou(a, b) == pytest.approx(1, abs=1e-6 + 60 * step)


def test_overlap_is_symmetric_and_does_not_move():
    rng = np.random.default_rng(3)
    T = make_transform(Rotation.random(random_state=4).as_matrix(), [3.0, 2.0, 1.0])
    for _ in range(20):
        a, b = random_box(rng), random_box(rng)
        value = oriented_iou(a, b)
        assert oriented_iou(b, a) == pytest.approx(value, abs=1e-7)
        moved = oriented_iou(transform_box(T, a), transform_box(T, b))
        assert moved == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_transformed_box_has_the_transformed_corners(scale):
    rng = np.random.default_rng(6)
    box = random_box(rng)
    T = make_transform(scale * Rotation.random(random_state=7).as_matrix(), rng.normal(size=3))
    moved = transform_box(T, box)
    np.testing.assert_allclose(corners_of(moved), transform_points(T, corners_of(box)), atol=1e-9)
    assert (moved.label, moved.score) == (box.label, box.score)
    assert moved.quat_xyzw[3] >= 0


def test_boxes_move_together_as_they_move_alone():
    rng = np.random.default_rng(6)
    boxes = [random_box(rng) for _ in range(5)]
    T = make_transform(1.5 * Rotation.random(random_state=7).as_matrix(), [3.0, 2.0, 1.0])
    for box, moved in zip(boxes, transform_boxes(T, boxes), strict=True):
        alone = Rotation.from_matrix(T[:3, :3] / 1.5) * Rotation.from_quat(box.quat_xyzw)
        np.testing.assert_allclose(moved.center, transform_points(T, box.center))
        np.testing.assert_allclose(moved.size, 1.5 * np.asarray(box.size))
        turned = Rotation.from_quat(moved.quat_xyzw)
        np.testing.assert_allclose(turned.as_matrix(), alone.as_matrix(), atol=1e-12)
        assert (moved.label, moved.score) == (box.label, box.score)
    assert transform_boxes(T, []) == []


def test_mirror_is_refused():
    with pytest.raises(ValueError, match="positive scale"):
        transform_box(np.diag([1.0, 1, -1, 1]), make_box([0, 0, 0], [1, 1, 1]))


def test_points_in_box_includes_its_faces():
    box = make_box([1, 1, 1], [2, 2, 2], (0, 0, np.pi / 4))
    assert points_in_box(corners_of(box), box).all()
    assert not points_in_box(1.0001 * (corners_of(box) - 1) + 1, box).any()
    assert points_in_box(np.ones((2, 3, 3)), box).shape == (2, 3)
