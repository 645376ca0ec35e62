# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments of the small clients: one sentence, another code than 0, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")

from vidllm_ros.ros import ask, play, record
from vidllm_ros.ros.frame_stream import load_frames
from vidllm_ros.srv import SaveMap

pytestmark = pytest.mark.ros
RGB = np.zeros((3, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("client", "words", "says"),
    [
        (play, ["a.npz", "--speed", "0"], "--speed: expected above 0, got 0"),
        (play, ["a.npz", "--rate", "-1"], "--rate: expected 0 or above, got -1"),
        (play, ["a.npz", "--loop", "-1"], "--loop: expected 0 or above, got -1"),
        (play, ["a.npz", "--rest", "-0.5"], "--rest: expected 0 or above, got -0.5"),
        (play, ["a.npz", "--rest", "nan"], "--rest: expected 0 or above, got nan"),
        (play, ["a.npz", "--log", "{here}"], "--log: expected a file, got the folder"),
        (play, ["a.npz", "--log", "/no/such/log"], "--log: expected a file in a folder that"),
        (record, ["--out", "{here}/file"], "--out: expected a folder to write to, got"),
        (record, ["--out", "{here}/file/below"], "--out: expected a folder to write to, got"),
        (record, ["--out", "{here}", "--windows", "-1"], "--windows: expected 0 or above, got -1"),
        (ask, [], "expected questions or --save-map, one of the two"),
        (ask, ["why?", "--save-map", "a.ply"], "expected questions or --save-map, one of the two"),
        (ask, ["why?", "--timeout", "0"], "--timeout: expected above 0, got 0"),
    ],
)
def test_options_are_refused_before_anything_is_done(
    client: ModuleType,
    words: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        client._options([word.format(here=tmp_path) for word in words])
    assert ended.value.code == 2
    assert f"error: {says}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": RGB.astype(float)}, "images: expected uint8, got float64"),
        ({"K": np.eye(2)}, r"K: expected shape \(3, 3\), got \(2, 2\)"),
        ({"K": np.ones((2, 3, 3))}, r"K: expected shape \(3, 3, 3\), got \(2, 3, 3\)"),
        ({"depth": np.ones((2, 4, 6))}, r"depth: expected shape \(3, any, any\), got \(2, 4, 6"),
        ({"depth": np.ones((3, 4, 6), np.uint16)}, r"depth: expected floats, m, .* got uint16"),
        ({"depth": np.ones((3, 0, 6))}, r"of one pixel or more, got float64 \(3, 0, 6\)"),
        ({"stamps_ns": [1.0, 2.5, 3.0]}, "stamps_ns: expected integers, got float64"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    arrays: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **{"images": RGB, "stamps_ns": [1, 2, 3], **arrays})
    with pytest.raises(ValueError, match=says):
        load_frames(tmp_path / "a.npz")


def test_a_folder_or_another_file_is_no_npz(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="which is a folder; see `vidllm play`"):
        load_frames(tmp_path)
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.npz, which is none"):
        load_frames(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("client", "words", "says", "code"),
    [
        ("play", ["a.npz", "--ros-args", "-r", "image:=bad topic"], "parse remap rule: '-r im", 1),
        ("node", ["--ros-args", "--params-file", "/nope.yaml"], "'--params-file /nope.yaml'", 1),
        ("ask", ["why?", "--service", "bad name"], "must not contain characters other than", 1),
        ("record", ["--out", "{here}", "--node", "bad name"], "Invalid topic name: topic name", 1),
        ("ask", ["--save-map", "a.ply", "--node", "bad name"], "must not contain", 1),
        (
            "play",
            ["{here}/a.npz", "--ros-args", "-r", f"image:={'a' * 300}"],
            "topic length should not",
            1,
        ),
        ("inspect", ["--image", "bad name"], "must not contain characters other than", 1),
        ("play", ["{here}/none.npz"], "frames: expected at least one, got none in", 1),
        ("record", ["--out", "{here}", "--duration", "0.2"], "nobody publishes /vidllm/status", 3),
    ],
)
def test_what_ros_or_the_file_refuses_is_one_sentence(
    client: str, words: list[str], says: str, code: int, tmp_path: Path
) -> None:
    np.savez(tmp_path / "none.npz", images=RGB[:0], stamps_ns=[])
    np.savez(tmp_path / "a.npz", images=RGB, stamps_ns=[1, 2, 3])
    command = [sys.executable, "-m", f"vidllm_ros.ros.{client}"]
    command += [word.format(here=tmp_path) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{client}: ")
    assert says in last
    assert ".c:" not in last  # where in rcl's source helps nobody


FAULT = """
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from vidllm_ros.ros.process import SpinningThread, ros_context
with ros_context(["client"]):
    node = Node("faulty")
    {spin}raise rclpy_implementation.RCLError("failed to publish, at /src/a.c:7")
"""


@pytest.mark.parametrize(
    ("spin", "is_traced"), [("", False), ("with SpinningThread(node): ", True)]
)
def test_what_rcl_raises_later_is_a_fault_with_its_traceback(spin: str, is_traced: bool) -> None:
    command = [sys.executable, "-c", FAULT.format(spin=spin)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == is_traced
    last = done.stderr.splitlines()[-1]
    assert last.endswith("publish, at /src/a.c:7" if is_traced else "client: failed to publish")


FAILED_SPIN = """
from vidllm_ros.ros import record
class Failed(record.SpinningThread):
    def __enter__(self):
        self.failed = RuntimeError("mine")
        return super().__enter__()
record.SpinningThread = Failed
raise SystemExit(record.main(["--out", "{here}", "--duration", "0.2"]))
"""


def test_a_recorder_whose_executor_failed_says_so_and_not_that_nobody_publishes(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", FAILED_SPIN.format(here=tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "record: stopped early: RuntimeError('mine')"
    assert "nobody publishes" not in done.stderr
    assert (tmp_path / "record.json").is_file()


def test_a_maps_path_is_meant_from_where_the_client_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[SaveMap.Request] = []

    class Client:
        def __init__(self, *_: object) -> None:
            pass

        def call(self, request: SaveMap.Request, timeout_s: float) -> SaveMap.Response:
            asked.append(request)
            return SaveMap.Response(success=True)

    monkeypatch.setattr(ask, "ServiceClient", Client)
    monkeypatch.chdir(tmp_path)
    for given, wanted in (("room.ply", tmp_path / "room.ply"), ("/a/b.ply", Path("/a/b.ply"))):
        assert ask._save_map(None, ask._options(["--save-map", given])) == 0
        assert asked[-1].path == str(wanted)
    assert '"success": true' in capsys.readouterr().out
