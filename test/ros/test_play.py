# SPDX-License-Identifier: Apache-2.0
"""The player's frames: read from files and pipes, stamped and timed as documented."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")

from vidllm_ros.ros.frame_stream import CameraFrame, load_frames, read_stream
from vidllm_ros.ros.play import schedule

pytestmark = pytest.mark.ros
RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
MS = 1_000_000


def frames_at(*stamps_ms: int) -> list[CameraFrame]:
    return [CameraFrame(stamp * MS, RGB, "cam") for stamp in stamps_ms]


def timing(*stamps_ms: int, rate_hz: float = 0.0, keep: bool = False) -> list[tuple[int, int]]:
    """Return stamp and time of publication of each frame, ms, for a start at 1000 s."""
    played = schedule(frames_at(*stamps_ms), 10**12, rate_hz, keep)
    return [(stamp // MS, elapsed // MS) for _, stamp, elapsed in played]


def test_own_spacing_is_kept_and_shifted_to_now() -> None:
    assert timing(500, 533, 600) == [(10**6, 0), (10**6 + 33, 33), (10**6 + 100, 100)]


def test_rate_overrides_the_spacing() -> None:
    assert [e for _, e in timing(500, 533, 600, rate_hz=4.0)] == [0, 250, 500]


def test_own_stamps_are_kept_where_asked_for() -> None:
    assert [s for s, _ in timing(500, 533, 600, keep=True)] == [500, 533, 600]


def test_a_loop_continues_the_clock_unless_stamps_are_kept() -> None:
    assert timing(500, 600, 500) == [(10**6, 0), (10**6 + 100, 100), (10**6 + 200, 200)]
    assert [s for s, _ in timing(500, 600, 500, keep=True)] == [500, 600, 500]


def test_a_rest_between_loops_lets_the_node_begin_anew() -> None:
    def elapsed(rate_hz: float) -> list[int]:
        played = schedule(frames_at(500, 600, 500, 600), 0, rate_hz, False, 6.0)
        return [elapsed_ns // MS for _, _, elapsed_ns in played]

    assert elapsed(0.0) == [0, 100, 6100, 6200]
    assert elapsed(4.0) == [0, 250, 6250, 6500]


def test_one_image_again_and_again_needs_no_rest() -> None:
    assert [elapsed for _, elapsed in timing(500, 500, 500)] == [0, 100, 200]


def test_stream_round_trip() -> None:
    pipe = io.BytesIO()
    for stamp, K in ((1, None), (2, [1, 0, 0, 0, 1, 0, 0, 0, 1])):
        head = {"stamp_ns": stamp, "height": 2, "width": 3, "frame_id": "cam", "K": K}
        pipe.write(json.dumps(head).encode() + b"\n" + RGB.tobytes())
    pipe.seek(0)
    first, second = read_stream(pipe)
    np.testing.assert_array_equal(first.rgb, RGB)
    assert (first.stamp_ns, first.K, first.frame_id) == (1, None, "cam")
    np.testing.assert_array_equal(second.K, np.eye(3))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello\n", "expected a JSON header"),
        (b'{"stamp_ns": 1, "height": 2}\n', "expected a JSON header"),
        (b'{"stamp_ns": 1.5, "height": 2, "width": 3}\n', "expected a JSON header"),
        (b'{"stamp_ns": 1, "height": 2, "width": 3}\n1234', "expected 18 bytes of RGB, got 4"),
    ],
)
def test_bad_streams_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(read_stream(io.BytesIO(content)))


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "frames.npz"
    depth = np.ones((2, 2, 3), np.float32)
    np.savez(path, images=np.stack([RGB, RGB]), stamps_ns=[3, 4], K=np.eye(3), depth=depth)
    frames = load_frames(path)
    assert [frame.stamp_ns for frame in frames] == [3, 4]
    np.testing.assert_array_equal(frames[1].K, np.eye(3))
    np.testing.assert_array_equal(frames[1].depth, depth[1])


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_frames(tmp_path / "no.npz")
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"expected an \.npz"):
        load_frames(text)
    lacking = tmp_path / "lacking.npz"
    np.savez(lacking, images=np.stack([RGB]))
    with pytest.raises(ValueError, match="stamps_ns"):
        load_frames(lacking)
