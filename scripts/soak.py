#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the node for ten minutes as a robot would, and watch its memory: `make soak`.

A rendered room is played in a loop in real time to the node, which is asked without pause; the
node's resident memory is sampled from outside. It passes if memory grew by less than 3 % after the
warm-up and every question got a reply. Next: vidllm_ros/ros/node.py, what is watched.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

LARGEST_GROWTH = 0.03
SAMPLE_S = 1.0
REPLY_S = 60.0
MAP_BOUND = ("-p", "max_map_points:=100000")
"""The map may grow until its bound; here it reaches it while warming up, so that leaks show."""
QUESTIONS = (
    "is there a table in the room?",
    "how many chairs are there?",
    "what color is the nearest object?",
    "where is the sofa?",
    "",
    "x" * 100_000,
)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def growth(seconds: list[float], rss: list[int], warm_up_s: float) -> dict[str, float]:
    """Compare the first and the last fifth of what came after the warm-up.

    Medians of fifths, as single samples rise and fall with every window.

    Args:
        seconds: when each sample was taken, from the start.
        rss: bytes, one a sample.
        warm_up_s: seconds not looked at.
    """
    values = np.array([b for s, b in zip(seconds, rss, strict=True) if s >= warm_up_s], float)
    if len(values) < 10:
        raise ValueError(f"warm_up_s: expected 10 samples after it, got {len(values)}; run longer")
    fifth = len(values) // 5
    first, last = float(np.median(values[:fifth])), float(np.median(values[-fifth:]))
    return {"first_mib": first / 2**20, "last_mib": last / 2**20, "growth": last / first - 1}


class Asker:
    """Asks one question after the other and counts what comes back."""

    def __init__(self) -> None:
        self.asked = 0
        self.codes: Counter[str] = Counter()
        self.latencies_s: list[float] = []
        self.lost: list[str] = []

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop; a reply that does not come is counted as dropped."""
        from rclpy.node import Node

        from vidllm_ros.ros import topics
        from vidllm_ros.ros.ask import ERROR_NAMES, NoServiceError, ServiceClient
        from vidllm_ros.ros.process import SpinningThread
        from vidllm_ros.srv import Ask

        node = Node("soak_asker")
        with SpinningThread(node):
            client = ServiceClient(node, topics.ASK)
            while not stop.is_set():
                question = QUESTIONS[self.asked % len(QUESTIONS)]
                started = time.monotonic()
                self.asked += 1
                try:
                    reply = client.call(Ask.Request(question=question), REPLY_S)
                except NoServiceError as error:
                    after = sum(self.codes.values())
                    self.lost.append(f"question {self.asked}, after {after} replies: {error}")
                    continue
                self.codes[ERROR_NAMES[reply.error_code]] += 1
                self.latencies_s.append(time.monotonic() - started)
                stop.wait(0.1)
        node.destroy_node()


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run it all and return the report."""
    from vidllm_ros.cli.ros_processes import RosProcesses, isolated_environment, json_lines
    from vidllm_ros.data import synthrooms

    scene = synthrooms.make_scene(options.room, frames=32, height=84, width=112)
    np.savez(
        folder / "room.npz",
        images=scene.frames.images,
        stamps_ns=np.asarray(scene.frames.stamps_ns, np.int64),
        K=scene.K,
        frame_id=np.array(scene.frames.frame_id),
    )
    environment = isolated_environment(folder)
    os.environ.update(environment)  # the asker is in this process
    import rclpy
    from rclpy.utilities import try_shutdown

    asker, stop = Asker(), threading.Event()
    with RosProcesses(folder, environment) as processes:
        node = processes.start("node", ["--ros-args", *MAP_BOUND, *options.node_arguments])
        record = processes.start("record", ["--out", str(folder / "record")], accepted=(0, 1))
        player = ["--rate", str(options.rate), "--loop", "0", "--wait", "120"]
        processes.start("play", [str(folder / "room.npz"), *player])
        rclpy.init()
        thread = threading.Thread(target=asker.run, args=(stop,), daemon=True)
        thread.start()
        while not any(json_lines(record.take_lines())):  # until its first window
            processes.check()
            time.sleep(SAMPLE_S)
        started = time.monotonic()
        seconds: list[float] = []
        rss: list[int] = []
        windows = 1
        while (elapsed := time.monotonic() - started) < options.seconds:
            processes.check()
            seconds.append(elapsed)
            rss.append(resident_bytes(node.process.pid))
            windows += sum(1 for _ in json_lines(record.take_lines()))
            time.sleep(SAMPLE_S)
        stop.set()
        thread.join(REPLY_S)
        record.process.kill()  # it keeps every cloud until its end; only its lines were wanted
        record.accepted = (0, 1, -9)
        ended = node.stop()
    try_shutdown()
    latencies = asker.latencies_s or [float("nan")]
    return {
        "seconds": options.seconds,
        "room": options.room,
        "rate_hz": options.rate,
        "windows": windows,
        "memory": growth(seconds, rss, options.warm_up),
        "rss_mib": [round(value / 2**20, 1) for value in rss[:: max(1, len(rss) // 60)]],
        "asked": asker.asked,
        "replies": dict(asker.codes),
        "dropped_replies": len(asker.lost),
        "dropped": asker.lost,
        "latency_p50_s": float(np.percentile(latencies, 50)),
        "latency_p99_s": float(np.percentile(latencies, 99)),
        "node_exit_code": ended,
    }


def verdict(report: dict[str, Any]) -> list[str]:
    """Say what is not as it should be; empty where all is well."""
    faults = []
    grown = report["memory"]["growth"]
    if grown >= LARGEST_GROWTH:
        faults.append(f"memory: expected growth under {LARGEST_GROWTH:.0%}, got {grown:.1%}")
    if report["dropped_replies"]:
        faults.append(f"replies: expected one to each question, {report['dropped_replies']} lack")
    if not report["replies"].get("OK"):
        faults.append("replies: expected answers, got none")
    if report["replies"].get("INTERNAL"):
        faults.append(f"replies: expected no INTERNAL, got {report['replies']['INTERNAL']}")
    if report["node_exit_code"] != 0:
        faults.append(f"node: expected exit code 0, got {report['node_exit_code']}")
    return faults


def main(argv: list[str] | None = None) -> int:
    """Run the soak; 0 if it passed, 1 if not."""
    parser = argparse.ArgumentParser("soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--warm-up", type=float, default=120.0, help="s of memory not looked at")
    parser.add_argument("--room", type=int, default=2_000_024, help="seed of the room")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second")
    parser.add_argument("--out", type=Path, default=Path("log/soak.json"), help="where to report")
    parser.add_argument("node_arguments", nargs="*", help="after --: ROS arguments for the node")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="vidllm-soak-") as folder:
        report = soak(options, Path(folder))
    faults = verdict(report)
    report["faults"] = faults
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in report.items() if k != "rss_mib"}, indent=1))
    print("soak: " + ("; ".join(faults) or "passed"), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
