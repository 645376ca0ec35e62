# SPDX-License-Identifier: Apache-2.0
"""The node's topics and services, once: name, type, quality of service.

Names are relative or begin with ~, so that namespaces and remapping work; nothing builds a name by
hand. docs/ros_interface.md shows this table and a test compares the two. Next: publishers.py and
inputs.py, which open them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped
from nav_msgs.msg import Path
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from vidllm_ros.msg import GroundedObjectArray, WindowStatus
from vidllm_ros.srv import Ask, SaveMap

NODE_NAME = "vidllm"


@dataclass(frozen=True)
class Topic:
    """One topic; `qos` names a profile of qos.py."""

    name: str
    type: Any
    qos: str
    note: str


@dataclass(frozen=True)
class Service:
    """One service."""

    name: str
    type: Any
    note: str


def type_name(interface: Any) -> str:
    """Name a message or service type as `ros2 topic list -t` does."""
    package, folder = interface.__module__.split(".")[:2]
    return f"{package}/{folder}/{interface.__name__}"


IMAGE = Topic(
    "image", Image, "sensor",
    "the camera; rgb8 bgr8 rgba8 bgra8 mono8 and their 16-bit kin, 8UC1 8UC3 8UC4, yuv422 uyvy "
    "yuv422_yuy2 yuyv, bayer_*8 bayer_*16; any step, either byte order",
)  # fmt: skip
COMPRESSED = Topic(
    "image/compressed", CompressedImage, "sensor",
    "JPEG or PNG; instead of `image` with `image_transport: compressed`",
)  # fmt: skip
CAMERA_INFO = Topic(
    "camera_info", CameraInfo, "sensor",
    "optional: intrinsics, and rectification where D is not zero; K[0] = 0 (uncalibrated) and a K "
    "with a field of view that no camera has are ignored with one warning",
)  # fmt: skip
DEPTH_IN = Topic(
    "depth", Image, "sensor",
    "optional: 32FC1 m or 16UC1 mm, registered to `image` (any size) with its stamps; only "
    "checks the scale, see /diagnostics",
)  # fmt: skip
TF_IN = Topic("/tf", TFMessage, "tf", "only with `publish_tf` or `place_by_tf`")
TF_STATIC_IN = Topic(
    "/tf_static", TFMessage, "tf_static", "only with `publish_tf` or `place_by_tf`"
)
INPUTS = (IMAGE, COMPRESSED, CAMERA_INFO, DEPTH_IN, TF_IN, TF_STATIC_IN)

POINTS = Topic(
    "~/points", PointCloud2, "reliable",
    "this window, voxel-thinned: x y z (m, `world_frame`), rgb, confidence",
)  # fmt: skip
POSE = Topic("~/pose", PoseStamped, "reliable", "newest camera (optical frame) in `world_frame`")
PATH = Topic(
    "~/path", Path, "reliable", "all cameras of this world, at most `max_path_poses`, the newest"
)  # fmt: skip
WINDOW_POSES = Topic(
    "~/window_poses", PoseArray, "reliable", "cameras of this window, in the order of its frames"
)
DEPTH = Topic(
    "~/depth/image", Image, "reliable",
    "newest frame: 32FC1, m along the optical axis, NaN where unknown; in the camera's frame",
)  # fmt: skip
DEPTH_INFO = Topic(
    "~/depth/camera_info", CameraInfo, "reliable", "intrinsics of `~/depth/image`, of its size"
)
OBJECTS = Topic(
    "~/objects", GroundedObjectArray, "reliable",
    "every object known in this world, see `score_threshold` and `object_min_windows`: "
    "metric oriented box, label, score, lasting id",
)  # fmt: skip
MARKERS = Topic("~/object_markers", MarkerArray, "reliable", "the same for RViz; DELETEALL first")
STATUS = Topic(
    "~/status", WindowStatus, "latched", "frames used, scale and its spread, timings, drops"
)
DIAGNOSTICS = Topic(
    "/diagnostics", DiagnosticArray, "reliable",
    "once a second, in every state: input, inference, memory, in words",
)  # fmt: skip
TF = Topic(
    "/tf", TFMessage, "tf",
    "only with `publish_tf`: `world_frame` -> camera, unless that frame has a parent",
)  # fmt: skip
RESULTS = (POINTS, POSE, PATH, WINDOW_POSES, DEPTH, DEPTH_INFO, OBJECTS, MARKERS, STATUS)
OUTPUTS = (*RESULTS, DIAGNOSTICS, TF)

ASK = Service("ask", Ask, "a question about what the camera has seen; always replies")
RESET = Service("~/reset", Trigger, "forget map, objects and frames; a new world begins")
PAUSE = Service(
    "~/pause", SetBool,
    "true: ignore frames; questions are still answered; false: go on in the same world",
)  # fmt: skip
SAVE_MAP = Service("~/save_map", SaveMap, "write the fused cloud (.ply) and the objects (.json)")
SERVICES = (ASK, RESET, PAUSE, SAVE_MAP)
