# SPDX-License-Identifier: Apache-2.0
"""Calls a running node's lifecycle and parameter services while it computes, and times each call.

`python -m vidllm_ros.ros.bench_calls --calls N` waits for the node to compute windows and prints
one line of JSON with every latency by service; `vidllm bench node` starts it beside a node and a
player. Next: node.py, the other end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.node import Node

from vidllm_ros.ros import topics
from vidllm_ros.ros.ask import ServiceClient
from vidllm_ros.ros.process import SpinningThread, ros_context
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.topics import Service

CALL_TIMEOUT_S = 30.0
LIVE_PARAMETER = "score_threshold"
TRANSITIONS_EVERY = 25
"""A deactivate and an activate after so many calls: each empties the input for a while."""


class Caller:
    """Clients of one node's services; its rclpy node must be spinning."""

    def __init__(self, node: Node, name: str) -> None:
        self.windows = 0
        node.create_subscription(
            topics.STATUS.type, f"/{name}/status", self._count, profile(topics.STATUS.qos)
        )

        def client(kind: Any, service: str) -> ServiceClient:
            return ServiceClient(node, Service(f"/{name}/{service}", kind, ""))

        self._get_state = client(GetState, "get_state")
        self._transitions = client(GetAvailableTransitions, "get_available_transitions")
        self._get = client(GetParameters, "get_parameters")
        self._set = client(SetParameters, "set_parameters")
        self._describe = client(DescribeParameters, "describe_parameters")
        self._change = client(ChangeState, "change_state")
        self._value = 0.3

    def _count(self, _: Any) -> None:
        self.windows += 1

    def calls(self) -> dict[str, Callable[[], Any]]:
        """Return the calls that change nothing a window depends on, by service."""
        names = [LIVE_PARAMETER]
        return {
            "get_state": lambda: self._send(self._get_state, GetState.Request()),
            "get_available_transitions": lambda: self._send(
                self._transitions, GetAvailableTransitions.Request()
            ),
            "get_parameters": lambda: self._send(self._get, GetParameters.Request(names=names)),
            "set_parameters": self._set_live,
            "describe_parameters": lambda: self._send(
                self._describe, DescribeParameters.Request(names=names)
            ),
        }

    def _send(self, client: ServiceClient, request: Any) -> Any:
        return client.call(request, CALL_TIMEOUT_S)

    def _set_live(self) -> Any:
        self._value = 0.3 + (self._value + 0.01) % 0.1
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=self._value)
        reply = self._send(
            self._set,
            SetParameters.Request(parameters=[Parameter(name=LIVE_PARAMETER, value=value)]),
        )
        if not reply.results[0].successful:
            raise RuntimeError(f"{LIVE_PARAMETER}: refused: {reply.results[0].reason}")
        return reply

    def change(self, transition: int) -> None:
        """Ask for a lifecycle transition.

        Raises:
            RuntimeError: the node refuses.
        """
        request = ChangeState.Request(transition=Transition(id=transition))
        if not self._send(self._change, request).success:
            raise RuntimeError(f"transition {transition}: the node refused")

    def wait_for_windows(self, count: int, timeout_s: float) -> None:
        """Wait until so many windows were published.

        Raises:
            RuntimeError: they were not in time.
        """
        end = time.monotonic() + timeout_s
        while self.windows < count:
            if time.monotonic() > end:
                raise RuntimeError(
                    f"expected {count} windows in {timeout_s} s, got {self.windows}"
                )
            time.sleep(0.05)


def measure(caller: Caller, count: int, wait_s: float) -> dict[str, Any]:
    """Make `count` calls while windows are computed; a transition pair now and then."""
    caller.wait_for_windows(1, wait_s)
    begin, windows = time.monotonic(), caller.windows
    latencies: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> None:
        started = time.perf_counter()
        call()
        latencies.setdefault(name, []).append(time.perf_counter() - started)

    calls = list(caller.calls().items())
    for number in range(count):
        timed(*calls[number % len(calls)])
        time.sleep(0.03)  # a person's tools, not a storm
        if number % TRANSITIONS_EVERY == TRANSITIONS_EVERY - 1:
            caller.wait_for_windows(caller.windows + 1, wait_s)  # the next is under way
            timed("deactivate", lambda: caller.change(Transition.TRANSITION_DEACTIVATE))
            timed("activate", lambda: caller.change(Transition.TRANSITION_ACTIVATE))
            caller.wait_for_windows(caller.windows + 1, wait_s)
    every = 1e3 * np.concatenate([np.array(values) for values in latencies.values()])
    return {
        "callback_p99_ms": float(np.quantile(every, 0.99)),
        "callback_median_ms": float(np.median(every)),
        "callback_max_ms": float(every.max()),
        "callback_calls": len(every),
        "callback_p99_ms_by_service": {
            name: float(np.quantile(1e3 * np.array(values), 0.99))
            for name, values in latencies.items()
        },
        "callback_windows_meanwhile": caller.windows - windows,
        "callback_seconds": time.monotonic() - begin,
    }


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench_calls", description="Time a running node's services.")
    parser.add_argument("--node", default="vidllm", help="name of the node")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--wait", type=float, default=120.0, help="s for a window to come")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON."""
    with ros_context(sys.argv if argv is None else ["bench_calls", *argv]) as arguments:
        options = _options(arguments[1:])
        node = Node("vidllm_bench_caller")
        caller = Caller(node, options.node)
        with SpinningThread(node):
            print(json.dumps(measure(caller, options.calls, options.wait)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
