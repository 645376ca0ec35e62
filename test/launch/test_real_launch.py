# SPDX-License-Identifier: Apache-2.0
"""The launch file over the real `launch`: the node walks to active and ends cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy", reason="no ROS 2 here: `make test` brings it")
pytest.importorskip(
    "launch_ros", reason="launch_ros is not on the package index; tested where ROS is installed"
)

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *pairs = sys.argv[1:]
service = LaunchService()
service.include_launch_description(
    LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(path),
                launch_arguments=[tuple(pair.split(":=")) for pair in pairs],
            )
        ]
    )
)
sys.exit(service.run())
"""
PARAMETERS = """\
/**:
  ros__parameters:
    backend: standin
    window_size: 4
    window_stride: 2
    window_min_frames: 4
"""


def wait_for(log: Path, words: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the log says it."""
    end = time.monotonic() + seconds
    while words not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.2)


def test_node_walks_to_active_and_ends_cleanly(tmp_path: Path) -> None:
    parameters, log = tmp_path / "node.yaml", tmp_path / "launch.log"
    parameters.write_text(PARAMETERS, encoding="utf-8")
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", LAUNCHER, str(ROOT / "launch" / "vidllm.launch.py")]
    command += [f"params_file:={parameters}", "namespace:=robot1", "autostart:=true"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_for(log, "waiting for frames", process, 120)
            process.send_signal(signal.SIGINT)
            assert process.wait(15) == 0, log.read_text(errors="replace")
        finally:
            process.kill()
    assert "robot1" in log.read_text(errors="replace")
    assert "finished cleanly" in log.read_text(errors="replace")
