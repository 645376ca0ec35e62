# SPDX-License-Identifier: Apache-2.0
import io
import json

import cv2
import numpy as np
import pytest

from vidllm_ros.cli import cameras
from vidllm_ros.cli.cameras import FilmCamera, RoomCamera, frame_header, one_of_each
from vidllm_ros.data.samples import Question
from vidllm_ros.data.video import VideoFrame


def question(family, number):
    return Question(f"{family}{number}", f"{family} {number}?", ("yes",), (), family)


def test_one_of_each_goes_round_the_families():
    asked = [question("color", i) for i in range(9)] + [question("count", 0)]
    chosen = one_of_each([*asked, question("existence", 0)], 5)
    assert [entry.family for entry in chosen] == ["existence", "color", "count", "color", "color"]
    assert one_of_each([], 5) == []


@pytest.fixture(scope="module")
def room():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cameras, "ROOM_FRAMES", 36)
        patch.setattr(cameras, "ROOM_SIZE", (56, 84))
        return RoomCamera(2_000_001)


def test_room_knows_its_truth(room):
    truth = room.truth
    assert not room.is_of_training
    assert len(truth.stamps_ns) == room.frames == 36
    assert truth.outline is not None
    assert truth.outline.shape == (4, 2)
    half = truth.outline.max(axis=0)
    assert (np.abs(truth.T_truth_camera[:, :2, 3]) < half).all()
    assert all((np.abs(box.center[:2]) < half + 0.3).all() for box in truth.boxes)
    assert np.array_equal(room.image(truth.stamps_ns[5]), truth.images[5])


def test_room_asks_what_the_frames_seen_can_answer(room):
    stamps = room.truth.stamps_ns
    asked = room.questions(stamps[-32:])
    assert len(asked) == 5
    assert len({entry.question for entry in asked}) == 5
    assert all(entry.answers for entry in asked)
    assert asked == room.questions(stamps[-32:])


@pytest.fixture
def folder(tmp_path):
    for index in range(6):
        image = np.full((240, 640, 3), 40 * index, np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    return tmp_path


def test_film_is_streamed_whole_and_remembered_small(folder):
    class Player:
        class process:  # noqa: N801 - stands for an attribute
            stdin = io.BytesIO()

    sent = io.BytesIO()
    sent.close = lambda: None  # what was written is read afterwards
    Player.process.stdin = sent
    camera = FilmCamera(folder, window=4)
    assert camera.frames is None  # enough for a window; how many more is not known
    camera._feed(Player)
    content = sent.getvalue()
    assert camera.fault is None
    stamps = []
    while content:
        line, content = content.split(b"\n", 1)
        header = json.loads(line)
        size = header["height"] * header["width"] * 3
        assert (np.frombuffer(content[:size], np.uint8) == 40 * len(stamps)).all()
        content = content[size:]
        stamps.append(header["stamp_ns"])
    assert len(stamps) == 6
    small = camera.image(stamps[3])
    assert small.shape == (120, 320, 3)
    assert abs(int(small.mean()) - 120) < 3


def test_film_with_fewer_frames_than_a_window_says_how_many(folder):
    assert FilmCamera(folder, window=32).frames == 6


def test_film_asks_what_it_is_told(folder):
    asked = FilmCamera(folder, window=2, asked=("is it dark?",)).questions(())
    assert [(entry.question, entry.answers) for entry in asked] == [("is it dark?", None)]
    assert len(FilmCamera(folder, window=2).questions(())) == 5


def test_frame_header_carries_intrinsics():
    K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    rgb = np.zeros((80, 100, 3), np.uint8)
    header = json.loads(frame_header(VideoFrame(7, rgb, "optical", K)))
    assert header == {
        "stamp_ns": 7,
        "height": 80,
        "width": 100,
        "frame_id": "optical",
        "K": K.ravel().tolist(),
    }
    assert json.loads(frame_header(VideoFrame(7, rgb)))["K"] is None
