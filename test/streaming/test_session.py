# SPDX-License-Identifier: Apache-2.0
"""Frames to map to answer, with a network whose errors are known; and when it fails."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL, invert_transform, make_transform
from vidllm_ros.streaming.session import (
    EmptyQuestionError,
    NoWindowYetError,
    QuestionTooLongError,
    Session,
    SessionSettings,
    WindowOutdatedError,
)
from vidllm_ros.streaming.window import WindowSettings

IMAGE = np.zeros((42, 56, 3), np.uint8)
WINDOWS = WindowSettings(size=16, stride=4, min_frames=8, min_shared=4, min_motion=0.0)


@pytest.fixture
def make_session(room):
    def make(backend=None, **changes):
        settings = SessionSettings(window=WINDOWS, voxel_m=0.1, map_frame="home", **changes)
        return Session(backend or room.Backend(), settings)

    return make


@pytest.fixture
def walk(room):
    """Add frames first..first + count and process each window that is ready."""

    def run(session, count, first=0, process=True):
        results = []
        for i in range(first, first + count):
            if session.add_frame(i * room.PERIOD_NS, IMAGE).is_ready and process:
                results.append(session.process_next())
        return results

    return run


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


def test_answer_rests_on_named_boxes_in_the_map(make_session, walk):
    session = make_session()
    newest = walk(session, 20)[-1]
    answer = session.ask("  where is\x00 the\tchair? <loc> ")
    assert answer.text == "heard where is the chair? loc"
    assert answer.confidence == 0.7
    assert answer.stamps_ns == newest.reconstruction.stamps_ns
    assert answer.window_index == newest.window_index
    (chair,) = answer.boxes
    assert chair.object_id == "chair_1"
    np.testing.assert_allclose(chair.center, session.objects[0].center, atol=1e-6)


def test_a_place_without_evidence_is_not_seen(room, make_session, walk):
    session = make_session(room.Backend(boxes=()))
    walk(session, 8)
    answer = session.ask("Where is the piano?")
    assert (answer.text, answer.boxes) == ("not seen", ())
    assert session.ask("is there a piano?").text == "heard is there a piano?"


def test_questions_that_cannot_be_asked_say_why(make_session, walk):
    session = make_session(max_question_chars=20)
    with pytest.raises(NoWindowYetError, match="0 frames of 8"):
        session.ask("what is it?")
    walk(session, 8)
    for empty in ("", " \n\t ", "\x00\x07"):
        with pytest.raises(EmptyQuestionError, match="expected words"):
            session.ask(empty)
    with pytest.raises(QuestionTooLongError, match="at most 20 characters, got 100000"):
        session.ask("x" * 100_000)
    assert session.check_question("Wo ist der Stuhl? 🪑") == "Wo ist der Stuhl? 🪑"
    assert session.ask("Wo ist der Stuhl? 🪑").text


def test_jump_of_the_clock_begins_a_new_world(room, make_session, walk):
    session = make_session()
    walk(session, 20)
    assert "jumped back" in session.add_frame(0, IMAGE).restarted
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


def test_slow_network_keeps_one_map(room, make_session, walk):
    """Nine of ten windows are never computed, yet every window joins the one before it."""
    session = make_session()
    results = walk(session, 8)
    for first in range(8, 208, 40):
        walk(session, 40, first, process=False)
        results.append(session.process_next())
    assert {result.world_index for result in results} == {0}
    assert all(result.registration.shared_frames >= 4 for result in results[1:])
    newest = results[-1]
    assert newest.skipped_windows == 45
    T_map_room = T_WORLD_OPTICAL_LEVEL @ invert_transform(room.true_pose(0))
    np.testing.assert_allclose(newest.poses_map[-1], T_map_room @ room.true_pose(207), atol=1e-6)


def test_failure_of_the_network_costs_its_window_only(room, make_session, walk):
    backend = room.Backend()
    session = make_session(backend)
    walk(session, 20)
    points = len(session.cloud)
    backend.fails = True
    walk(session, 40, first=20, process=False)
    with pytest.raises(MemoryError, match="simulated"):
        session.process_next()
    assert len(session.cloud) == points
    assert session.windows_done == 4
    assert session.ask("and now?").window_index == 3
    backend.fails = False
    (result, *_) = walk(session, 8, first=60)
    assert result.world_index == 0
    assert result.registration.shared_frames == 4


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
        room.Backend(errors), SessionSettings(window=replace(WINDOWS, min_motion=1.0), voxel_m=0.1)
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


def test_short_of_memory_the_same_window_is_computed_smaller(room, make_session, walk):
    backend = room.Backend()
    session = make_session(backend)
    walk(session, 20)
    asked, reconstruct = [], backend.reconstruct

    def needs_memory(frames):
        asked.append(len(frames))
        if len(frames) > most:
            raise MemoryError("simulated: no room")
        return reconstruct(frames)

    backend.reconstruct = needs_memory
    most = 9
    (result,) = walk(session, 4, first=20)
    assert asked == [16, 12, 8]
    assert result.reduced == "short of memory: 8 of 16 frames"
    assert result.reconstruction.stamps_ns[-1] == 23 * room.PERIOD_NS
    assert result.registration.shared_frames == 6
    T_map_room = T_WORLD_OPTICAL_LEVEL @ invert_transform(room.true_pose(0))
    np.testing.assert_allclose(result.poses_map[-1], T_map_room @ room.true_pose(23), atol=1e-6)
    most = 16  # memory is there again
    later = walk(session, 20 * 4, first=24)
    assert later[0].reduced
    assert not later[-1].reduced
    assert {result.world_index for result in later} == {0}


@pytest.mark.parametrize(
    ("field", "words"),
    [("T_world_camera", "1 of 16 frames"), ("K", "1 of 16"), ("scale", "got nan")],
)
def test_numbers_that_are_not_finite_do_not_reach_the_map(room, make_session, walk, field, words):
    backend = room.Backend()
    session = make_session(backend)
    walk(session, 20)
    reconstruct = backend.reconstruct

    def spoiled(frames):
        rec = reconstruct(frames)
        if field == "scale":
            return replace(rec, scale=float("nan"))
        getattr(rec, field)[3, 0, 0] = np.nan
        return rec

    backend.reconstruct = spoiled
    walk(session, 4, first=20, process=False)
    with pytest.raises(ValueError, match=f"{field}: expected .*{words}.*left out"):
        session.process_next()
    backend.reconstruct = reconstruct
    (result,) = walk(session, 4, first=24)
    assert result.world_index == 0
    assert np.isfinite(result.poses_map).all()


def test_window_that_fits_at_no_size_fails_in_words_and_costs_itself_only(
    room, make_session, walk
):
    backend = room.Backend()
    session = make_session(backend)
    walk(session, 20)
    backend.fails = True
    walk(session, 4, first=20, process=False)
    with pytest.raises(MemoryError, match=r"smallest step.*simulated.*free memory"):
        session.process_next()
    backend.fails = False
    (result,) = walk(session, 4, first=24)
    assert not result.reduced
    assert len(result.poses_map) == 16


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
    session = Session(backend, SessionSettings(window=replace(WINDOWS, min_frames=2)))
    K = np.diag([30.0, 30.0, 1.0])
    session.add_frame(0, IMAGE, K=K)
    session.add_frame(room.PERIOD_NS, IMAGE, K=K)
    session.process_next()
    np.testing.assert_array_equal(backend.seen.K, [K, K])
    assert backend.forgotten == 0
    session.reset()
    for i in range(2, 4):
        session.add_frame(i * room.PERIOD_NS, IMAGE)
    session.process_next()
    assert backend.forgotten == 1


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


def test_reset_while_a_window_is_computed_throws_it_away(room, make_session, walk):
    backend = room.Backend()
    session = make_session(backend)
    walk(session, 8, process=False)
    inside, goes_on = threading.Event(), threading.Event()
    reconstruct = backend.reconstruct

    def slow(frames):
        inside.set()
        assert goes_on.wait(5)
        return reconstruct(frames)

    backend.reconstruct = slow
    raised = []

    def compute():
        try:
            session.process_next()
        except WindowOutdatedError as error:
            raised.append(error)

    thread = threading.Thread(target=compute)
    thread.start()
    assert inside.wait(5)
    session.reset()  # answers at once although the network is busy
    session.add_frame(0, IMAGE)
    goes_on.set()
    thread.join(5)
    assert len(raised) == 1
    assert session.newest is None
    assert session.waiting_frames == 1


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
