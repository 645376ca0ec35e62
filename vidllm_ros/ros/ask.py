# SPDX-License-Identifier: Apache-2.0
"""Asks the node: `python -m vidllm_ros.ros.ask "question" …`, or saves its map with --save-map.

Prints words, or one line of JSON a reply for other programs. Next: questions.py, the other end.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rclpy.node import Node

from vidllm_ros.msg import GroundedObject
from vidllm_ros.ros import topics
from vidllm_ros.ros.process import SpinningThread, refused_arguments, ros_context
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.srv import Ask, SaveMap

NO_SERVICE, INTERRUPTED = 3, 130
_MARGIN_S = 2.0
_CONSTANTS = (
    "OK EMPTY_QUESTION NO_WINDOW_YET BUSY TIMEOUT TOO_LONG INACTIVE INTERNAL"  # of Ask.srv
)
ERROR_NAMES = {getattr(Ask.Response, name): name for name in _CONSTANTS.split()}
_WORTH_A_RETRY = {Ask.Response.NO_WINDOW_YET, Ask.Response.INACTIVE, Ask.Response.BUSY}


class NoServiceError(Exception):
    """Nobody serves, or the reply did not come."""


class ServiceClient:
    """Calls one service and waits for the reply, with a limit; its node must be spinning."""

    def __init__(self, node: Node, service: topics.Service, name: str = "") -> None:
        self._name = node.resolve_service_name(name or service.name)
        self._client = node.create_client(
            service.type, name or service.name, qos_profile=profile("service")
        )

    def call(self, request: Any, timeout_s: float) -> Any:
        """Send the request; return the reply.

        Raises:
            NoServiceError: there is no such service, or no reply in time.
        """
        end = time.monotonic() + timeout_s
        name = self._name
        if not self._client.wait_for_service(timeout_s):
            raise NoServiceError(f"nobody serves {name}; is the node running in this namespace?")
        done = threading.Event()
        future = self._client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(max(0.1, end - time.monotonic())):
            self._client.remove_pending_request(future)
            raise NoServiceError(f"{name} did not reply within {timeout_s:g} s")
        return future.result()


def object_as_json(msg: GroundedObject) -> dict[str, Any]:
    """Write an object in plain numbers."""
    p, q, size = msg.pose.position, msg.pose.orientation, msg.size
    return {
        "id": msg.id,
        "label": msg.label,
        "score": float(msg.score),
        "center": [p.x, p.y, p.z],
        "size": [size.x, size.y, size.z],
        "quat_xyzw": [q.x, q.y, q.z, q.w],
        "last_seen_ns": stamp_to_ns(msg.last_seen),
    }


def reply_as_json(question: str, reply: Any, round_trip_s: float) -> dict[str, Any]:
    """Write a reply of `ask` in plain values."""
    return {
        "question": question,
        "success": bool(reply.success),
        "error_code": int(reply.error_code),
        "error": ERROR_NAMES.get(reply.error_code, "UNKNOWN"),
        "message": reply.message,
        "answer": reply.answer,
        "confidence": float(reply.confidence),
        "latency_s": float(reply.latency_s),
        "round_trip_s": round_trip_s,
        "frame_stamps": [stamp_to_ns(stamp) for stamp in reply.frame_stamps],
        "frame_id": reply.objects.header.frame_id,
        "objects": [object_as_json(item) for item in reply.objects.objects],
    }


def ask_until(client: ServiceClient, question: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ask; while the node is not ready and --retry lasts, ask again."""
    end = time.monotonic() + options.retry
    while True:
        started = time.monotonic()
        request = Ask.Request(
            question=question,
            wait_for_new_window=options.wait_for_new_window,
            timeout_s=float(options.timeout),
        )
        reply = client.call(request, options.timeout + _MARGIN_S)
        answer = reply_as_json(question, reply, time.monotonic() - started)
        again = reply.error_code in _WORTH_A_RETRY and time.monotonic() < end
        if not again:
            return answer
        time.sleep(0.5)


def _ask_all(node: Node, options: argparse.Namespace) -> int:
    with refused_arguments("ask"):
        client = ServiceClient(node, topics.ASK, options.service)
    all_well = True
    for question in options.questions:
        answer = ask_until(client, question, options)
        all_well &= answer["success"]
        if options.json:
            print(json.dumps(answer), flush=True)
        else:
            print(_in_words(answer), flush=True)
    return 0 if all_well else 1


def _in_words(answer: dict[str, Any]) -> str:
    question = f"Q: {answer['question']}\n"
    if not answer["success"]:
        return f"{question}!: {answer['error']}: {answer['message']}"
    facts = f"confidence {answer['confidence']:.2f}, {answer['latency_s']:.2f} s"
    return f"{question}A: {answer['answer']} ({facts}, {len(answer['objects'])} objects)"


def _save_map(node: Node, options: argparse.Namespace) -> int:
    name = topics.SAVE_MAP.name.replace("~", options.node)
    with refused_arguments("ask"):
        client = ServiceClient(node, topics.SAVE_MAP, name)
    path = str(Path(options.save_map).expanduser().absolute())  # as the node wants it
    reply = client.call(SaveMap.Request(path=path), options.timeout)
    fields = reply.get_fields_and_field_types()
    print(json.dumps({field: getattr(reply, field) for field in fields}), flush=True)
    return 0 if reply.success else 1


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("ask", description="Ask the node about what it has seen.")
    parser.add_argument("questions", nargs="*", help="in plain language")
    parser.add_argument("--json", action="store_true", help="one line of JSON a reply")
    parser.add_argument("--timeout", type=float, default=60.0, help="s to wait for each reply")
    parser.add_argument("--retry", type=float, default=0.0, help="s to ask again while not ready")
    parser.add_argument("--wait-for-new-window", action="store_true")
    parser.add_argument("--service", default="", help="name of the service (ask)")
    parser.add_argument("--node", default="vidllm", help="name of the node, for --save-map")
    parser.add_argument("--save-map", metavar="PATH.ply", help="save the map instead of asking")
    options = parser.parse_args(list(argv))
    if bool(options.questions) == bool(options.save_map):
        parser.error("expected questions or --save-map, one of the two")
    if not options.timeout > 0:
        parser.error(f"--timeout: expected above 0, got {options.timeout:g}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client."""
    with ros_context(sys.argv if argv is None else ["ask", *argv]) as arguments:
        options = _options(arguments[1:])
        node = Node("vidllm_asker")
        with SpinningThread(node):
            try:
                if options.save_map:
                    return _save_map(node, options)
                return _ask_all(node, options)
            except NoServiceError as error:
                print(f"ask: {error}", file=sys.stderr)
                return NO_SERVICE
            except KeyboardInterrupt:
                return INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
