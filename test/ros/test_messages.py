# SPDX-License-Identifier: Apache-2.0
"""Boxes, poses and markers keep their numbers, stamps and frames."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")

from visualization_msgs.msg import Marker

from vidllm_ros.geometry.transforms import make_transform, matrix_from_quat_xyzw
from vidllm_ros.ros import messages
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.structures import GroundedBox

pytestmark = pytest.mark.ros
STAMP = 1_700_000_000_123_456_789
QUAT = np.array([0.1, 0.2, 0.3, np.sqrt(1 - 0.14)])
BOX = GroundedBox("sofa", 0.75, np.array([1.0, 2, 3]), np.array([2.0, 1, 0.5]), QUAT, "o7", STAMP)


def test_box_round_trip() -> None:
    back = messages.box_from_object(messages.object_from_box(BOX))
    assert (back.label, back.score, back.object_id) == ("sofa", 0.75, "o7")
    assert back.last_seen_ns == STAMP
    for name in ("center", "size", "quat_xyzw"):
        np.testing.assert_array_equal(getattr(back, name), getattr(BOX, name))


def test_object_array_has_stamp_and_frame() -> None:
    array = messages.object_array(STAMP, "world", [BOX, BOX])
    assert (stamp_to_ns(array.header.stamp), array.header.frame_id) == (STAMP, "world")
    assert [item.id for item in array.objects] == ["o7", "o7"]


def test_pose_round_trip() -> None:
    T = make_transform(matrix_from_quat_xyzw(QUAT), [4, 5, 6])
    stamped = messages.pose_stamped(STAMP, "world", T)
    np.testing.assert_allclose(messages.matrix_from_pose(stamped.pose), T, atol=1e-12)
    transform = messages.transform_stamped(STAMP, "world", "camera", T)
    assert (transform.header.frame_id, transform.child_frame_id) == ("world", "camera")
    assert transform.transform.translation.z == 6
    assert transform.transform.rotation == stamped.pose.orientation


def test_markers_delete_the_last_drawing_first() -> None:
    drawn = messages.object_markers(STAMP, "world", [BOX, BOX]).markers
    assert [m.action for m in drawn] == [Marker.DELETEALL] + [Marker.ADD] * 4
    cube, text = drawn[1], drawn[2]
    assert (cube.type, text.type) == (Marker.CUBE, Marker.TEXT_VIEW_FACING)
    assert (cube.scale.x, cube.scale.y, cube.scale.z) == (2.0, 1.0, 0.5)
    assert text.text == "sofa 0.75"
    assert text.pose.position.z > 3.25
    assert len({(m.ns, m.id) for m in drawn[1:]}) == 4
    assert {m.header.frame_id for m in drawn} == {"world"}


def test_each_box_is_drawn_as_itself() -> None:
    other = GroundedBox("bed", 0.5, np.array([-1.0, 0, 1]), np.array([0.5, 1.5, 1]), QUAT[::-1])
    drawn = messages.object_markers(STAMP, "world", [BOX, other]).markers[1:]
    for box, cube, text in zip((BOX, other), drawn[::2], drawn[1::2], strict=True):
        p, s, q = cube.pose.position, cube.scale, cube.pose.orientation
        np.testing.assert_allclose([p.x, p.y, p.z, s.x, s.y, s.z], [*box.center, *box.size])
        np.testing.assert_allclose([q.x, q.y, q.z, q.w], box.quat_xyzw)
        np.testing.assert_allclose(
            [cube.color.r, cube.color.g, cube.color.b], messages.colour_of(box.label), atol=1e-6
        )
        assert text.text == f"{box.label} {box.score:.2f}"
        np.testing.assert_allclose([text.pose.position.x, text.pose.position.y], box.center[:2])


def test_poses_keep_their_order_and_other_shapes_are_refused() -> None:
    T = np.stack([make_transform(matrix_from_quat_xyzw(QUAT), [i, 2 * i, 3]) for i in range(3)])
    poses = messages.pose_array(STAMP, "world", T).poses
    for pose, matrix in zip(poses, T, strict=True):
        np.testing.assert_allclose(messages.matrix_from_pose(pose), matrix, atol=1e-12)
    assert messages.poses_from_matrices(T[:0]) == []
    for wrong in (T[0], T[:, :3]):
        with pytest.raises(ValueError, match="T: expected shape"):
            messages.poses_from_matrices(wrong)
    with pytest.raises(ValueError, match="T: expected shape"):
        messages.pose_from_matrix(T)


def test_a_label_keeps_its_colour() -> None:
    assert messages.colour_of("sofa") == messages.colour_of("sofa") != messages.colour_of("bed")
