# SPDX-License-Identifier: Apache-2.0
"""The demo with its ROS side pretended (pretended_ros); over real ROS 2 it is test/ros' matter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidllm_ros.cli import cameras, demo, demo_run, ros_processes

OUTPUTS = ["frames.png", "overview.png", "report.json", "scene.ply"]


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Put the pretended ROS side in place and return the folder it talks through."""
    folder = tmp_path / "pretended"
    folder.mkdir()
    here = Path(__file__).parent
    monkeypatch.setenv("PRETENDED_ROS", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(here))
    monkeypatch.setattr(ros_processes, "ROS_PACKAGE", "pretended_ros")
    monkeypatch.setattr(ros_processes, "ROS_CLIENT", "json")
    monkeypatch.setattr(demo_run, "QUIET_S", 1.0)
    monkeypatch.setattr(demo_run, "FIRST_WINDOW_S", 2.0)
    return folder


@pytest.fixture
def film(tmp_path):
    """Return a maker of folders of images."""

    def make(count, size=(48, 64)):
        folder = tmp_path / f"film-{count}"
        folder.mkdir()
        for index in range(count):
            image = np.full((*size, 3), 10 * index % 255, np.uint8)
            cv2.imwrite(str(folder / f"{index:04d}.png"), image)
        return folder

    return make


def test_room_from_camera_to_report(pretended, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cameras, "ROOM_FRAMES", 40)
    monkeypatch.setattr(cameras, "ROOM_SIZE", (84, 112))
    out = tmp_path / "out"
    code = demo.main(["--room", "2000007", "--out", str(out), "--backend", "standin"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    report = json.loads((out / "report.json").read_text())
    assert report["windows"] == 2
    assert report["frames_played"] == report["frames_placed"] == 40
    assert len(report["questions"]) == 5
    for entry in report["questions"]:
        assert entry["answer"] == "yes"
        assert entry["correct"] == ("yes" in entry["accepted"])
        assert entry["latency_s"] == 0.25
        assert entry["question"] in shown.out + shown.err
        assert entry["truth"] in shown.out + shown.err
    for name in ("depth_absrel", "scale_error", "trajectory_error_m"):
        assert 0 < report[name] < 10
    assert report["timings"]["reconstruct"] == 0.5
    assert (pretended / "node_ended").exists()
    assert "window_size:=32" in (pretended / "node_arguments").read_text()


def test_own_camera_with_few_frames_and_own_question(pretended, film, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--input", str(film(3)), "--ask", "is it dark?", "--out", str(out)]
    code = demo.main([*words, "--backend", "standin"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "3 frames where 32 are wanted" in shown.err
    arguments = (pretended / "node_arguments").read_text().split()
    assert {"window_size:=3", "window_stride:=3"} <= set(arguments)
    assert (pretended / "asked").read_text() == "is it dark?"
    report = json.loads((out / "report.json").read_text())
    entry = report["questions"][0]
    assert (entry["truth"], entry["correct"]) == (None, None)
    assert report["depth_absrel"] is None
    assert "truth: not known" in shown.out + shown.err


def test_a_question_of_ones_own_wants_ones_own_film(pretended, tmp_path, capsys):
    code = demo.main(["--ask", "is it dark?", "--out", str(tmp_path / "out")])
    assert code != 0
    assert "--ask: expected --input beside it" in capsys.readouterr().err
    assert not (pretended / "node_arguments").exists()


def test_a_failing_node_is_shown_and_nothing_is_written(pretended, film, tmp_path, capsys):
    (pretended / "node_fails").write_text("")
    out = tmp_path / "out"
    code = demo.main(["--input", str(film(40)), "--out", str(out), "--backend", "standin"])
    assert code != 0
    shown = capsys.readouterr().err
    assert "node: ended with an error (exit code 1)" in shown
    assert "model: expected weights, got none; train some" in shown
    assert "Traceback" not in shown
    assert not out.exists()


def test_a_node_that_does_not_answer_is_a_failure_with_a_report(pretended, film, tmp_path, capsys):
    (pretended / "node_is_busy").write_text("")
    out = tmp_path / "out"
    code = demo.main(["--input", str(film(40)), "--out", str(out), "--backend", "standin"])
    assert code != 0
    shown = capsys.readouterr()
    assert "(no answer: the queue is full)" in shown.out + shown.err
    assert json.loads((out / "report.json").read_text())["questions"][0]["success"] is False


def test_too_few_frames_for_a_window_says_so(pretended, film, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_run, "node_arguments", lambda settings: ["window_size:=99"])
    out = tmp_path / "out"
    code = demo.main(["--input", str(film(40)), "--out", str(out), "--backend", "standin"])
    assert code != 0
    assert "expected a window of 40 frames, got none" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing.mp4", "missing.mp4"),
        (lambda folder: folder, "bad"),
        (lambda folder: _write(folder / "text.mp4", b"hello\n" * 100), "text.mp4"),
        (lambda folder: _picture(folder / "tiny.png"), "1 x 1"),
    ],
    ids=["missing", "empty folder", "text as mp4", "1x1"],
)
def test_bad_input_is_one_sentence(make, said, pretended, tmp_path, capsys):
    folder = tmp_path / "bad"
    folder.mkdir()
    out = tmp_path / "out"
    words = ["--input", str(make(folder)), "--out", str(out), "--backend", "standin"]
    assert demo.main(words) != 0
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert "Traceback" not in shown
    assert not out.exists()


def test_a_machine_without_ros_is_told_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ros_processes, "ROS_CLIENT", "no_such_ros")
    assert demo.main(["--out", str(tmp_path / "out"), "--backend", "standin"]) != 0
    assert "expected no_such_ros in" in capsys.readouterr().err


def _write(path, content):
    path.write_bytes(content)
    return path


def _picture(path):
    cv2.imwrite(str(path), np.zeros((1, 1, 3), np.uint8))
    return path.parent


def test_sigterm_is_an_interrupt_and_only_while_the_demo_runs():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), demo.ends_on_sigterm():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_ends_everything(pretended, film, tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys; from vidllm_ros.cli import demo, demo_run, ros_processes as ros;"
        "ros.ROS_PACKAGE = 'pretended_ros'; ros.ROS_CLIENT = 'json'; demo_run.QUIET_S = 60;"
        "raise SystemExit(demo.main(sys.argv[1:]))"
    )
    words = ["--input", str(film(40)), "--out", str(out), "--backend", "standin"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{Path(__file__).parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 240
    while not (pretended / "frames.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert (pretended / "node_ended").exists()
    assert not out.exists()
