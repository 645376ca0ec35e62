# SPDX-License-Identifier: Apache-2.0
"""A video file or a folder of images: order, stamps, K, even choice, and what bad input says."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidllm_ros.data import image_folder
from vidllm_ros.data.frame_source import FIRST_STAMP_NS
from vidllm_ros.data.video import (
    count_frames,
    even_places,
    iterate_frames,
    open_film,
    sample_uniform,
)

HEIGHT, WIDTH = 48, 64
RATE_HZ = 25.0
STEP = 6  # grey levels from one video frame to the next
K_TEXT = "50.0 0 32\n0 52.0 24\n0 0 1\n"


def write_video(path: Path, frames: int = 40, codec: str = "mp4v") -> Path:
    """Frame i is all grey level i * STEP, but its red channel is 0."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), RATE_HZ, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(frames):
        image = np.full((HEIGHT, WIDTH, 3), i * STEP, np.uint8)
        image[..., 2] = 0  # BGR
        writer.write(image)
    writer.release()
    return path


def write_image(path: Path, level: int, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """Blue is `level`, green 100, red 200."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (level, 100, 200)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")


def levels(path: Path) -> list[int]:
    return [int(frame.rgb[0, 0, 2]) for frame in iterate_frames(path)]


def test_video_frames_come_in_order_as_rgb_with_their_own_times(video: Path) -> None:
    frames = list(iterate_frames(video))
    assert len(frames) == count_frames(video) == 40
    for i, frame in enumerate(frames):
        assert frame.rgb.shape == (HEIGHT, WIDTH, 3)
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb[..., 0].max() <= 6  # red
        assert np.abs(frame.rgb[..., 1:].astype(int) - i * STEP).max() <= 6
        assert frame.stamp_ns == FIRST_STAMP_NS + round(i * 1e9 / RATE_HZ)
        assert frame.K is None


def test_video_is_read_lazily(video: Path) -> None:
    frames = iterate_frames(video)
    assert isinstance(frames, Iterator)
    assert len(list(islice(frames, 3))) == 3
    assert next(frames).stamp_ns == FIRST_STAMP_NS + round(3e9 / RATE_HZ)


def test_sample_of_a_video_is_even_and_holds_both_ends(video: Path) -> None:
    film = sample_uniform(video, 5)
    assert film.stamps_ns == tuple(
        FIRST_STAMP_NS + round(i * 1e9 / RATE_HZ) for i in (0, 10, 20, 29, 39)
    )
    seen = film.images[:, HEIGHT // 2, WIDTH // 2, 2].astype(int)
    assert np.abs(seen - np.array([0, 10, 20, 29, 39]) * STEP).max() <= 6


def test_fewer_frames_than_wanted_are_all_used(video: Path) -> None:
    assert len(sample_uniform(video, 100)) == 40
    assert len(sample_uniform(video, 1)) == 1


@pytest.mark.parametrize(
    ("available", "count", "places"),
    [(10, 4, [0, 3, 6, 9]), (3, 32, [0, 1, 2]), (0, 4, []), (7, 1, [0]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_even_places(available: int, count: int, places: list[int]) -> None:
    assert even_places(available, count) == places


def test_video_that_ends_early_gives_what_it_has_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_video(tmp_path / "whole.avi", 30, "MJPG").read_bytes()
    torn = tmp_path / "torn.avi"
    torn.write_bytes(whole[: len(whole) * 2 // 3])
    with caplog.at_level(logging.WARNING):
        film = sample_uniform(torn, 8)
    assert len(film) == 8
    assert all(b > a for a, b in pairwise(film.stamps_ns))
    assert FIRST_STAMP_NS + 0.4e9 < film.stamps_ns[-1] < FIRST_STAMP_NS + 0.9e9
    assert "torn.avi" in caplog.text
    assert caplog.text.count("frames announced") == 1


def test_video_without_times_is_stamped_by_its_rate(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidllm_ros.data.video_file._Capture.time_ns", lambda self, place: 0)
    stamps = [frame.stamp_ns for frame in iterate_frames(video)]
    assert np.diff(stamps).tolist() == [round(1e9 / RATE_HZ)] * 39


def test_video_that_announces_no_count_is_counted(tmp_path: Path) -> None:
    """A bare stream of JPEGs has no header that could say how many there are."""
    coded = [
        cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), i * STEP, np.uint8))[1].tobytes()
        for i in range(12)
    ]
    path = tmp_path / "stream.mjpeg"
    path.write_bytes(b"".join(coded))
    assert open_film(path).count() == 0
    assert count_frames(path) == 12
    film = sample_uniform(path, 4)
    seen = film.images[:, HEIGHT // 2, WIDTH // 2, 0].astype(int)
    assert np.abs(seen - np.array([0, 4, 7, 11]) * STEP).max() <= 3


def test_folder_is_read_in_reading_order_with_k(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100):
        write_image(tmp_path / f"img{number}.png", number)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._img5.png").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "camera-intrinsics.txt").write_text(K_TEXT)
    frames = list(iterate_frames(tmp_path))
    assert [frame.rgb[0, 0].tolist() for frame in frames] == [
        [200, 100, level] for level in (1, 9, 10, 100)
    ]
    assert [frame.stamp_ns - FIRST_STAMP_NS for frame in frames] == [
        0,
        10**8,
        2 * 10**8,
        3 * 10**8,
    ]
    film = sample_uniform(tmp_path, 2)
    assert film.K is not None
    assert film.K.tolist() == [[[50, 0, 32], [0, 52, 24], [0, 0, 1]]] * 2


def test_folder_without_intrinsics_has_no_k(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", 1)
    assert sample_uniform(tmp_path, 1).K is None


def test_only_colour_of_an_rgbd_folder_is_the_film(tmp_path: Path) -> None:
    for number in (0, 5):
        write_image(tmp_path / f"frame-00000{number}.color.png", 50 + number)
        cv2.imwrite(
            str(tmp_path / f"frame-00000{number}.depth.png"), np.ones((HEIGHT, WIDTH), np.uint16)
        )
    write_image(tmp_path / "overview.png", 7)
    frames = list(iterate_frames(tmp_path))
    assert levels(tmp_path) == [50, 55]
    assert frames[1].stamp_ns - frames[0].stamp_ns == round(5e9 / 30)


def test_depth_beside_plain_names_is_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "0001.png", 11)
    write_image(tmp_path / "0001_depth.png", 12)
    write_image(tmp_path / "depth-0001.png", 13)
    write_image(tmp_path / "indepth.png", 14)
    (tmp_path / "metadata.yaml").write_text("of the images, not of a bag")
    assert levels(tmp_path) == [11, 14]


def test_times_in_names_become_stamps() -> None:
    tum = image_folder.name_stamps(["1305031102.175304", "1305031102.211214"])
    assert tum == (1305031102175304000, 1305031102211214000)
    euroc = image_folder.name_stamps(["1403636579763555584", "1403636579813555456"])
    assert euroc == (1403636579763555584, 1403636579813555456)
    mixed = image_folder.name_stamps(["1403636579763555584", "extra"])
    assert mixed == (FIRST_STAMP_NS, FIRST_STAMP_NS + 10**8)


def test_one_image_is_a_film_of_one_frame(tmp_path: Path) -> None:
    film = sample_uniform(write_image(tmp_path / "a.JPG", 1), 4)
    assert film.images.shape == (1, HEIGHT, WIDTH, 3)


def bad_missing(folder: Path) -> Path:
    return folder / "nothing.mp4"


def bad_text(folder: Path) -> Path:
    (folder / "text.mp4").write_text("once upon a time")
    return folder / "text.mp4"


def bad_empty_file(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def bad_empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def bad_torn_video(folder: Path) -> Path:
    whole = write_video(folder / "whole.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    return folder / "torn.mp4"


def bad_torn_image(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    coded = cv2.imencode(".png", rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8))[1]
    (folder / "torn.png").write_bytes(coded.tobytes()[:500])
    return folder / "torn.png"


def bad_tiny_image(folder: Path) -> Path:
    return write_image(folder / "tiny.png", 1, 1, 1)


def bad_intrinsics(folder: Path) -> Path:
    (folder / "camera-intrinsics.txt").write_text("585 0 320")
    return write_image(folder / "a.png", 1)


def bad_ros1(folder: Path) -> Path:
    (folder / "old.bag").write_bytes(b"#ROSBAG V2.0")
    return folder / "old.bag"


@pytest.mark.parametrize(
    ("make", "kind", "named", "says"),
    [
        (bad_missing, FileNotFoundError, "nothing.mp4", "no such file"),
        (bad_text, ValueError, "text.mp4", "expected a video"),
        (bad_empty_file, ValueError, "empty.mp4", "expected a video, got 0 bytes"),
        (bad_empty_folder, FileNotFoundError, "empty", "expected images"),
        (bad_torn_video, ValueError, "torn.mp4", "expected a video"),
        (bad_torn_image, ValueError, "torn.png", "cannot be decoded"),
        (bad_tiny_image, ValueError, "tiny.png", "got 1 x 1"),
        (bad_intrinsics, ValueError, "camera-intrinsics.txt", "fx 0 cx"),
        (bad_ros1, ValueError, "old.bag", "rosbags-convert"),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_file(
    tmp_path: Path, make, kind, named: str, says: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(kind) as caught:
        sample_uniform(path, 4)
    assert type(caught.value) is kind
    assert named in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(kind, match=says):
        next(iterate_frames(path))


def test_a_torn_video_leaves_stderr_to_the_sentence(tmp_path: Path) -> None:
    """FFmpeg reads how loud it may be once a process, so this needs one of its own."""
    path = bad_torn_video(tmp_path)
    code = (
        "import pathlib; from vidllm_ros.data.video_file import VideoFile; "
        f"VideoFile(pathlib.Path({str(path)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ValueError: {path}: expected a video")
    assert "moov" not in done.stderr
    assert "WARN" not in done.stderr


def test_a_missing_film_is_said_before_the_first_frame_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        iterate_frames(tmp_path / "nothing")


def test_images_of_different_size_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", 1)
    write_image(tmp_path / "2.png", 1, HEIGHT * 2, WIDTH)
    with pytest.raises(ValueError, match=r"2\.png: expected 64 x 48 px .* got 64 x 96"):
        sample_uniform(tmp_path, 2)


def test_topic_of_what_is_no_bag_is_refused(video: Path) -> None:
    with pytest.raises(ValueError, match="topic: expected none"):
        iterate_frames(video, topic="/image")


def test_count_below_one_is_refused(video: Path) -> None:
    with pytest.raises(ValueError, match="count: expected at least 1"):
        sample_uniform(video, 0)
