# SPDX-License-Identifier: Apache-2.0
"""One thread that owns the network; everybody else hands it jobs and gets futures.

A newer window takes the place of one still waiting, questions wait in a bounded queue, and neither
can starve the other. Next: session.py, whose `process` and `ask` are the jobs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class BusyError(RuntimeError):
    """The queue of questions is full."""


class WorkerClosedError(RuntimeError):
    """The worker takes no more jobs."""


class JobKind(Enum):
    """How a job waits.

    ASK waits in a bounded queue; WINDOW waits alone: the newest replaces an older one that has not
    begun, whose future is cancelled.
    """

    ASK = "ask"
    WINDOW = "window"


@dataclass(frozen=True)
class _Job(Generic[T]):
    call: Callable[[], T]
    future: Future[T]
    kind: JobKind

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.call()
        except BaseException as error:  # whatever it is belongs to who waits, not to the thread
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Worker:
    """A single thread that runs jobs one after the other until it is closed."""

    def __init__(self, ask_limit: int = 8, name: str = "vidllm-worker") -> None:
        """Start the thread.

        Args:
            ask_limit: questions that may wait, the running one not counted.
            name: of the thread, as debuggers show it.
        """
        self._ask_limit = ask_limit
        self._changed = threading.Condition()
        self._asks: deque[_Job[Any]] = deque()
        self._window: _Job[Any] | None = None
        self._asked_last = False
        self._running: JobKind | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], T], kind: JobKind) -> Future[T]:
        """Hand over a job; its result or exception is in the future.

        A job that never begins (replaced, or the worker closes) has its future cancelled.

        Raises:
            BusyError: the queue of questions is full.
            WorkerClosedError: the worker takes no more jobs.
        """
        job = _Job(call, Future(), kind)
        replaced: _Job[Any] | None = None
        with self._changed:
            if self._is_closed:
                raise WorkerClosedError("worker: expected to be open, got a job after close")
            if kind is JobKind.WINDOW:
                replaced, self._window = self._window, job
            else:
                self._drop_cancelled()
                if len(self._asks) >= self._ask_limit:
                    raise BusyError(
                        f"question: expected fewer than {self._ask_limit} waiting, "
                        f"got {len(self._asks)}; ask again later"
                    )
                self._asks.append(job)
            self._changed.notify()
        if replaced is not None:
            _cancel(replaced)
        return job.future

    @property
    def ask_limit(self) -> int:
        """Questions that may wait; may be changed at any time, jobs already waiting stay."""
        return self._ask_limit

    @ask_limit.setter
    def ask_limit(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"ask_limit: expected at least 1, got {limit}")
        self._ask_limit = limit

    @property
    def is_busy(self) -> bool:
        """Whether a job runs at this moment."""
        return self._running is not None

    @property
    def running(self) -> JobKind | None:
        """What kind of job runs at this moment."""
        return self._running

    def waiting_before(self, future: Future[Any]) -> int:
        """Count the questions in front of this one; 0 where it does not wait."""
        with self._changed:
            self._drop_cancelled()
            futures = [job.future for job in self._asks]
            return futures.index(future) if future in futures else 0

    @property
    def waiting_asks(self) -> int:
        with self._changed:
            self._drop_cancelled()
            return len(self._asks)

    @property
    def has_waiting_window(self) -> bool:
        return self._window is not None

    def close(self, timeout_s: float = 5.0) -> bool:
        """Cancel what waits, end the thread after the job it runs; say whether it ended in time.

        Safe to call twice, and from the worker's own thread (which then cannot wait for itself).
        """
        with self._changed:
            self._is_closed = True
            waiting = list(self._asks)
            if self._window is not None:
                waiting.append(self._window)
            self._asks.clear()
            self._window = None
            self._changed.notify()
        for job in waiting:
            _cancel(job)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait for the thread's end, after close."""
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._running = None
                job = self._next()
                while job is None:
                    if self._is_closed:
                        return
                    self._changed.wait()
                    job = self._next()
                self._running = job.kind
            job.run()
            del job  # the result belongs to the future's holder: keep no window alive here

    def _next(self) -> _Job[Any] | None:
        """Choose the next job; questions and windows take turns when both wait."""
        if self._asks and not (self._asked_last and self._window is not None):
            self._asked_last = True
            return self._asks.popleft()
        self._asked_last = False
        job, self._window = self._window, None
        return job

    def _drop_cancelled(self) -> None:
        """Forget questions whose asker has given up, so that they take no place."""
        self._asks = deque(job for job in self._asks if not job.future.cancelled())


def _cancel(job: _Job[Any]) -> None:
    if job.future.cancel():
        job.future.set_running_or_notify_cancel()  # wakes whoever waits on it
