# SPDX-License-Identifier: Apache-2.0
"""Writes down what the node publishes: `python -m vidllm_ros.ros.record --out FOLDER`.

Joins the messages of each window by their stamp and writes record.json and record.npz when enough
came, when asked to stop, or on a signal. Next: publishers.py, the other end.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node

from vidllm_ros.geometry.point_cloud import write_atomically
from vidllm_ros.ros import topics
from vidllm_ros.ros.ask import object_as_json
from vidllm_ros.ros.conversions import (
    cloud_from_msg,
    depth_from_image,
)
from vidllm_ros.ros.process import SpinningThread, ros_context, stop_event
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.stamps import stamp_to_ns

Window = dict[str, Any]
NOBODY_PUBLISHES = 3
_TAIL_S = 1.0  # messages of the last window that are still on their way


class Recorder:
    """Collects the node's topics, by the stamp of each window's newest frame."""

    def __init__(self, node: Node, node_name: str, say: Callable[[str], None] = print) -> None:
        self._lock = threading.Lock()
        self._say = say
        self._windows: dict[int, Window] = {}
        self._arrays: dict[int, dict[str, NDArray[np.generic]]] = {}
        self._diagnostics: dict[str, dict[str, Any]] = {}
        self.last_message: float | None = None
        self.status_count = 0
        listeners = {
            topics.STATUS: self._take_status,
            topics.POSE: self._take_pose,
            topics.WINDOW_POSES: self._take_window_poses,
            topics.POINTS: self._take_points,
            topics.DEPTH: self._take_depth,
            topics.DEPTH_INFO: self._take_depth_info,
            topics.OBJECTS: self._take_objects,
            topics.DIAGNOSTICS: self._take_diagnostics,
        }
        for topic, callback in listeners.items():
            name = topic.name.replace("~", node_name)
            node.create_subscription(topic.type, name, callback, profile(topic.qos))

    def _window(self, msg: Any) -> Window:
        """Find or begin the window this message belongs to."""
        self.last_message = time.monotonic()
        stamp_ns = stamp_to_ns(msg.header.stamp)
        return self._windows.setdefault(stamp_ns, {"stamp_ns": stamp_ns})

    def _keep(self, msg: Any, **arrays: NDArray[np.generic]) -> None:
        self._arrays.setdefault(stamp_to_ns(msg.header.stamp), {}).update(arrays)

    def _take_status(self, msg: Any) -> None:
        simple = {
            name: getattr(msg, name)
            for name in msg.get_fields_and_field_types()
            if name not in ("header", "frame_stamps", "timing_names", "timings_s")
        }
        with self._lock:
            window = self._window(msg)
            window |= simple
            window["index"] = msg.window_index
            window["world_frame"] = msg.header.frame_id
            window["frame_stamps"] = [stamp_to_ns(stamp) for stamp in msg.frame_stamps]
            times = [float(seconds) for seconds in msg.timings_s]
            window["timings_s"] = dict(zip(msg.timing_names, times, strict=True))
            self.status_count += 1
            self._say(json.dumps(window))

    def _take_pose(self, msg: Any) -> None:
        p, q = msg.pose.position, msg.pose.orientation
        with self._lock:
            self._window(msg)["pose"] = {
                "stamp_ns": stamp_to_ns(msg.header.stamp),
                "position": [p.x, p.y, p.z],
                "quat_xyzw": [q.x, q.y, q.z, q.w],
            }

    def _take_window_poses(self, msg: Any) -> None:
        parts = [(pose.position, pose.orientation) for pose in msg.poses]
        with self._lock:
            self._window(msg)["window_poses"] = [
                [p.x, p.y, p.z, q.x, q.y, q.z, q.w] for p, q in parts
            ]

    def _take_points(self, msg: Any) -> None:
        cloud = cloud_from_msg(msg)
        with self._lock:
            self._window(msg)["points_frame"] = cloud.frame
            self._keep(msg, points=cloud.points, rgb=cloud.rgb, confidence=cloud.confidence)

    def _take_depth(self, msg: Any) -> None:
        with self._lock:
            self._window(msg)["camera_frame"] = msg.header.frame_id
            try:
                self._keep(msg, depth=depth_from_image(msg))
            except ValueError:  # no depth was valid: the window is kept without it
                return

    def _take_depth_info(self, msg: Any) -> None:
        with self._lock:
            self._window(msg)["depth_K"] = [float(value) for value in msg.k]

    def _take_objects(self, msg: Any) -> None:
        objects = [object_as_json(item) for item in msg.objects]
        with self._lock:
            self._window(msg)["objects"] = objects

    def _take_diagnostics(self, msg: Any) -> None:
        with self._lock:
            for status in msg.status:
                self._diagnostics[status.name] = {
                    "level": int.from_bytes(status.level, "little"),
                    "message": status.message,
                    "values": {item.key: item.value for item in status.values},
                }

    def write(self, folder: str | Path) -> int:
        """Write record.json and record.npz; return how many windows there are."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        with self._lock:
            known = [w for _, w in sorted(self._windows.items()) if "frame_stamps" in w]
            arrays: dict[str, NDArray[np.generic]] = {}
            for index, window in enumerate(known):
                for name, values in self._arrays.get(window["stamp_ns"], {}).items():
                    arrays[f"{name}_{index}"] = values
                    window[f"{name}_key"] = f"{name}_{index}"
            record = {
                "world_frame": known[-1]["world_frame"] if known else "",
                "windows": known,
                "diagnostics": self._diagnostics,
            }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(target / "record.npz", buffer.getvalue())
        write_atomically(target / "record.json", json.dumps(record, indent=1).encode())
        return len(known)


def record(recorder: Recorder, options: argparse.Namespace, stop: threading.Event) -> None:
    """Wait until there is enough, or until stopped."""
    started = time.monotonic()
    while not stop.wait(0.1):
        now = time.monotonic()
        if options.windows and recorder.status_count >= options.windows:
            stop.wait(_TAIL_S)
            return
        heard = recorder.last_message
        if options.idle and heard is not None and now - heard > options.idle:
            return
        if options.duration and now - started > options.duration:
            return


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("record", description="Write down what the node publishes.")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--node", default="vidllm", help="name of the node")
    parser.add_argument("--windows", type=int, default=0, help="stop after so many; 0: never")
    parser.add_argument(
        "--idle",
        type=float,
        default=0.0,
        help="stop after so many s of silence, once something came",
    )
    parser.add_argument("--duration", type=float, default=0.0, help="stop after so many s")
    options = parser.parse_args(list(argv))
    for name in ("windows", "idle", "duration"):
        value = getattr(options, name)
        if not value >= 0:
            parser.error(f"--{name}: expected 0 or above, got {value:g}")
    try:  # now, not after everything was recorded
        Path(options.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = (error.strerror or repr(error)).lower()
        parser.error(f"--out: expected a folder to write to, got {options.out}: {why}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recorder."""
    with ros_context(sys.argv if argv is None else ["record", *argv]) as arguments:
        options = _options(arguments[1:])
        node = Node("vidllm_recorder")
        recorder = Recorder(node, options.node, lambda line: print(line, flush=True))
        with stop_event() as stop, SpinningThread(node) as spinning:
            record(recorder, options, stop)
            failed = spinning.failed
        count = recorder.write(options.out)
        print(f"record: {count} windows in {options.out}", file=sys.stderr)
        if failed is not None:
            print(f"record: stopped early: {failed!r}", file=sys.stderr)
            return 1
        topic = node.resolve_topic_name(topics.STATUS.name.replace("~", options.node))
        if recorder.last_message is None and not node.count_publishers(topic):
            words = f"record: nobody publishes {topic}; is the node active, in this namespace?"
            print(words, file=sys.stderr)
            return NOBODY_PUBLISHES
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
