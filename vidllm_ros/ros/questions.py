# SPDX-License-Identifier: Apache-2.0
"""The `ask` service: check the question, wait a bounded time for the worker, always reply.

Each question waits in its own thread of a reentrant callback group; how many may wait is bounded,
one more is answered BUSY at once. Every way it can go is an error code of Ask.srv. Next:
engine.py, which puts the question to the session.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError

from rclpy.lifecycle import LifecycleNode

from vidllm_ros.ros import messages
from vidllm_ros.ros.engine import Engine
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.stamps import ns_to_stamp
from vidllm_ros.srv import Ask
from vidllm_ros.streaming.session import (
    EmptyQuestionError,
    NoWindowYetError,
    QuestionTooLongError,
    SessionError,
)
from vidllm_ros.streaming.worker import BusyError, WorkerClosedError
from vidllm_ros.structures import Answer

LONGEST_WAIT_S = 3600.0
Reply = Ask.Response
_CODES: dict[type[SessionError], int] = {
    EmptyQuestionError: Reply.EMPTY_QUESTION,
    NoWindowYetError: Reply.NO_WINDOW_YET,
    QuestionTooLongError: Reply.TOO_LONG,
}


class RefusedError(Exception):
    """A question that gets an error code instead of an answer."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class Questions:
    """Answers `ask` as long as the node lives.

    Attributes:
        waiting: questions being waited for now.
    """

    def __init__(
        self,
        node: LifecycleNode,
        parameters: Callable[[], NodeParameters],
        active_engine: Callable[[], Engine | None],
    ) -> None:
        """Serve questions.

        Args:
            node: for its log.
            parameters: the current ones.
            active_engine: what answers, or None while the node is not active.
        """
        self._node = node
        self._parameters = parameters
        self._active_engine = active_engine
        self._lock = threading.Lock()
        self.waiting = 0

    def handle(self, request: Ask.Request, reply: Ask.Response) -> Ask.Response:
        """Fill the reply; never raises."""
        started = time.monotonic()
        code = Reply.OK
        try:
            with _Place(self):
                answer = self._answer(request, started)
            self._fill(reply, answer)
        except RefusedError as refused:
            code, reply.message = refused.code, str(refused)
        except Exception as error:
            code, reply.message = Reply.INTERNAL, f"the network failed: {error!r}"
            self._node.get_logger().error(f"ask: {error!r}")
        reply.success, reply.error_code = code == Reply.OK, code
        reply.latency_s = time.monotonic() - started
        words = request.question[:80]
        outcome = reply.answer if reply.success else reply.message
        self._node.get_logger().info(f"ask: {words!r}: {outcome!r} in {reply.latency_s:.2f} s")
        return reply

    def _answer(self, request: Ask.Request, started: float) -> Answer:
        parameters = self._parameters()
        engine = self._active_engine()
        if engine is None:
            raise RefusedError(
                Reply.INACTIVE, "the node is not active; configure and activate it first"
            )
        deadline = started + _timeout_s(request.timeout_s, parameters.ask_timeout_s)
        try:
            if request.wait_for_new_window:
                with contextlib.suppress(NoWindowYetError):  # it will be there
                    engine.check_question(request.question)
                self._wait_for_window(engine, deadline)
            question = engine.check_question(request.question)
            return self._put(engine, question, deadline)
        except SessionError as error:
            raise RefusedError(_CODES.get(type(error), Reply.INTERNAL), str(error)) from error

    def _wait_for_window(self, engine: Engine, deadline: float) -> None:
        if not engine.wait_for_window(engine.windows_done, deadline - time.monotonic()):
            if not engine.is_running:
                raise _gone()
            raise RefusedError(Reply.TIMEOUT, "no new window was completed in time")

    def _put(self, engine: Engine, question: str, deadline: float) -> Answer:
        try:
            future = engine.ask(question)
        except BusyError as error:
            raise RefusedError(Reply.BUSY, str(error)) from error
        except WorkerClosedError as error:
            raise _gone() from error
        try:
            return future.result(max(0.0, deadline - time.monotonic()))
        except (FutureTimeoutError, TimeoutError) as error:
            reason = engine.why_late(future)
            future.cancel()
            raise RefusedError(Reply.TIMEOUT, f"no answer in time; {reason}") from error
        except CancelledError as error:
            raise _gone() from error
        except ValueError as error:
            if str(error).startswith("question"):  # more tokens than the network can read
                raise RefusedError(Reply.TOO_LONG, str(error)) from error
            raise

    def _fill(self, reply: Ask.Response, answer: Answer) -> None:
        newest_ns = max(answer.stamps_ns, default=0)
        frame = self._parameters().world_frame
        reply.answer = answer.text
        reply.confidence = float(answer.confidence)
        reply.objects = messages.object_array(newest_ns, frame, answer.boxes)
        reply.frame_stamps = [ns_to_stamp(stamp_ns) for stamp_ns in answer.stamps_ns]

    def enter(self) -> None:
        """Take a place in the queue, or refuse."""
        with self._lock:
            limit = self._parameters().ask_queue
            if self.waiting >= limit:
                raise RefusedError(
                    Reply.BUSY, f"{self.waiting} questions are waiting already; ask again later"
                )
            self.waiting += 1

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self.waiting -= 1


class _Place:
    """A place in the bounded queue, held while a question waits."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def __enter__(self) -> None:
        self._questions.enter()

    def __exit__(self, *_: object) -> None:
        self._questions.leave()


def _gone() -> RefusedError:
    return RefusedError(Reply.INACTIVE, "the node was deactivated while the question waited")


def _timeout_s(wanted: float, default: float) -> float:
    """Take the caller's timeout where it is a positive number."""
    return min(wanted, LONGEST_WAIT_S) if math.isfinite(wanted) and wanted > 0 else default
