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


@dataclass(frozen=True)
class Topic:
    """One topic; `qos` names a profile of qos.py."""

    name: str
    type: Any
    qos: str


@dataclass(frozen=True)
class Service:
    """One service."""

    name: str
    type: Any


IMAGE = Topic("image", Image, "sensor")
COMPRESSED = Topic("image/compressed", CompressedImage, "sensor")
CAMERA_INFO = Topic("camera_info", CameraInfo, "sensor")
DEPTH_IN = Topic("depth", Image, "sensor")
TF_IN = Topic("/tf", TFMessage, "tf")
TF_STATIC_IN = Topic("/tf_static", TFMessage, "tf_static")
INPUTS = (IMAGE, COMPRESSED, CAMERA_INFO, DEPTH_IN, TF_IN, TF_STATIC_IN)

POINTS = Topic("~/points", PointCloud2, "reliable")
POSE = Topic("~/pose", PoseStamped, "reliable")
PATH = Topic("~/path", Path, "reliable")
WINDOW_POSES = Topic("~/window_poses", PoseArray, "reliable")
DEPTH = Topic("~/depth/image", Image, "reliable")
DEPTH_INFO = Topic("~/depth/camera_info", CameraInfo, "reliable")
OBJECTS = Topic("~/objects", GroundedObjectArray, "reliable")
MARKERS = Topic("~/object_markers", MarkerArray, "reliable")
STATUS = Topic("~/status", WindowStatus, "latched")
DIAGNOSTICS = Topic("/diagnostics", DiagnosticArray, "reliable")
TF = Topic("/tf", TFMessage, "tf")
RESULTS = (POINTS, POSE, PATH, WINDOW_POSES, DEPTH, DEPTH_INFO, OBJECTS, MARKERS, STATUS)
OUTPUTS = (*RESULTS, DIAGNOSTICS, TF)

ASK = Service("ask", Ask)
RESET = Service("~/reset", Trigger)
PAUSE = Service("~/pause", SetBool)
SAVE_MAP = Service("~/save_map", SaveMap)
SERVICES = (ASK, RESET, PAUSE, SAVE_MAP)
