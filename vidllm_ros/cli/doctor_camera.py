# SPDX-License-Identifier: Apache-2.0
"""What `vidllm doctor` looks at in a running camera: publishers, frames, camera_info, TF.

`python -m vidllm_ros.ros.inspect` listens and prints what it heard; `judge` turns that into
findings and knows no ROS, so that each is tested without a camera. Next: ros/inspect.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from vidllm_ros.cli.doctor_findings import Finding, fail, ok, skipped, warn
from vidllm_ros.cli.ros_processes import ROS_CLIENT, ROS_PACKAGE

STALE_S = 2.0
SLOW_HZ = 2.0
CALIBRATE = "calibrate: ros2 run camera_calibration cameracalibrator"
_START_S = 120.0


def check_camera(
    image: str, camera_info: str, is_compressed: bool, seconds: float
) -> Iterator[Finding]:
    """Listen to a camera and say what is wrong with it."""
    if not image:
        yield skipped("camera", "not looked at", "name its topic: --image /camera/image_raw")
        return
    if find_spec(ROS_CLIENT) is None:
        yield skipped("camera", "cannot be looked at without ROS")
        return
    command = [sys.executable, "-m", f"{ROS_PACKAGE}.inspect"]
    command += ["--image", image, "--camera-info", camera_info, "--seconds", str(seconds)]
    command += ["--compressed"] if is_compressed else []
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + _START_S, check=False
        )
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            fix = "name its topic: --image /camera/image_raw"
            yield fail("camera", f"could not be looked at: {said}", fix)
            return
        yield from judge(json.loads(done.stdout.strip().splitlines()[-1]))
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        said = getattr(error, "stderr", None) or repr(error)
        yield fail("camera", f"could not be looked at ({said})", "try ros2 topic hz on it")


def judge(heard: dict[str, Any]) -> Iterator[Finding]:
    """Turn what was heard into findings.

    Args:
        heard: as ros/inspect.py prints it.
    """
    yield _publishers(heard)
    if heard["frames"]:
        yield _frames(heard)
        yield _camera_info(heard)
        yield _transform(heard)
    yield (
        ok("node", f"answers at {', '.join(heard['ask_services'])}")
        if heard["ask_services"]
        else warn("node", "no /ask service", "ros2 launch vidllm_ros vidllm.launch.py")
    )


def _publishers(heard: dict[str, Any]) -> Finding:
    topic, publishers = heard["topic"], heard["publishers"]
    fitting = [entry for entry in publishers if entry["type"] == heard["wanted_type"]]
    if not publishers:
        elsewhere = ", ".join(heard["elsewhere"][:5])
        fix = f"remap image to one of {elsewhere}" if elsewhere else "start the camera"
        return fail("publishers", f"nobody publishes {topic}", fix)
    if not fitting:
        kinds = ", ".join(sorted({entry["type"] for entry in publishers}))
        fix = f"name a topic of {heard['wanted_type']}; --compressed for image_transport"
        return fail("publishers", f"{topic} carries {kinds}", fix)
    misfits = [entry for entry in fitting if not entry["fits"]]
    if misfits:
        words = f"{topic}: incompatible QoS: {misfits[0]['reason']}"
        return fail("publishers", words, f"set qos_overrides.{topic}.subscription of the node")
    who = ", ".join(f"{entry['node']} ({entry['reliability']})" for entry in fitting)
    if not heard["frames"]:
        words = f"{topic}: {who} sent nothing in {heard['seconds']:g} s"
        return fail("publishers", words, "is the camera streaming, or the bag paused?")
    if len(fitting) > 1:
        return warn("publishers", f"{topic} has {len(fitting)}: {who}", "keep one; they mix")
    return ok("publishers", f"{topic}: {who}")


def _frames(heard: dict[str, Any]) -> Finding:
    frame, rate = heard["frame"], heard["rate_hz"]
    if frame["problem"]:
        return fail("frames", frame["problem"], "set the driver to rgb8, or to compressed")
    words = f"{frame['width']}x{frame['height']} {frame['encoding']} at {rate:.1f} Hz"
    age = frame["age_s"]
    if abs(age) > STALE_S:
        when = "after their stamp" if age > 0 else "before their stamp"
        fix = "use_sim_time:=true for a bag or simulator, else set the clocks (chrony)"
        return warn("frames", f"{words}, {abs(age):.1f} s {when}", fix)
    if not frame["frame_id"]:
        return warn("frames", f"{words}, without a frame_id", "set the driver's frame_id")
    if 0 < rate < SLOW_HZ:
        fix = "raise the rate, send compressed images, or see Quality of service in the docs"
        return warn("frames", words, fix)
    return ok("frames", f"{words}, {age:.2f} s old, in {frame['frame_id']}")


def _camera_info(heard: dict[str, Any]) -> Finding:
    info, frame = heard["camera_info"], heard["frame"]
    what = "camera_info"
    if info is None:
        return warn(what, "none: intrinsics are estimated", "publish it, or name --camera-info")
    if info["problem"]:
        return warn(
            what, info["problem"], "calibrate: ros2 run camera_calibration cameracalibrator"
        )
    if not info["is_calibrated"]:
        return warn(what, "K[0] is 0: uncalibrated, intrinsics are estimated", CALIBRATE)
    if "width" in frame and (info["width"], info["height"]) != (frame["width"], frame["height"]):
        words = f"is for {info['width']}x{info['height']}, frames are "
        words += f"{frame['width']}x{frame['height']}"
        return fail(what, words, "publish the info of this resolution (binning, ROI)")
    if info["frame_id"] != frame["frame_id"]:
        words = f"frame_id {info['frame_id']!r} is not that of the images {frame['frame_id']!r}"
        return warn(what, words, "set the driver's frame_id")
    return ok(what, f"calibrated, {info['width']}x{info['height']}")


def _transform(heard: dict[str, Any]) -> Finding:
    frame_id, parent = heard["frame"]["frame_id"], heard["parent"]
    if parent:
        words = f"{frame_id} hangs from {parent}: leave publish_tf off; place_by_tf can use it"
        return ok("tf", words)
    if heard["transforms"]:
        fix = "static_transform_publisher from the robot to it, or publish_tf: true"
        return warn("tf", f"{frame_id} is in no tree, and there is one", fix)
    return ok("tf", "no TF here: results are in vidllm_world; publish_tf: true gives a tree")
