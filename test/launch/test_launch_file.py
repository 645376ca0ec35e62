# SPDX-License-Identifier: Apache-2.0
"""What the launch file declares and what it makes of its arguments; needs no `launch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vidllm_ros.ros.parameters import defaults

Start = Callable[..., list[SimpleNamespace]]
PROMISED = {
    *("namespace", "params_file", "backend", "model", "device", "image", "camera_info"),
    *("image_transport", "use_sim_time", "autostart", "rviz", "log_level", "dds_profile"),
}


def test_promised_arguments_are_declared_and_described(arguments: dict[str, Any]) -> None:
    assert set(arguments) == PROMISED
    for name, argument in arguments.items():
        assert len(argument.description) > 20, name
        assert argument.description.endswith("."), name


def test_no_default_of_a_parameter_stands_here(arguments: dict[str, Any]) -> None:
    for name in set(arguments) & {*defaults(), "use_sim_time"}:
        assert arguments[name].default_value == "", name


def test_closed_choices_take_the_empty_default(arguments: dict[str, Any]) -> None:
    assert arguments["image_transport"].choices == ["", "raw", "compressed"]
    assert "vggt_llava3d" in arguments["backend"].choices
    assert arguments["autostart"].choices == ["", "true", "false"]
    assert arguments["model"].choices is None


def test_without_arguments_the_yaml_alone_decides(start: Start, launch_file: ModuleType) -> None:
    node, _ = start()
    assert node.parameters == [str(launch_file.SHARE / "config" / "vidllm.yaml")]
    assert node.remappings == []
    assert (node.package, node.executable, node.name) == ("vidllm_ros", "vidllm_node", "vidllm")
    assert node.ros_arguments == ["--log-level", "info"]


def test_given_parameters_follow_the_yaml_with_their_types(start: Start, tmp_path: Path) -> None:
    params_file = str(tmp_path / "a.yaml")
    node, _ = start(
        params_file=params_file, model="/w", device="cpu", autostart="false", use_sim_time="true"
    )
    overrides = {"model": "/w", "device": "cpu", "autostart": False, "use_sim_time": True}
    assert node.parameters == [params_file, overrides]


def test_a_missing_file_of_parameters_is_refused(start: Start) -> None:
    with pytest.raises(FileNotFoundError, match="params_file: expected a YAML file, got /none"):
        start(params_file="/none.yaml")


def test_rviz_without_its_package_is_refused_before_the_node_starts(
    start: Start, launch_file: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="rviz: expected the package rviz2"):
        start(rviz="true")
    monkeypatch.setattr(launch_file, "get_package_prefix", lambda _: "/opt/ros/jazzy")
    assert len(start(rviz="true")) == 2


def test_the_node_is_a_lifecycle_node_to_launch(start: Start) -> None:
    node, rviz = start()
    assert (node.kind, rviz.kind) == ("LifecycleNode", "Node")


def test_a_profile_of_fast_dds_is_passed_on(start: Start, tmp_path: Path) -> None:
    profile = tmp_path / "mine.xml"
    profile.write_text("<dds/>")
    node, _ = start(dds_profile=str(profile))
    assert node.additional_env["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(profile)
    assert start(dds_profile="none")[0].additional_env == {}
    with pytest.raises(FileNotFoundError, match="missing"):
        start(dds_profile=str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"image": "/cam/image_raw"},
            {
                "image": "/cam/image_raw",
                "image/compressed": "/cam/image_raw/compressed",
                "camera_info": "/cam/camera_info",
            },
        ),
        (
            {"image": "picture", "camera_info": "/k"},
            {
                "image": "picture",
                "image/compressed": "picture/compressed",
                "camera_info": "/k",
            },
        ),
        ({"image": "/picture"}, {
            "image": "/picture",
            "image/compressed": "/picture/compressed",
            "camera_info": "/camera_info",
        }),
        ({"camera_info": "/k"}, {"camera_info": "/k"}),
    ],
)  # fmt: skip
def test_camera_topics(start: Start, given: dict[str, str], expected: dict[str, str]) -> None:
    node, _ = start(**given)
    assert dict(node.remappings) == expected


@pytest.mark.parametrize(
    ("namespace", "prefix"), [("", ""), ("robot1", "/robot1"), ("/a/b", "/a/b")]
)
def test_two_robots_keep_to_their_namespaces(start: Start, namespace: str, prefix: str) -> None:
    node, rviz = start(namespace=namespace)
    assert node.namespace == rviz.namespace == namespace
    assert dict(rviz.remappings)["/vidllm/points"] == f"{prefix}/vidllm/points"
