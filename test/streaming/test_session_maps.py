# SPDX-License-Identifier: Apache-2.0
"""What a session gives away and takes in: saved maps, settings, images at the door."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vidllm_ros.streaming.session import (
    NoWindowYetError,
    QuestionTooLongError,
    Session,
    SessionSettings,
)
from vidllm_ros.streaming.window import WindowSettings


def test_frames_are_kept_at_the_networks_size_and_forgotten_on_reset(room):
    class Thrifty(room.Backend):
        forgotten = 0

        def prepare(self, frames, shrink=1.0):
            return frames.select(range(len(frames)))  # a copy

        def reconstruct(self, frames, shrink=1.0):
            self.seen = frames
            return super().reconstruct(frames)

        def forget_frames(self):
            self.forgotten += 1

    backend = Thrifty()
    session = Session(backend, SessionSettings(window=replace(room.WINDOWS, min_frames=2)))
    K = np.diag([30.0, 30.0, 1.0])
    session.add_frame(0, room.IMAGE, K=K)
    session.add_frame(room.PERIOD_NS, room.IMAGE, K=K)
    session.process_next()
    np.testing.assert_array_equal(backend.seen.K, [K, K])
    assert backend.forgotten == 0
    session.reset()
    for i in range(2, 4):
        session.add_frame(i * room.PERIOD_NS, room.IMAGE)
    session.process_next()
    assert backend.forgotten == 1


def test_settings_change_while_it_runs(make_session, walk):
    session = make_session()
    walk(session, 8)
    session.change(replace(session.settings, voxel_m=0.5, max_question_chars=5))
    (result,) = walk(session, 4, first=8)
    assert len(result.cloud) < 600
    with pytest.raises(QuestionTooLongError):
        session.ask("too long")
    with pytest.raises(ValueError, match="new session"):
        session.change(replace(session.settings, window=WindowSettings()))


def test_saved_map_is_whole_and_plain(make_session, walk, tmp_path):
    session = make_session()
    with pytest.raises(NoWindowYetError):
        session.save_map(tmp_path / "map.ply")
    walk(session, 20)
    saved = session.save_map(tmp_path / "map.ply")
    assert saved.point_count == len(session.cloud)
    header = (tmp_path / "map.ply").read_bytes().split(b"end_header")[0].decode()
    assert f"element vertex {saved.point_count}" in header
    content = json.loads((tmp_path / "map.json").read_text())
    assert content["frame"] == "home"
    (chair,) = content["objects"]
    assert chair["id"] == "chair_1"
    np.testing.assert_allclose(chair["center"], session.objects[0].center)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.json", "map.ply"]


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [("map.txt", ValueError, "ending in .ply"), ("no/map.ply", FileNotFoundError, "folder")],
)
def test_map_that_cannot_be_saved_leaves_nothing(make_session, walk, tmp_path, path, error, words):
    session = make_session()
    walk(session, 8)
    with pytest.raises(error, match=words):
        session.save_map(tmp_path / path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rgb", "error"),
    [
        (np.zeros((4, 5), np.uint8), ValueError),
        (np.zeros((4, 5, 4), np.uint8), ValueError),
        (np.zeros((0, 5, 3), np.uint8), ValueError),
        (np.zeros((4, 5, 3), np.float32), TypeError),
    ],
)
def test_wrong_images_are_refused_at_the_door(make_session, rgb, error):
    with pytest.raises(error, match="rgb: expected"):
        make_session().add_frame(0, rgb)


@pytest.mark.parametrize(
    "changes",
    [{"voxel_m": 0.0}, {"confidence_quantile": 1.0}, {"max_map_points": 0}],
)
def test_settings_say_what_is_wrong(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        SessionSettings(**changes)
