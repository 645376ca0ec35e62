# SPDX-License-Identifier: Apache-2.0
"""Frames to map, with a network whose errors are known: places, worlds, still cameras."""

from dataclasses import replace

import numpy as np
import pytest

from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL, invert_transform, make_transform
from vidllm_ros.streaming.session import NoWindowYetError, Session, SessionSettings


def test_map_is_upright_and_follows_the_truth(room, make_session, walk):
    session = make_session()
    results = walk(session, 40)
    assert [result.window_index for result in results] == list(range(9))
    T_map_room = T_WORLD_OPTICAL_LEVEL @ invert_transform(room.true_pose(0))
    for result in results:
        places = [stamp // room.PERIOD_NS for stamp in result.reconstruction.stamps_ns]
        truth = T_map_room @ np.stack([room.true_pose(i) for i in places])
        np.testing.assert_allclose(result.poses_map, truth, atol=1e-6)
    newest = results[-1]
    assert newest.registration.shared_frames == 12
    assert results[0].registration is None
    assert newest.world_index == 0
    assert list(newest.timings_s) == [
        "reconstruct",
        "detect",
        "register",
        "cloud",
        "track",
        "fuse",
    ]
    assert min(newest.timings_s.values()) >= 0
    # the room's floor and ceiling are where they are: up is up
    height = session.cloud.points[:, 2]
    assert height.min() == pytest.approx(-1.4, abs=0.01)
    assert height.max() == pytest.approx(1.3, abs=0.01)
    assert session.cloud.frame == newest.cloud.frame == "home"


def test_objects_keep_their_place_and_name(room, make_session, walk):
    session = make_session()
    for result in walk(session, 40):
        (chair,) = result.objects
        assert chair.object_id == "chair_1"
        want = T_WORLD_OPTICAL_LEVEL @ invert_transform(room.true_pose(0))
        np.testing.assert_allclose(
            chair.center, want[:3, :3] @ room.CHAIR.center + want[:3, 3], atol=1e-6
        )
        assert chair.last_seen_ns == result.reconstruction.stamps_ns[-1]
    assert [entry.object_id for entry in session.objects] == ["chair_1"]


def test_pose_of_the_first_camera_may_come_from_elsewhere(room, make_session, walk):
    session = make_session()
    walk(session, 8, process=False)
    T_map_camera = make_transform(T_WORLD_OPTICAL_LEVEL[:3, :3], [5.0, 6.0, 7.0])
    result = session.process_next(T_map_camera=T_map_camera)
    np.testing.assert_allclose(result.poses_map[0], T_map_camera, atol=1e-9)
    (later,) = walk(session, 4, first=8)
    np.testing.assert_allclose(later.poses_map[0], T_map_camera, atol=1e-9)


def test_jump_of_the_clock_begins_a_new_world(room, make_session, walk):
    session = make_session()
    walk(session, 20)
    assert "jumped back" in session.add_frame(0, room.IMAGE).restarted
    assert session.ask("still there?").text  # the old scene answers until the new one is there
    results = walk(session, 12, first=1)
    assert [result.world_index for result in results] == [1, 1]
    assert results[0].registration is None
    assert results[0].window_index == 4
    np.testing.assert_allclose(results[0].poses_map[0], T_WORLD_OPTICAL_LEVEL, atol=1e-9)
    assert session.counts.restarts == 1


def test_same_film_gives_the_same_results(room, make_session, walk):
    errors = room.Errors(scale=0.03, turn_rad=0.01, shift_m=0.02, depth=0.03)
    first, second = (walk(make_session(room.Backend(errors, seed=3)), 30)[-1] for _ in range(2))
    np.testing.assert_array_equal(first.poses_map, second.poses_map)
    np.testing.assert_array_equal(first.cloud.points, second.cloud.points)
    assert first.reconstruction.stamps_ns == second.reconstruction.stamps_ns


def test_film_that_ends_shows_its_last_frames(make_session, walk):
    session = make_session()
    walk(session, 3)
    assert session.process_next() is None
    result = session.process_next(partial=True)
    assert len(result.poses_map) == 3
    assert session.process_next(partial=True) is None


def test_still_camera_neither_fills_the_map_nor_falls_silent(room):
    errors = room.Errors(scale=0.03, turn_rad=0.01, shift_m=0.02, depth=0.05)
    session = Session(
        room.Backend(errors),
        SessionSettings(window=replace(room.WINDOWS, min_motion=1.0), voxel_m=0.1),
    )
    views = np.random.default_rng(0).integers(0, 256, (20, 42, 56, 3), np.uint8)
    for i in range(20):
        if session.add_frame(i * room.PERIOD_NS, views[i]).is_ready:
            moved = session.process_next()
    points, placed = len(session.cloud), moved.poses_map[-1]
    still = []
    for i in range(20, 100):
        if session.add_frame(i * room.PERIOD_NS, views[19]).is_ready:
            still.append(session.process_next())
    assert len(still) == 20
    assert all(result.is_still for result in still)
    assert {result.registration.shared_frames for result in still} == {15}
    assert len(session.cloud) == points
    assert session.objects[0].last_seen_ns == 99 * room.PERIOD_NS
    assert len(session.objects) == 1
    # the places that still windows are joined to stay: no random walk
    drift = [np.linalg.norm((r.poses_map[-2] - placed)[:3, 3]) for r in still]
    assert np.mean(drift[10:]) < 2 * np.mean(drift[:10]) + 0.01


def test_reset_empties_everything(make_session, walk):
    session = make_session()
    walk(session, 22)
    session.reset()
    assert session.newest is None
    assert session.objects == ()
    assert len(session.cloud) == 0
    assert session.waiting_frames == 0
    with pytest.raises(NoWindowYetError):
        session.ask("anything?")
    (result, *_) = walk(session, 8, first=22)
    assert result.world_index == 1
    assert result.objects[0].object_id == "chair_1"
