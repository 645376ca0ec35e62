# SPDX-License-Identifier: Apache-2.0
"""What `vidllm doctor` hears of a camera_info is what the node would make of it."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import CameraInfo

from vidllm_ros.cli.doctor_camera import judge
from vidllm_ros.cli.doctor_findings import Finding
from vidllm_ros.ros.inspect import Camera

pytestmark = pytest.mark.ros
PINHOLE = [500.0, 0, 320, 0, 500, 240, 0, 0, 1]
PLACEHOLDER = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]


def finding_of(k: list[float]) -> Finding:
    """Say what doctor finds of a camera_info with these intrinsics."""
    camera = Camera.__new__(Camera)  # no node: only what one message leaves behind
    camera._take_info(CameraInfo(width=640, height=480, k=k))
    heard = {
        "topic": "/image", "wanted_type": "x", "seconds": 1.0, "publishers": [], "elsewhere": [],
        "frames": 1, "rate_hz": 10.0, "ask_services": [], "parent": "base", "transforms": 1,
        "frame": {
            "width": 640, "height": 480, "frame_id": "", "problem": "", "age_s": 0.0,
            "encoding": "rgb8",
        },
        "camera_info": camera._info,
    }  # fmt: skip
    return next(finding for finding in judge(heard) if finding.what == "camera_info")


def test_doctor_warns_of_a_placeholder() -> None:
    assert finding_of(PINHOLE).level.value == "ok"
    found = finding_of(PLACEHOLDER)
    assert found.level.value == "warn"
    assert "no camera has such a field of view" in found.words
    assert "cameracalibrator" in found.fix
