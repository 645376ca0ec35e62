# SPDX-License-Identifier: Apache-2.0
"""The demo over real ROS 2 with the stand-in: what cli/ expects of ros/, held against it."""

import json
from importlib.util import find_spec

import pytest

from vidllm_ros.cli import cameras, demo

pytestmark = [
    pytest.mark.ros,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("rclpy") is None, reason="no rclpy: source scripts/env.sh"),
]


def test_a_room_goes_through_the_node(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cameras, "ROOM_FRAMES", 40)
    monkeypatch.setattr(cameras, "ROOM_SIZE", (84, 112))
    out = tmp_path / "out"
    words = ["--room", "2000024", "--rate", "10", "--out", str(out), "--backend", "standin"]
    code = demo.main(words)
    assert code == 0, capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert report["frames_played"] == 40
    assert report["frames_placed"] >= 20  # keyframes: those by which the view had moved
    assert report["windows"] >= 2
    assert [entry["success"] for entry in report["questions"]] == [True] * 5
    assert all("stand-in" in entry["answer"] for entry in report["questions"])
    assert report["scale"][-1] == pytest.approx(1.0, abs=0.2)
    assert report["depth_absrel"] is not None
    assert report["trajectory_error_m"] is not None
    assert (out / "scene.ply").read_bytes().startswith(b"ply")
