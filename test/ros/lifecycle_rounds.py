# SPDX-License-Identifier: Apache-2.0
"""A node alone in its process walks its lifecycle round by round and prints the bytes it holds.

Each round configures, activates, computes a window, deactivates and cleans up. The argument is a
number of bytes to lose each round: what a leak of that size looks like. With a second, the name of
a model, two rounds only load it and give it back, and each prints what is held before and after.
"""

from __future__ import annotations

import gc
import sys
import time

import numpy as np
from rclpy.parameter import Parameter

from vidllm_ros.ros.model_memory import memory_used_bytes, release_memory
from vidllm_ros.ros.node import VidllmNode
from vidllm_ros.ros.process import ros_context

ROUNDS = 20
VALUES = {
    "backend": "standin", "autostart": False,
    "window_size": 4, "window_stride": 2, "window_min_frames": 4,
}  # fmt: skip


def walk(node: VidllmNode, turn: int) -> None:
    """Go once through all states, with a window."""
    node.trigger_configure()
    node.trigger_activate()
    engine = node._engine
    assert engine is not None
    for i in range(4):
        rgb = np.random.default_rng(i).integers(0, 256, (42, 56, 3), np.uint8)
        engine.offer((turn * 10 + i) * 10**8, rgb, "camera_optical_frame", None)
    while not engine.windows_done:
        time.sleep(0.005)
    node.trigger_deactivate()
    node.trigger_cleanup()


def load_and_free(model: str) -> None:
    """Print what is held with a model and without it, twice."""
    values = {**VALUES, "backend": "vidllm", "model": model, "device": "cpu"}
    with ros_context(["lifecycle_rounds"]):
        given = [Parameter(name, value=value) for name, value in values.items()]
        node = VidllmNode(parameter_overrides=given)
        for _ in range(2):
            node.trigger_configure()
            print(memory_used_bytes("cpu"), flush=True)
            node.trigger_cleanup()
            print(memory_used_bytes("cpu"), flush=True)
        assert node.release()
        node.destroy_node()


def main(leak_bytes: int) -> None:
    """Walk all rounds and print what is held after each."""
    lost = []
    with ros_context(["lifecycle_rounds"]):
        given = [Parameter(name, value=value) for name, value in VALUES.items()]
        node = VidllmNode(parameter_overrides=given)
        for turn in range(ROUNDS):
            walk(node, turn)
            lost.append(bytearray(b"x" * leak_bytes))
            gc.collect()
            print(release_memory("cpu"), flush=True)
        assert node.release()
        node.destroy_node()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        load_and_free(sys.argv[2])
    else:
        main(int(sys.argv[1]))
