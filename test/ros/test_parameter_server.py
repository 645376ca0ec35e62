# SPDX-License-Identifier: Apache-2.0
"""A name that nobody declared is said at configure, with the one it may stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")

from lifecycle_msgs.msg import Transition

from vidllm_ros.ros.parameter_server import unknown_parameter
from vidllm_ros.ros.parameters import defaults

pytestmark = pytest.mark.ros
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
NOT_KNOWN = "not known to this node, ignored"


def complaints(harness: Any) -> list[str]:
    return [line for line in harness.said() if NOT_KNOWN in line]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("window", "did you mean window_size?"),
        ("Window_Size", "did you mean window_size?"),
        ("windowsize", "did you mean window_size?"),
        ("stride", "did you mean window_stride?"),
        ("min_frames", "did you mean window_min_frames?"),
        ("voxel", "did you mean voxel_m?"),
        ("worldframe", "did you mean world_frame?"),
        ("image_topic", "did you mean image_transport?"),
        ("zoom", "ros2 param list /robot1/vidllm names them"),
    ],
)
def test_the_nearest_name_is_offered(name: str, fix: str) -> None:
    line = unknown_parameter(name, defaults(), "/robot1/vidllm")
    assert line == f"parameter {name!r}: {NOT_KNOWN}; {fix}"


def test_names_on_the_command_line_and_in_a_file(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("/**:\n  ros__parameters:\n    voxel: 0.1\n    min_gap_s: 0.0\n")
    words = ["--ros-args", "-p", "window:=8", "--params-file", str(file)]
    harness = start(arguments=words)
    harness.wait_active()  # it is a warning, no failure
    assert complaints(harness) == [
        f"configure: parameter 'voxel': {NOT_KNOWN}; did you mean voxel_m?",
        f"configure: parameter 'window': {NOT_KNOWN}; did you mean window_size?",
    ]
    assert harness.get_parameter("min_gap_s") == 0.0


def test_it_is_said_at_each_configure_also_where_that_fails(start: Callable[..., Any]) -> None:
    harness = start(autostart=False, window=8, voxel_m=-1.0)
    assert complaints(harness) == []
    assert not harness.change(CONFIGURE)
    assert len(complaints(harness)) == 1
    assert harness.set_parameter("voxel_m", 0.1).successful
    assert harness.change(CONFIGURE)
    assert len(complaints(harness)) == 2


def test_names_that_only_begin_as_those_of_ros_are_said(start: Callable[..., Any]) -> None:
    harness = start(use_sim_times=True, qos_overrides=1)
    harness.wait_active()
    lines = complaints(harness)
    assert len(lines) == 2
    assert lines[0].startswith(f"configure: parameter 'qos_overrides': {NOT_KNOWN}; ")
    assert lines[1] == (
        f"configure: parameter 'use_sim_times': {NOT_KNOWN}; did you mean use_sim_time?"
    )


def test_names_of_ros_itself_are_left_alone(start: Callable[..., Any]) -> None:
    names = {
        "use_sim_time": True,
        "start_type_description_service": False,
        "qos_overrides./image.subscription.reliability": "reliable",
        "qos_overrides./vidllm/points.publisher.depth": 2,
    }
    harness = start(**names)
    harness.wait_active()
    assert complaints(harness) == []
    assert harness.change(Transition.TRANSITION_DEACTIVATE)
    assert harness.change(CLEANUP)
    assert harness.change(CONFIGURE)
    assert complaints(harness) == []
