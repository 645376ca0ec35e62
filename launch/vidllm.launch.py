# SPDX-License-Identifier: Apache-2.0
"""Start the node, and RViz if wanted.

`ros2 launch vidllm_ros vidllm.launch.py image:=/camera/image_raw`. No default stands here: an
argument left empty keeps what params_file says, and what that leaves out keeps the default of
vidllm_ros/ros/parameters.py, where the descriptions come from too. The node walks to active by
itself; with autostart:=false launch files that include this one can send it ChangeState events.
Next: vidllm_ros/ros/node.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
)
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from vidllm_ros.ros.dds_profile import AUTO, profile_environment
from vidllm_ros.ros.parameters import defaults, specs

SHARE = Path(get_package_share_directory("vidllm_ros"))
NODE_NAME = "vidllm"
PARAMETER_ARGUMENTS = ("backend", "model", "device", "image_transport", "autostart")
TRUE_OR_FALSE = ["", "true", "false"]
RVIZ_TOPICS = (
    "points",
    "path",
    "window_poses",
    "object_markers",
    "depth/image",
    "depth/camera_info",
)


def parameter_argument(name: str) -> DeclareLaunchArgument:
    """Declare an argument that overrides one parameter of the node; empty keeps the parameter."""
    spec, default = specs()[name], defaults()[name]
    closed = list(spec.choices) or (TRUE_OR_FALSE[1:] if isinstance(default, bool) else [])
    words = str(default).lower() if isinstance(default, bool) else repr(default)
    return DeclareLaunchArgument(
        name,
        default_value="",
        description=f"{spec.description} Empty: as in params_file, else {words}.",
        choices=["", *closed] if closed else None,
    )


def given(context: LaunchContext, name: str) -> str:
    """Return what the user gave for an argument, '' if nothing."""
    return LaunchConfiguration(name).perform(context).strip()


def parameter_overrides(context: LaunchContext) -> dict[str, Any]:
    """Return the parameters that were given as arguments, as the type the node declares."""
    overrides: dict[str, Any] = {}
    for name in PARAMETER_ARGUMENTS:
        text = given(context, name)
        if text:
            overrides[name] = text == "true" if isinstance(defaults()[name], bool) else text
    if given(context, "use_sim_time"):
        overrides["use_sim_time"] = given(context, "use_sim_time") == "true"
    return overrides


def input_remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Return what turns the node's relative input names into the camera's topics."""
    image, camera_info = given(context, "image"), given(context, "camera_info")
    remappings = []
    if image:
        remappings += [("image", image), ("image/compressed", f"{image}/compressed")]
        if not camera_info:
            camera_info = "/".join([*image.split("/")[:-1], "camera_info"])
    if camera_info:
        remappings.append(("camera_info", camera_info))
    return remappings


def check_arguments(context: LaunchContext) -> None:
    """Raise before anything is started; launch goes on with a mere warning, or half of it.

    Raises:
        FileNotFoundError: params_file is none.
        ValueError: RViz is wanted and not installed.
    """
    params_file = Path(given(context, "params_file")).expanduser()
    if not params_file.is_file():
        raise FileNotFoundError(
            f"params_file: expected a YAML file, got {params_file}, which does not exist"
        )
    if given(context, "rviz") == "true":
        try:
            get_package_prefix("rviz2")
        except PackageNotFoundError as error:
            raise ValueError(
                "rviz: expected the package rviz2, found none; install it, or launch without"
            ) from error


def start(context: LaunchContext) -> list[Node]:
    """Build the processes once the arguments are known."""
    check_arguments(context)
    namespace = given(context, "namespace")
    prefix = "/".join(["", *namespace.strip("/").split("/")]) if namespace.strip("/") else ""
    parameters: list[Any] = [str(Path(given(context, "params_file")).expanduser())]
    overrides = parameter_overrides(context)
    if overrides:
        parameters.append(overrides)
    node = LifecycleNode(
        package="vidllm_ros",
        executable="vidllm_node",
        name=NODE_NAME,
        namespace=namespace,
        parameters=parameters,
        remappings=input_remappings(context),
        ros_arguments=["--log-level", given(context, "log_level")],
        additional_env=profile_environment(os.environ, given(context, "dds_profile")),
        output="screen",
        emulate_tty=True,
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=namespace,
        arguments=["-d", str(SHARE / "config" / "vidllm.rviz")],
        remappings=[
            (f"/{NODE_NAME}/{topic}", f"{prefix}/{NODE_NAME}/{topic}") for topic in RVIZ_TOPICS
        ],
        parameters=[{"use_sim_time": given(context, "use_sim_time") == "true"}],
        condition=IfCondition(LaunchConfiguration("rviz")),
        output="screen",
    )
    return [node, rviz]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `ros2 launch vidllm_ros vidllm.launch.py --show-args` lists them."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "namespace",
                default_value="",
                description="Namespace of the node, its topics and services; one for each robot.",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=str(SHARE / "config" / "vidllm.yaml"),
                description="YAML file of parameters that override the node's defaults.",
            ),
            DeclareLaunchArgument(
                "image",
                default_value="",
                description="Topic of the camera's images, without /compressed. Empty: 'image'.",
            ),
            DeclareLaunchArgument(
                "camera_info",
                default_value="",
                description="Topic of its CameraInfo. Empty: 'camera_info' beside the images.",
            ),
            *map(parameter_argument, PARAMETER_ARGUMENTS),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="",
                choices=TRUE_OR_FALSE,
                description="Take the time from /clock (a bag, a simulator). Empty: params_file.",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=TRUE_OR_FALSE[1:],
                description="Also start RViz with a view of everything the node publishes.",
            ),
            DeclareLaunchArgument(
                "dds_profile",
                default_value=AUTO,
                description="Profile of Fast DDS for the node: a file, none, or auto: "
                "config/fastdds.xml, where the environment chooses nothing else.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="How much the node logs.",
            ),
            OpaqueFunction(function=start),
        ]
    )
