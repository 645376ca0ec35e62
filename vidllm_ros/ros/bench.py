# SPDX-License-Identifier: Apache-2.0
"""Measures what the node does around the network, in one process, over real publishers.

`python -m vidllm_ros.ros.bench FRAMES.npz --model M` runs the node's own functions in the order
the node calls them, with each step timed, and prints one line of JSON; `vidllm bench node` starts
it. Next: bench_calls.py, which measures a running node from outside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode

from vidllm_ros.geometry.image import resize_frames
from vidllm_ros.geometry.point_cloud import PointCloud
from vidllm_ros.network.checkpoint import load_vidllm
from vidllm_ros.network.frame_cache import FrameCache
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.ros.conversions import cloud_to_msg, image_from_rgb, rgb_from_image
from vidllm_ros.ros.engine import session_settings
from vidllm_ros.ros.frame_stream import CameraFrame, load_frames
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.process import end_construction, ros_context
from vidllm_ros.ros.publishers import Outputs, StatusFacts
from vidllm_ros.ros.stamps import header
from vidllm_ros.streaming.loading import choose_device
from vidllm_ros.streaming.repeated_timing import measure_in_turn, spread_of
from vidllm_ros.streaming.session import Session
from vidllm_ros.structures import Frames, SceneContext

CLOUD_POINTS = 1_000_000
NETWORK_STAGES = ("reconstruct", "detect")
QUESTIONS = ("what color is the table?", "what color is the chair?")
LISTEN_S = 20.0


def measure_cloud(repetitions: int) -> dict[str, Any]:
    """Time a cloud's way into a message against a plain copy of the same bytes.

    By the thread's own processor time: both run on one thread, and a slice that another process
    takes is no cost of theirs. The wall's ratio is reported beside it.
    """
    rng = np.random.default_rng(0)
    cloud = PointCloud(
        rng.normal(size=(CLOUD_POINTS, 3)).astype(np.float32),
        rng.integers(0, 256, (CLOUD_POINTS, 3), np.uint8),
        rng.random(CLOUD_POINTS, np.float32),
    )
    head = header(0, "map")
    content = np.frombuffer(cloud_to_msg(head, cloud).data, np.uint8)
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: content.copy(),
        "message": lambda: cloud_to_msg(head, cloud),
    }
    cpu = measure_in_turn(calls, repetitions, warm_up=3, clock=time.thread_time)
    wall = measure_in_turn(calls, repetitions, warm_up=1)
    return {
        "pointcloud2_ratio": _ratio(cpu, "message", "copy"),
        "pointcloud2_wall_ratio": _ratio(wall, "message", "copy"),
        "pointcloud2": {name: spread_of(cpu[name]).in_ms() for name in cpu},
    }


def measure_encoder(
    model: VidLLM, frames: Frames, stride: int, repetitions: int
) -> dict[str, Any]:
    """Time the encoder's share of a window whose older frames are remembered, against all anew."""
    first = model.prepare(frames.select(range(len(frames) - stride)))
    window = model.prepare(frames.select(range(stride, len(frames))))
    caches = {"cached": FrameCache(), "anew": FrameCache(max_bytes=0)}

    def encode(cache: FrameCache, shown: Frames) -> object:
        return cache.encode(shown.images, shown.stamps_ns, model._encode_images)

    def before(name: str) -> None:
        if name == "cached":
            encode(caches[name], first)

    def call(name: str) -> Callable[[], object]:
        return lambda: encode(caches[name], window)

    seconds = measure_in_turn({name: call(name) for name in caches}, repetitions, before=before)
    return {
        "encode_once_ratio": _ratio(seconds, "cached", "anew"),
        "encode_once": {name: spread_of(seconds[name]).in_ms() for name in seconds},
    }


def measure_questions(model: VidLLM, scene: SceneContext, repetitions: int) -> dict[str, Any]:
    """Time a scene's first question against the next; the two questions change places."""
    seconds: dict[str, list[float]] = {"first": [], "second": []}
    for turn in range(repetitions + 1):
        fresh = replace(scene)  # equal, but never asked about
        for name, question in zip(seconds, QUESTIONS[:: 1 if turn % 2 else -1], strict=True):
            begin = time.perf_counter()
            model.answer(fresh, question)
            seconds[name].append(time.perf_counter() - begin)
    counted = {name: values[1:] for name, values in seconds.items()}
    return {
        "second_question_ratio": _ratio(counted, "second", "first"),
        "questions": {name: spread_of(counted[name]).in_ms() for name in counted},
    }


class WindowBench:
    """A walk of a camera through the node's own steps, each timed, published for real."""

    def __init__(self, node: LifecycleNode, model: VidLLM, parameters: NodeParameters) -> None:
        self._node = node
        self._model = model
        self._parameters = parameters
        self._session = Session(model, session_settings(parameters))
        self._outputs = Outputs(node, parameters.world_frame)
        self._facts = StatusFacts(0, 0, "vidllm", str(model.device), str(model.dtype), 0)
        self.windows: list[dict[str, float]] = []
        self.scene: SceneContext | None = None

    def open(self) -> None:
        """Publish from now on."""
        self._outputs.open()
        self._node.trigger_configure()
        self._node.trigger_activate()

    def close(self) -> None:
        self._outputs.close()

    def run(self, frames: Sequence[CameraFrame]) -> None:
        """Show all frames, compute and publish every window; full ones are kept as timings."""
        messages = [image_from_rgb(header(f.stamp_ns, f.frame_id), f.rgb) for f in frames]
        spent = {"convert": 0.0, "window": 0.0}
        for frame, message in zip(frames, messages, strict=True):
            begin = time.perf_counter()
            rgb = rgb_from_image(message)
            converted = time.perf_counter()
            added = self._session.add_frame(frame.stamp_ns, rgb, frame.frame_id, frame.K)
            spent["convert"] += converted - begin
            spent["window"] += time.perf_counter() - converted
            if added.is_ready:
                self._compute(spent)
                spent = {"convert": 0.0, "window": 0.0}

    def _compute(self, spent: dict[str, float]) -> None:
        begin = time.perf_counter()
        result = self._session.process_next()
        if result is None:
            return
        processed = time.perf_counter()
        self._outputs.publish(result, self._parameters, self._facts)
        published = time.perf_counter()
        frames = Frames(result.reconstruction.images, result.reconstruction.stamps_ns)
        self.scene = result.reconstruction.scene
        timings = dict(spent)
        timings["window"] += processed - begin - sum(result.timings_s.values())
        timings |= result.timings_s
        timings["publish"] = published - processed
        if len(frames) == self._parameters.window_size:
            self.windows.append(timings)

    def report(self) -> dict[str, Any]:
        """Summarise the full windows.

        Raises:
            ValueError: there was none.
        """
        if not self.windows:
            raise ValueError("frames: expected enough for a full window, got none; give more")
        stages = {name: [window[name] for window in self.windows] for name in self.windows[0]}
        network = np.sum([stages[name] for name in NETWORK_STAGES], axis=0)
        around = np.sum([stages[name] for name in stages if name not in NETWORK_STAGES], axis=0)
        return {
            "overhead_ratio": float(np.median(around) / np.median(network)),
            "overhead_ratio_per_window": (around / network).round(4).tolist(),
            "network": spread_of(network).in_ms(),
            "around_network": spread_of(around).in_ms(),
            "stages": {name: spread_of(values).in_ms() for name, values in stages.items()},
        }


def measure_resize(model: VidLLM, frames: Frames, repetitions: int) -> dict[str, Any]:
    """Time the resize of a window's frames, which the network's time includes."""
    config = model.config

    def resize() -> Frames:
        return resize_frames(frames, config.image_size, config.patch_size, config.resize_mode)

    seconds = measure_in_turn({"resize": resize}, repetitions)
    return {"resize_in_network": spread_of(seconds["resize"]).in_ms()}


def _ratio(seconds: dict[str, list[float]], top: str, bottom: str) -> float:
    return spread_of(seconds[top]).median / spread_of(seconds[bottom]).median


def measure(node: LifecycleNode, options: argparse.Namespace) -> dict[str, Any]:
    """Run every part and return the report."""
    report = measure_cloud(options.repetitions)
    model = load_vidllm(options.model, choose_device(options.device))
    shown = load_frames(options.frames)
    parameters = NodeParameters(keyframe_motion=0.0)  # every frame: the film makes full windows
    bench = WindowBench(node, model, parameters)
    bench.open()
    try:
        _wait_for_listener(node, options.listen)
        bench.run(shown)
    finally:
        bench.close()
    report |= bench.report()
    size, stride = parameters.window_size, parameters.window_stride
    window = [frame.rgb for frame in shown[: size + stride]]
    frames = Frames(np.stack(window), tuple(f.stamp_ns for f in shown[: size + stride]))
    report |= measure_resize(model, frames.select(range(size)), options.repetitions)
    report |= measure_encoder(model, frames, stride, options.repetitions)
    assert bench.scene is not None
    report |= measure_questions(model, bench.scene, options.repetitions)
    return report | {"windows": len(bench.windows), "image_size": list(shown[0].rgb.shape[:2])}


def _wait_for_listener(node: LifecycleNode, name: str) -> None:
    """Wait until the node named so listens; what nobody hears costs less to publish.

    Raises:
        ValueError: it does not in time.
    """
    end = time.monotonic() + LISTEN_S
    while name and name not in node.get_node_names():
        if time.monotonic() > end:
            raise ValueError(f"listen: expected a node {name} within {LISTEN_S:.0f} s, got none")
        time.sleep(0.1)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description="Measure the node's own steps.")
    parser.add_argument("frames", type=Path, help="an .npz as the player takes")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--listen", default="", help="name of a node to wait for")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON."""
    with ros_context(sys.argv if argv is None else ["bench", *argv]) as arguments:
        options = _options(arguments[1:])
        node = LifecycleNode("vidllm")
        end_construction()
        try:
            print(json.dumps(measure(node, options)), flush=True)
        finally:
            node.destroy_node()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
