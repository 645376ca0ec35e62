# SPDX-License-Identifier: Apache-2.0
"""The one thread: order, bounds, replacement, faults, and its end."""

import threading
from concurrent.futures import CancelledError

import pytest

from vidllm_ros.streaming.worker import BusyError, JobKind, Worker, WorkerClosedError

WAIT_S = 5.0


@pytest.fixture
def worker():
    worker = Worker(ask_limit=2)
    yield worker
    assert worker.close(WAIT_S)


@pytest.fixture
def gate(worker):
    """Hold the worker in a job until the test opens the gate."""
    opened, entered = threading.Event(), threading.Event()

    def hold():
        entered.set()
        assert opened.wait(WAIT_S)

    worker.submit(hold, JobKind.WINDOW)
    assert entered.wait(WAIT_S)
    yield opened
    opened.set()


def test_all_jobs_run_on_one_other_thread(worker):
    kinds = [JobKind.ASK, JobKind.WINDOW, JobKind.ASK]
    names = {worker.submit(threading.get_ident, kind).result(WAIT_S) for kind in kinds}
    assert len(names) == 1
    assert threading.get_ident() not in names


def test_fault_goes_to_the_asker_and_the_thread_lives(worker):
    def fail():
        raise SystemExit("even this")

    future = worker.submit(fail, JobKind.WINDOW)
    with pytest.raises(SystemExit, match="even this"):
        future.result(WAIT_S)
    assert worker.submit(lambda: 3, JobKind.ASK).result(WAIT_S) == 3


def test_newer_window_replaces_the_waiting_one(worker, gate):
    ran = []
    old = worker.submit(lambda: ran.append("old"), JobKind.WINDOW)
    new = worker.submit(lambda: ran.append("new"), JobKind.WINDOW)
    assert worker.has_waiting_window
    with pytest.raises(CancelledError):
        old.result(WAIT_S)
    gate.set()
    new.result(WAIT_S)
    assert ran == ["new"]


def test_questions_are_bounded_and_a_given_up_one_frees_its_place(worker, gate):
    first = worker.submit(lambda: 1, JobKind.ASK)
    second = worker.submit(lambda: 2, JobKind.ASK)
    assert worker.running is JobKind.WINDOW
    assert [worker.waiting_before(future) for future in (first, second)] == [0, 1]
    with pytest.raises(BusyError, match="fewer than 2 waiting, got 2"):
        worker.submit(lambda: 3, JobKind.ASK)
    assert first.cancel()
    assert worker.waiting_asks == 1
    third = worker.submit(lambda: 3, JobKind.ASK)
    worker.ask_limit = 3
    fourth = worker.submit(lambda: 4, JobKind.ASK)
    gate.set()
    assert [f.result(WAIT_S) for f in (second, third, fourth)] == [2, 3, 4]


def test_questions_take_turns_with_windows(worker, gate):
    ran = []
    worker.ask_limit = 5
    jobs = [worker.submit(lambda i=i: ran.append(i), JobKind.ASK) for i in range(3)]
    jobs.append(worker.submit(lambda: ran.append("window"), JobKind.WINDOW))
    gate.set()
    for job in jobs:
        job.result(WAIT_S)
    assert ran == [0, "window", 1, 2]


def test_busy_is_seen(worker, gate):
    assert worker.is_busy
    gate.set()
    worker.submit(lambda: None, JobKind.ASK).result(WAIT_S)
    deadline = threading.Event()
    for _ in range(100):
        if not worker.is_busy:
            break
        deadline.wait(0.02)
    assert not worker.is_busy


def test_close_cancels_what_waits_and_refuses_more():
    worker = Worker()
    opened, entered = threading.Event(), threading.Event()

    def hold():
        entered.set()
        opened.wait(WAIT_S)
        return "done"

    running = worker.submit(hold, JobKind.WINDOW)
    assert entered.wait(WAIT_S)
    kinds = (JobKind.ASK, JobKind.WINDOW)
    waiting = [worker.submit(lambda: None, kind) for kind in kinds]
    assert not worker.close(0.05)  # still in its job
    for future in waiting:
        assert future.cancelled()
    with pytest.raises(WorkerClosedError):
        worker.submit(lambda: None, JobKind.ASK)
    opened.set()
    assert worker.close(WAIT_S)
    assert running.result(WAIT_S) == "done"
    assert worker.close(WAIT_S)


def test_close_from_its_own_thread_does_not_wait_for_itself():
    worker = Worker()
    assert worker.submit(lambda: worker.close(WAIT_S), JobKind.ASK).result(WAIT_S) is False
    assert worker.close(WAIT_S)


def test_finished_results_are_not_kept_alive(worker):
    import gc
    import weakref

    class Large:
        pass

    future = worker.submit(Large, JobKind.WINDOW)
    held = weakref.ref(future.result(WAIT_S))
    worker.submit(lambda: None, JobKind.ASK).result(WAIT_S)
    del future
    gc.collect()
    assert held() is None


def test_ask_limit_needs_room_for_one(worker):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        worker.ask_limit = 0
