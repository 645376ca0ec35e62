# SPDX-License-Identifier: Apache-2.0
"""Which topics are offered as a camera: what other nodes of ours make is none of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy")

from vidllm_ros.ros.camera_link import cameras_elsewhere

pytestmark = pytest.mark.ros
IMAGE = "sensor_msgs/msg/Image"
STATUS = "vidllm_ros/msg/WindowStatus"
GRAPH = {
    "/cam/image_raw": (IMAGE, [("/", "camera")]),
    "/left/vidllm_left/depth/image": (IMAGE, [("/left", "vidllm_left")]),
    "/left/vidllm_left/status": (STATUS, [("/left", "vidllm_left")]),
    "/right/image": (IMAGE, [("/right", "vidllm_left")]),  # a camera that is only named so
    "/vidllm/depth/image": (IMAGE, [("/", "vidllm")]),
    "/shared": (IMAGE, [("/left", "vidllm_left"), ("/", "camera")]),
}


class Graph:
    """The part of a node that sees the graph."""

    def get_name(self) -> str:
        return "vidllm_front"

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return [(name, [kind]) for name, (kind, _) in GRAPH.items()]

    def get_publishers_info_by_topic(self, topic: str) -> list[Any]:
        return [
            SimpleNamespace(node_namespace=space, node_name=name)
            for space, name in GRAPH[topic][1]
        ]


def test_another_robots_renamed_node_is_no_camera() -> None:
    graph: Any = Graph()
    assert cameras_elsewhere(graph, IMAGE, "/image") == (
        "/cam/image_raw", "/right/image", "/shared",
    )  # fmt: skip
    assert cameras_elsewhere(graph, IMAGE, "/cam/image_raw") == ("/right/image", "/shared")
