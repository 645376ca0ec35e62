# SPDX-License-Identifier: Apache-2.0
"""Results to messages: poses, paths, objects, markers, transforms; every stamp is the frames' own.

Pure builders without a node: the caller gives stamps in nanoseconds and the frame. Lists of
objects keep their order. Next: publishers.py, which decides what goes out when.
"""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Iterable, Sequence
from copy import copy

import numpy as np
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseArray,
    PoseStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Vector3,
)
from nav_msgs.msg import Path
from numpy.typing import ArrayLike, NDArray
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from vidllm_ros.geometry.transforms import make_transform, matrix_from_quat_xyzw
from vidllm_ros.msg import GroundedObject, GroundedObjectArray
from vidllm_ros.ros.conversions import quats_xyzw_of
from vidllm_ros.ros.stamps import header, ns_to_stamp, stamp_to_ns
from vidllm_ros.structures import GroundedBox, check_shape

_TEXT_HEIGHT_M = 0.12


def _floats(values: ArrayLike) -> list[float]:
    floats: list[float] = np.asarray(values, float).ravel().tolist()
    return floats


def _pose(center: ArrayLike, quat_xyzw: ArrayLike) -> Pose:
    x, y, z = _floats(center)
    qx, qy, qz, qw = _floats(quat_xyzw)
    return Pose(
        position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw)
    )  # fmt: skip


def poses_from_matrices(T: ArrayLike) -> list[Pose]:
    """Make the poses of b in a from T_a_b (n, 4, 4).

    Raises:
        ValueError: the shape differs.
    """
    matrices = np.asarray(T, float)
    check_shape("T", matrices, (None, 4, 4))
    quats = quats_xyzw_of(matrices[:, :3, :3])
    return [_pose(t, quat) for t, quat in zip(matrices[:, :3, 3], quats, strict=True)]


def pose_from_matrix(T: ArrayLike) -> Pose:
    """Make the pose of b in a from T_a_b (4, 4)."""
    return poses_from_matrices(np.asarray(T, float)[None])[0]


def matrix_from_pose(pose: Pose) -> NDArray[np.float64]:
    """Return T_a_b (4, 4) of the pose of b in a."""
    p, q = pose.position, pose.orientation
    return np.asarray(make_transform(matrix_from_quat_xyzw([q.x, q.y, q.z, q.w]), [p.x, p.y, p.z]))


def pose_stamped(stamp_ns: int, frame: str, T: ArrayLike) -> PoseStamped:
    return PoseStamped(header=header(stamp_ns, frame), pose=pose_from_matrix(T))


def pose_array(stamp_ns: int, frame: str, poses: ArrayLike) -> PoseArray:
    """Poses from T_frame_b (n, 4, 4)."""
    return PoseArray(header=header(stamp_ns, frame), poses=poses_from_matrices(poses))


def path(stamp_ns: int, frame: str, poses: Sequence[PoseStamped]) -> Path:
    return Path(header=header(stamp_ns, frame), poses=list(poses))


def transform_stamped(
    stamp_ns: int, parent: str, child: str, T_parent_child: ArrayLike
) -> TransformStamped:
    pose = pose_from_matrix(T_parent_child)
    translation = Vector3(x=pose.position.x, y=pose.position.y, z=pose.position.z)
    return TransformStamped(
        header=header(stamp_ns, parent),
        child_frame_id=child,
        transform=Transform(translation=translation, rotation=pose.orientation),
    )


def _vector(values: ArrayLike) -> Vector3:
    x, y, z = _floats(values)
    return Vector3(x=x, y=y, z=z)


def object_from_box(box: GroundedBox) -> GroundedObject:
    return GroundedObject(
        id=box.object_id,
        label=box.label,
        score=float(box.score),
        pose=_pose(box.center, box.quat_xyzw),
        size=_vector(box.size),
        last_seen=ns_to_stamp(box.last_seen_ns),
    )


def box_from_object(msg: GroundedObject) -> GroundedBox:
    """Read back what `object_from_box` wrote."""
    p, q, s = msg.pose.position, msg.pose.orientation, msg.size
    return GroundedBox(
        label=msg.label,
        score=float(msg.score),
        center=np.array([p.x, p.y, p.z]),
        size=np.array([s.x, s.y, s.z]),
        quat_xyzw=np.array([q.x, q.y, q.z, q.w]),
        object_id=msg.id,
        last_seen_ns=stamp_to_ns(msg.last_seen),
    )


def object_array(stamp_ns: int, frame: str, boxes: Iterable[GroundedBox]) -> GroundedObjectArray:
    return GroundedObjectArray(
        header=header(stamp_ns, frame), objects=[object_from_box(box) for box in boxes]
    )


def colour_of(label: str) -> tuple[float, float, float]:
    """Give every label one lasting, saturated colour."""
    hue = zlib.crc32(label.encode()) % 360 / 360
    return colorsys.hsv_to_rgb(hue, 0.75, 0.95)


def object_markers(stamp_ns: int, frame: str, boxes: Sequence[GroundedBox]) -> MarkerArray:
    """Draw each box as a translucent cube with its name above, after deleting the last drawing."""
    head = header(stamp_ns, frame)
    markers = [Marker(header=head, action=Marker.DELETEALL)]
    # A marker's constructor makes a dozen empty parts; copies share those: nobody writes there.
    of_cube = Marker(header=head, ns="objects", type=Marker.CUBE, action=Marker.ADD)
    of_text = Marker(
        header=head, ns="labels", type=Marker.TEXT_VIEW_FACING, action=Marker.ADD,
        scale=Vector3(z=_TEXT_HEIGHT_M), color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
    )  # fmt: skip
    for index, box in enumerate(boxes):
        red, green, blue = colour_of(box.label)
        cube, text = copy(of_cube), copy(of_text)
        cube.id = text.id = index
        cube.pose = _pose(box.center, box.quat_xyzw)
        cube.scale = _vector(np.maximum(box.size, 1e-3))
        cube.color = ColorRGBA(r=red, g=green, b=blue, a=0.35)
        # The half diagonal clears the box whatever way it is turned.
        x, y, z = _floats(box.center)
        above = float(np.linalg.norm(box.size)) / 2 + _TEXT_HEIGHT_M
        text.pose = Pose(position=Point(x=x, y=y, z=z + above))
        text.text = f"{box.label} {box.score:.2f}"
        markers += [cube, text]
    return MarkerArray(markers=markers)
