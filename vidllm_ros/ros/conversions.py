# SPDX-License-Identifier: Apache-2.0
"""Camera and cloud messages to arrays and back; the only file that uses what ROS alone installs.

cv_bridge, tf_transformations and tf2 come with a ROS installation and not from
PyPI. Each is used where it imports, and has one named fallback with the same result, compared by
a test wherever both are there. Next: messages.py, for the messages that need none of them.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rclpy.time import Time as ClockTime
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from vidllm_ros.geometry.point_cloud import PointCloud
from vidllm_ros.geometry.transforms import make_transform, quat_xyzw_from_matrix
from vidllm_ros.ros.calibration import Calibration
from vidllm_ros.ros.message_bytes import POINT_WORDS, append_points
from vidllm_ros.ros.pixels import (
    ENCODINGS,
    RawImage,
    check_layout,
    decode_compressed,
    decode_depth,
    decode_rgb,
)
from vidllm_ros.ros.transform_tree import TransformLookupError, TransformTree


def _optional(name: str) -> ModuleType | None:
    """Import a module of a ROS installation; None where it is not there or not for this NumPy."""
    try:
        return importlib.import_module(name)
    except (ImportError, AttributeError):
        return None


def _working_cv_bridge() -> ModuleType | None:
    """Import cv_bridge and have it convert one pixel; None unless it can.

    It imports without its compiled part and fails at the first image only. Built for NumPy 1,
    that part does not load under NumPy 2 (vision_opencv#535): it counts as not there.
    """
    module = _optional("cv_bridge")
    if module is None:
        return None
    pixel = Image(height=1, width=1, encoding="bgr8", step=3, data=[1, 2, 3])
    try:
        rgb = module.CvBridge().imgmsg_to_cv2(pixel, "rgb8")
    except (ImportError, AttributeError, TypeError, RuntimeError):
        return None
    return module if np.array_equal(rgb, [[[3, 2, 1]]]) else None


cv_bridge = _working_cv_bridge()  # fallback: pixels.decode_rgb
tf_transformations = _optional("tf_transformations")  # fallback: quat_xyzw_from_matrix
tf2_py = _optional("tf2_py")  # fallback: transform_tree.TransformTree

_CV_BRIDGE_ENCODINGS = frozenset(
    f"{colour}{bits}" for colour in ("rgb", "bgr", "rgba", "bgra", "mono") for bits in (8, 16)
) | {"yuv422", "yuv422_yuy2", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"}
"""What cv_bridge turns into rgb8 as `decode_rgb` does; all else is decoded by `decode_rgb`."""


def _suits_cv_bridge(raw: RawImage) -> bool:
    """Say whether cv_bridge reads this image as `decode_rgb` does: packed rows, least byte first.

    Its Python part shears rows whose padding is no whole number of pixels, and calls
    ndarray.newbyteorder for the other byte order, which NumPy 2 no longer has.
    """
    if raw.encoding not in _CV_BRIDGE_ENCODINGS or raw.is_bigendian:
        return False
    kind = ENCODINGS[raw.encoding]
    return raw.step == raw.width * kind.channels * np.dtype(kind.dtype).itemsize


def optional_libraries() -> dict[str, bool]:
    """Say which libraries of a ROS installation are in use (False: the fallback is)."""
    return {
        "cv_bridge": cv_bridge is not None,
        "tf_transformations": tf_transformations is not None,
        "tf2": tf2_py is not None,
    }


def describe_libraries() -> str:
    """Say for each library of a ROS installation whether it or its fallback is in use."""
    uses = optional_libraries().items()
    return "; ".join(f"{name} {'in use' if there else 'replaced'}" for name, there in uses)


# Images


def _raw(msg: Image) -> RawImage:
    return RawImage(
        height=msg.height,
        width=msg.width,
        encoding=msg.encoding,
        step=msg.step,
        is_bigendian=bool(msg.is_bigendian),
        data=msg.data,
    )


def rgb_from_image(msg: Image) -> NDArray[np.uint8]:
    """Return the image as RGB, (H, W, 3), uint8.

    Raises:
        ValueError: empty, torn, or of an encoding that is not a colour or grey image.
    """
    raw = _raw(msg)
    if cv_bridge is None or not _suits_cv_bridge(raw):
        return decode_rgb(raw)
    check_layout(raw)
    try:
        return np.ascontiguousarray(cv_bridge.CvBridge().imgmsg_to_cv2(msg, "rgb8"), np.uint8)
    except (cv_bridge.CvBridgeError, TypeError) as error:
        raise ValueError(f"image: cv_bridge cannot read {raw.encoding!r}: {error}") from error


def rgb_from_compressed(msg: CompressedImage) -> NDArray[np.uint8]:
    """Return a compressed image as RGB, (H, W, 3), uint8.

    Raises:
        ValueError: empty, torn or not an image.
    """
    return decode_compressed(msg.format, msg.data)


def depth_from_image(msg: Image) -> NDArray[np.float32]:
    """Return a 32FC1 (m) or 16UC1 (mm) depth image in metres, NaN where unknown."""
    return decode_depth(_raw(msg))


def _image(head: Header, values: NDArray[Any], encoding: str) -> Image:
    height, width = values.shape[:2]
    contiguous = np.ascontiguousarray(values)
    step = contiguous.nbytes // height
    big = contiguous.dtype.byteorder == ">"
    msg = Image(
        header=head, height=height, width=width, encoding=encoding, is_bigendian=int(big),
        step=step,
    )  # fmt: skip
    msg.data.frombytes(contiguous.view(np.uint8).data)  # the constructor would copy it again
    return msg


def image_from_rgb(head: Header, rgb: NDArray[np.uint8]) -> Image:
    """Make an rgb8 image."""
    return _image(head, rgb, "rgb8")


def image_from_depth(
    head: Header, depth: NDArray[np.float32], valid: NDArray[np.bool_] | None = None
) -> Image:
    """Make a 32FC1 depth image in metres, NaN where not valid (REP 118)."""
    metres = depth.astype(np.float32)
    unknown = ~np.isfinite(metres) | (metres <= 0)
    metres[unknown if valid is None else unknown | ~valid] = np.nan
    return _image(head, metres, "32FC1")


# Camera info


def calibration_from_info(msg: CameraInfo) -> Calibration | None:
    """Return what the message says of the camera, or None where K[0] is 0: uncalibrated.

    Raises:
        ValueError: values that no camera has, or an unknown distortion model.
    """
    if msg.k[0] == 0:
        return None
    return Calibration(
        K=np.array(msg.k, float).reshape(3, 3),
        distortion=tuple(float(value) for value in msg.d),
        model=msg.distortion_model,
        width=int(msg.width),
        height=int(msg.height),
    )


def info_from_intrinsics(head: Header, K: ArrayLike, height: int, width: int) -> CameraInfo:
    """Make the CameraInfo of an undistorted image of this size."""
    matrix = np.asarray(K, float)
    projection = np.hstack([matrix, np.zeros((3, 1))])
    return CameraInfo(
        header=head, height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5,
        k=matrix.ravel(), r=np.eye(3).ravel(), p=projection.ravel(),
    )  # fmt: skip


# Clouds

_CLOUD_NAMES = ("x", "y", "z", "rgb", "confidence")
_POINT_STEP = 4 * POINT_WORDS
CLOUD_FIELDS = [
    PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
    for index, name in enumerate(_CLOUD_NAMES)
]
"""x y z in metres, rgb packed into a float's bits as PCL and RViz read it, confidence."""


def cloud_to_msg(head: Header, cloud: PointCloud) -> PointCloud2:
    """Make an unorganised PointCloud2 with x y z rgb confidence; PointCloud holds no NaN.

    Written into the message's own array: sensor_msgs_py and the constructor would copy each byte
    twice more, and assigning `bytes` makes rclpy check every one (common_interfaces#177).
    """
    count = len(cloud)
    msg = PointCloud2(
        header=head, height=1, width=count, fields=CLOUD_FIELDS, is_bigendian=False,
        point_step=_POINT_STEP, row_step=count * _POINT_STEP, is_dense=True,
    )  # fmt: skip
    append_points(msg.data, cloud)
    return msg


def cloud_from_msg(msg: PointCloud2) -> PointCloud:
    """Read back what `cloud_to_msg` wrote.

    Raises:
        ValueError: the cloud has other fields or is torn.
    """
    names = tuple(field.name for field in msg.fields)
    if names != _CLOUD_NAMES or msg.point_step != _POINT_STEP or msg.is_bigendian:
        raise ValueError(f"cloud: expected fields {_CLOUD_NAMES}, got {names}")
    count = msg.width * msg.height
    if len(msg.data) != count * _POINT_STEP:
        raise ValueError(f"cloud: expected {count * _POINT_STEP} bytes, got {len(msg.data)}")
    table = np.frombuffer(msg.data, np.float32).reshape(count, len(_CLOUD_NAMES))
    packed = table[:, 3].copy().view(np.uint32)
    rgb = np.stack([packed >> 16, packed >> 8, packed], axis=1).astype(np.uint8)
    return PointCloud(table[:, :3].copy(), rgb, table[:, 4].copy(), msg.header.frame_id)


# Rotations and transforms


def quats_xyzw_of(R: ArrayLike) -> NDArray[np.float64]:
    """Return the unit quaternions of rotations (n, 3, 3), x y z w, w >= 0, (n, 4)."""
    rotations = np.asarray(R, float)
    if tf_transformations is None:
        return np.asarray(quat_xyzw_from_matrix(rotations))
    transforms = [make_transform(rotation, np.zeros(3)) for rotation in rotations]
    quats = np.array([tf_transformations.quaternion_from_matrix(T) for T in transforms])
    quats = quats.reshape(-1, 4)
    return np.where(quats[:, 3:] < 0, -quats, quats)


class Tf2Tree:
    """The part of tf2's buffer that `TransformTree` has, with the same names and results."""

    def __init__(self) -> None:
        assert tf2_py is not None
        self._buffer = tf2_py.BufferCore()

    def add(self, msg: Any, is_static: bool) -> None:
        """Take a geometry_msgs/TransformStamped."""
        set_transform = (
            self._buffer.set_transform_static if is_static else self._buffer.set_transform
        )
        set_transform(msg, "vidllm")

    def lookup(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64]:
        """Return T_target_source (4, 4) at this time.

        Raises:
            TransformLookupError: tf does not know.
        """
        assert tf2_py is not None
        try:
            found = self._buffer.lookup_transform_core(
                target, source, ClockTime(nanoseconds=stamp_ns)
            )
        except tf2_py.TransformException as error:
            raise TransformLookupError(str(error)) from error
        return matrix_of_transform(found)


def matrix_of_transform(msg: Any) -> NDArray[np.float64]:
    """Return a geometry_msgs/TransformStamped as T_parent_child (4, 4)."""
    return TransformTree.matrix(msg)


def transform_buffer() -> Tf2Tree | TransformTree:
    """Build what answers where a frame was: tf2's buffer, else our tree."""
    return TransformTree() if tf2_py is None else Tf2Tree()
