# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of its own for each test process, on this machine only, and the node under test.

The variables must stand before rclpy is imported anywhere in the process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
sys.path.insert(0, str(Path(__file__).parent))  # for ros_harness


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    rclpy = pytest.importorskip("rclpy")
    pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def start(ros: None) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a node with these parameters; all end with the test."""
    from ros_harness import Harness

    running: list[Harness] = []

    def begin(namespace: str = "", arguments: Sequence[str] = (), **parameters: Any) -> Harness:
        running.append(Harness(parameters, namespace, arguments))
        return running[-1]

    yield begin
    for harness in running:
        harness.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the nodes of this test a backend that the test can hold back."""
    pytest.importorskip("rclpy")
    from ros_harness import HeldBackend, loaded

    backend = HeldBackend()
    monkeypatch.setattr("vidllm_ros.ros.node.load_backend", lambda *_: loaded(backend))
    yield backend
    backend.may_reconstruct.set()
    backend.may_answer.set()
