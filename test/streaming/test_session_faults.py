# SPDX-License-Identifier: Apache-2.0
"""A network that fails, gives nonsense or finds no memory costs its window, never the map."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL, invert_transform
from vidllm_ros.streaming.session import WindowOutdatedError


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
    session.add_frame(0, room.IMAGE)
    goes_on.set()
    thread.join(5)
    assert len(raised) == 1
    assert session.newest is None
    assert session.waiting_frames == 1
