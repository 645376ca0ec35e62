# SPDX-License-Identifier: Apache-2.0
"""Overlaps of many pairs at once are those of the plain twin, pair by pair."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.box_overlap import aabbs_of, oriented_iou_matrix, oriented_iou_pairs
from vidllm_ros.geometry.boxes import aabb_of, oriented_iou
from vidllm_ros.structures import GroundedBox


def make_box(center, size, rotvec=(0, 0, 0)):
    quat = Rotation.from_rotvec(rotvec).as_quat()
    return GroundedBox("chair", 0.5, np.array(center, float), np.array(size, float), quat)


def random_boxes(rng, count, spread=0.6):
    return [
        make_box(rng.normal(size=3) * spread, rng.uniform(0.4, 2, 3), rng.normal(size=3))
        for _ in range(count)
    ]


def test_pairs_are_the_plain_twins():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 300), random_boxes(rng, 300)
    want = [oriented_iou(x, y) for x, y in zip(a, b, strict=True)]
    assert sum(value > 0.05 for value in want) > 50
    np.testing.assert_allclose(oriented_iou_pairs(a, b), want, atol=1e-12)


def test_faces_that_touch_coincide_or_have_no_volume():
    turned = Rotation.from_rotvec((0.3, -1.2, 0.7))
    box = make_box([1, 2, 3], [1, 2, 3], turned.as_rotvec())
    along = turned.apply([1.0, 0, 0])

    def beside(step, size=(1, 2, 3)):
        return make_box(box.center + step * along, size, turned.as_rotvec())

    others = [
        box,
        beside(0.5),
        beside(1.0),
        beside(0, (0.5, 1, 1.5)),
        beside(0, (0, 2, 3)),
        beside(9),
    ]
    want = [1, 1 / 3, 0, 1 / 8, 0, 0]
    np.testing.assert_allclose(oriented_iou_pairs([box] * 6, others), want, atol=1e-7)
    np.testing.assert_allclose(oriented_iou_pairs(others, [box] * 6), want, atol=1e-7)


@pytest.mark.parametrize("step", [1e-13, 1e-11, 1e-9, 3e-9, 1e-8, 1e-6])
def test_nearly_equal_boxes_never_jump(step):
    rng = np.random.default_rng(2)
    a = random_boxes(rng, 40)
    b = [
        make_box(
            box.center + rng.normal(size=3) * step,
            np.asarray(box.size) + rng.normal(size=3) * step,
            Rotation.from_quat(box.quat_xyzw).as_rotvec() + rng.normal(size=3) * step,
        )
        for box in a
    ]
    np.testing.assert_allclose(oriented_iou_pairs(a, b), 1, atol=1e-6 + 60 * step)


def test_matrix_is_the_pairs():
    rng = np.random.default_rng(5)
    a, b = random_boxes(rng, 6, 2), random_boxes(rng, 4, 2)
    want = [[oriented_iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(oriented_iou_matrix(a, b), want, atol=1e-12)
    assert oriented_iou_matrix([], b).shape == (0, 4)


def test_bounds_are_those_of_each_box():
    boxes = random_boxes(np.random.default_rng(6), 5)
    np.testing.assert_allclose(aabbs_of(boxes), [aabb_of(box) for box in boxes])
    assert aabbs_of([]).shape == (0, 6)


def test_lists_of_unequal_length_are_refused():
    boxes = random_boxes(np.random.default_rng(7), 2)
    with pytest.raises(ValueError, match="boxes_b: expected 2 boxes"):
        oriented_iou_pairs(boxes, boxes[:1])
