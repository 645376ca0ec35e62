# SPDX-License-Identifier: Apache-2.0
"""The view shipped for RViz shows what the node publishes, as the node publishes it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS 2 here: `make test` brings it")
pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")

from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.qos import PROFILES
from vidllm_ros.ros.topics import OUTPUTS

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
VIEW = yaml.safe_load((ROOT / "config" / "vidllm.rviz").read_text())["Visualization Manager"]
SHOWN = {display["Topic"]["Value"]: display for display in VIEW["Displays"] if "Topic" in display}
PUBLISHED = {topic.name.replace("~", "/vidllm"): topic for topic in OUTPUTS}


def words(policy: Any) -> str:
    """Name a policy as RViz does: Transient Local."""
    return str(policy.name).replace("_", " ").title()


def test_cloud_path_markers_and_depth_are_shown() -> None:
    wanted = {"points", "path", "object_markers", "depth/image"}
    assert {f"/vidllm/{name}" for name in wanted} <= set(SHOWN)
    assert all(display["Enabled"] for display in SHOWN.values())
    assert VIEW["Global Options"]["Fixed Frame"] == NodeParameters().world_frame


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_published_so(name: str) -> None:
    display, topic = SHOWN[name], PUBLISHED[name]
    assert display["Class"] == f"rviz_default_plugins/{topic.type.__name__}"
    reliability, durability, depth = PROFILES[topic.qos]
    asked = display["Topic"]
    assert asked["Reliability Policy"].replace(" ", "") == words(reliability).replace(" ", "")
    assert asked["Durability Policy"] == words(durability)
    assert asked["Depth"] == depth


def test_launch_renames_every_topic_of_the_view() -> None:
    """Else a second robot's RViz would show the first one's cloud."""
    tree = ast.parse((ROOT / "launch" / "vidllm.launch.py").read_text())
    (renamed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RVIZ_TOPICS"
    )
    assert {f"/vidllm/{name}" for name in renamed} == {*SHOWN, "/vidllm/depth/camera_info"}
