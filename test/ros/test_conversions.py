# SPDX-License-Identifier: Apache-2.0
"""Messages round trip; where a library of a ROS installation is there, it equals its fallback."""

from __future__ import annotations

import array
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from vidllm_ros.geometry.point_cloud import PointCloud
from vidllm_ros.geometry.transforms import make_transform, matrix_from_quat_xyzw
from vidllm_ros.ros import conversions, pixels, stamps
from vidllm_ros.ros.messages import transform_stamped
from vidllm_ros.ros.transform_tree import TransformTree

pytestmark = pytest.mark.ros
RNG = np.random.default_rng(0)
STAMP = 1_700_000_000_123_456_789  # a float of seconds could not hold it
HEAD = stamps.header(STAMP, "camera_optical_frame")


def cloud_of(count: int) -> PointCloud:
    return PointCloud(
        RNG.normal(size=(count, 3)).astype(np.float32),
        RNG.integers(0, 256, (count, 3), np.uint8),
        RNG.random(count, np.float32),
        "world",
    )


def test_stamps_stay_integers() -> None:
    assert stamps.stamp_to_ns(stamps.ns_to_stamp(STAMP)) == STAMP
    assert HEAD.stamp.nanosec == 123_456_789


def test_image_round_trip() -> None:
    rgb = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    msg = conversions.image_from_rgb(HEAD, rgb[:, ::-1])  # not contiguous
    assert (msg.height, msg.width, msg.step, msg.encoding) == (5, 7, 21, "rgb8")
    np.testing.assert_array_equal(conversions.rgb_from_image(msg), rgb[:, ::-1])


def test_depth_is_nan_where_unknown() -> None:
    depth = np.array([[1.0, 2.0, -1.0], [np.inf, 5.0, 0.0]], np.float32)
    valid = np.array([[True, False, True], [True, True, True]])
    msg = conversions.image_from_depth(HEAD, depth, valid)
    assert (msg.encoding, msg.header.frame_id) == ("32FC1", "camera_optical_frame")
    back = np.frombuffer(msg.data, np.float32).reshape(2, 3)
    np.testing.assert_array_equal(back, [[1.0, np.nan, np.nan], [np.nan, 5.0, np.nan]])
    assert depth[0, 1] == 2.0  # the caller's array is not written to


def test_camera_info_round_trip() -> None:
    K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    msg = conversions.info_from_intrinsics(HEAD, K, 480, 640)
    found = conversions.calibration_from_info(msg)
    assert found is not None
    np.testing.assert_array_equal(found.K, K)
    assert (found.width, found.height, found.is_distorted) == (640, 480, False)
    np.testing.assert_array_equal(np.reshape(msg.p, (3, 4))[:, :3], K)
    assert conversions.calibration_from_info(CameraInfo()) is None


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_cloud_round_trip(count: int) -> None:
    cloud = cloud_of(count)
    msg = conversions.cloud_to_msg(stamps.header(STAMP, "world"), cloud)
    assert [f.name for f in msg.fields] == ["x", "y", "z", "rgb", "confidence"]
    assert (msg.point_step, msg.row_step, msg.height) == (20, 20 * count, 1)
    back = conversions.cloud_from_msg(msg)
    np.testing.assert_array_equal(back.points, cloud.points)
    np.testing.assert_array_equal(back.rgb, cloud.rgb)
    np.testing.assert_array_equal(back.confidence, cloud.confidence)
    assert back.frame == "world"


def test_rgb_is_packed_as_pcl_reads_it() -> None:
    colour = np.array([[1, 2, 3]], np.uint8)
    cloud = PointCloud(np.zeros((1, 3), np.float32), colour, np.ones(1, np.float32))
    msg = conversions.cloud_to_msg(HEAD, cloud)
    assert int.from_bytes(bytes(msg.data[12:16]), "little") == (1 << 16) | (2 << 8) | 3


def test_a_torn_cloud_is_refused() -> None:
    msg = conversions.cloud_to_msg(HEAD, cloud_of(3))
    msg.data = msg.data[:-1]
    with pytest.raises(ValueError, match="expected 60 bytes, got 59"):
        conversions.cloud_from_msg(msg)
    with pytest.raises(ValueError, match="expected fields"):
        conversions.cloud_from_msg(PointCloud2())


def test_a_large_cloud_is_not_checked_byte_by_byte() -> None:
    cloud = cloud_of(200_000)
    started = time.perf_counter()
    msg = conversions.cloud_to_msg(HEAD, cloud)
    assert time.perf_counter() - started < 0.5  # assigning bytes takes tens of seconds
    assert isinstance(msg.data, array.array)


def test_transform_buffer_answers_between_stamps() -> None:
    buffer = conversions.transform_buffer()
    for stamp_ns, x in ((1_000_000_000, 0.0), (2_000_000_000, 1.0)):
        T = make_transform(np.eye(3), [x, 0, 0])
        buffer.add(transform_stamped(stamp_ns, "map", "camera", T), False)
    T_map_camera = buffer.lookup("map", "camera", 1_250_000_000)
    np.testing.assert_allclose(T_map_camera[:3, 3], [0.25, 0, 0], atol=1e-9)


# Each library against its fallback; these run where a ROS installation is sourced.


def random_rotation() -> np.ndarray:
    return np.asarray(matrix_from_quat_xyzw(RNG.normal(size=4)))


def needs(name: str) -> None:
    if not conversions.optional_libraries()[name]:
        pytest.skip(f"{name} is not installed here: only its fallback runs")


def noise(encoding: str, big: bool, pad: int) -> Image:
    kind = pixels.ENCODINGS[encoding]
    step = 8 * kind.channels * np.dtype(kind.dtype).itemsize + pad
    data = array.array("B", RNG.integers(0, 256, 6 * step, np.uint8).tobytes())
    return Image(
        header=HEAD, height=6, width=8, encoding=encoding, is_bigendian=big, step=step, data=data
    )


@pytest.mark.parametrize(("big", "pad"), [(False, 0), (True, 0), (False, 5), (False, 24)])
@pytest.mark.parametrize("encoding", sorted(conversions._CV_BRIDGE_ENCODINGS))
def test_cv_bridge_equals_its_fallback(encoding: str, big: bool, pad: int) -> None:
    needs("cv_bridge")
    msg = noise(encoding, big, pad)
    ours = pixels.decode_rgb(conversions._raw(msg))
    np.testing.assert_allclose(conversions.rgb_from_image(msg).astype(int), ours, atol=1)


class FakeBridge:
    """Stands for the module cv_bridge and its class; `outcome` is raised or returned."""

    CvBridgeError = TypeError

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome

    def CvBridge(self) -> FakeBridge:
        return self

    def imgmsg_to_cv2(self, msg: Image, encoding: str) -> object:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


FAULTS = [
    ImportError("no compiled part"),
    AttributeError("_ARRAY_API"),
    TypeError(),
    [[[1, 2, 3]]],
]


@pytest.mark.parametrize("outcome", FAULTS, ids=repr)
def test_cv_bridge_that_cannot_convert_counts_as_not_there(outcome, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", FakeBridge(outcome))
    assert conversions._working_cv_bridge() is None


def test_cv_bridge_that_converts_is_used_for_packed_images_only(monkeypatch) -> None:
    answer = np.array([[[3, 2, 1]]], np.uint8)
    monkeypatch.setitem(sys.modules, "cv_bridge", FakeBridge(answer))
    monkeypatch.setattr(conversions, "cv_bridge", conversions._working_cv_bridge())
    assert conversions.optional_libraries()["cv_bridge"]
    np.testing.assert_array_equal(conversions.rgb_from_image(noise("bgr8", False, 0)), answer)
    for encoding, big, pad in (("bgr8", False, 5), ("mono16", True, 0), ("8UC3", False, 0)):
        msg = noise(encoding, big, pad)
        ours = pixels.decode_rgb(conversions._raw(msg))
        np.testing.assert_array_equal(conversions.rgb_from_image(msg), ours)


def test_sensor_msgs_py_makes_the_same_cloud() -> None:
    library = pytest.importorskip("sensor_msgs_py.point_cloud2")
    cloud = cloud_of(50)
    ours = conversions.cloud_to_msg(HEAD, cloud)
    columns = np.dtype([(field.name, np.float32) for field in ours.fields])
    rows = np.frombuffer(ours.data.tobytes(), columns)
    theirs = library.create_cloud(HEAD, conversions.CLOUD_FIELDS, rows)
    theirs.is_dense = True
    assert theirs == ours


@pytest.mark.parametrize("checks", ["0", "1"])
def test_messages_do_not_copy_what_was_written(checks: str, monkeypatch) -> None:
    """Both kinds of generated messages hand out the array they will publish."""
    monkeypatch.setattr("sensor_msgs.msg._point_cloud2.ros_python_check_fields", checks)
    cloud = cloud_of(3)
    msg = conversions.cloud_to_msg(HEAD, cloud)
    assert msg.data is msg._data
    np.testing.assert_array_equal(conversions.cloud_from_msg(msg).points, cloud.points)


def test_tf_transformations_equals_its_fallback() -> None:
    needs("tf_transformations")
    for _ in range(50):
        R = random_rotation()
        ours = conversions.quat_xyzw_from_matrix(R)
        np.testing.assert_allclose(conversions.quat_xyzw_of(R), ours, atol=1e-9)


def test_tf2_equals_its_fallback() -> None:
    needs("tf2")
    trees = [conversions.Tf2Tree(), TransformTree()]
    for child, parent in (("a", "map"), ("b", "a"), ("c", "map")):
        for second in range(1, 5):
            T = make_transform(random_rotation(), RNG.normal(size=3))
            msg: TransformStamped = transform_stamped(second * 10**9, parent, child, T)
            for tree in trees:
                tree.add(msg, False)
    for target, source in (("map", "b"), ("c", "b"), ("b", "map")):
        theirs, ours = (tree.lookup(target, source, 2_345_678_901) for tree in trees)
        np.testing.assert_allclose(theirs, ours, atol=1e-6)
