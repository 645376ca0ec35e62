# SPDX-License-Identifier: Apache-2.0
"""Plays frames as a camera: `python -m vidllm_ros.ros.play FRAMES.npz|-`.

Publishes image (or image/compressed), camera_info where K is known and depth where it is given, by
the frames' own spacing or at a rate. Next: frame_stream.py for the input, record.py for the other
end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from vidllm_ros.ros import topics
from vidllm_ros.ros.conversions import (
    image_from_depth,
    image_from_rgb,
    info_from_intrinsics,
)
from vidllm_ros.ros.dds_profile import profile_environment
from vidllm_ros.ros.frame_stream import CameraFrame, load_frames, read_stream
from vidllm_ros.ros.process import SpinningThread, refused_arguments, ros_context, stop_event
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.stamps import header

FRAME_S = 0.1  # between two loops of frames that are not played at a rate
JPEG_QUALITY = 95
NOBODY_LISTENS = 3


class ImagePlayer:
    """Publishes single frames as a camera does; reliable, so that both kinds of listener match."""

    def __init__(self, node: Node, transport: str = "raw", has_depth: bool = False) -> None:
        self._node = node
        self._transport = transport
        image = topics.COMPRESSED if transport == "compressed" else topics.IMAGE
        self._image = self._publisher(image)
        self._info = self._publisher(topics.CAMERA_INFO)
        self._depth = self._publisher(topics.DEPTH_IN) if has_depth else None

    def _publisher(self, topic: topics.Topic) -> Any:
        return self._node.create_publisher(topic.type, topic.name, profile("reliable"))

    def wait_for_listener(self, timeout_s: float, stop: threading.Event) -> bool:
        """Wait until somebody subscribes to the image."""
        end = time.monotonic() + timeout_s
        while self._image.get_subscription_count() == 0:
            if time.monotonic() > end or stop.wait(0.05):
                return False
        return True

    def publish(self, frame: CameraFrame, stamp_ns: int) -> None:
        """Publish one frame with this stamp; camera_info goes first, so that it is there."""
        head = header(stamp_ns, frame.frame_id)
        height, width = frame.rgb.shape[:2]
        if frame.K is not None:
            self._info.publish(info_from_intrinsics(head, frame.K, height, width))
        if self._depth is not None and frame.depth is not None:
            self._depth.publish(image_from_depth(head, frame.depth))
        if self._transport == "compressed":
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            jpeg = cv2.imencode(".jpg", np.ascontiguousarray(frame.rgb[..., ::-1]), quality)[1]
            message = CompressedImage(header=head, format="rgb8; jpeg compressed bgr8")
            message.data.frombytes(jpeg.tobytes())
            self._image.publish(message)
        else:
            self._image.publish(image_from_rgb(head, frame.rgb))


def schedule(
    frames: Iterable[CameraFrame],
    start_ns: int,
    rate_hz: float,
    keep_stamps: bool,
    rest_s: float = FRAME_S,
) -> Iterator[tuple[CameraFrame, int, int]]:
    """Give each frame its stamp and its time of publication.

    Args:
        frames: in order; a stamp that goes back is where they begin anew (a loop).
        start_ns: time of the first frame.
        rate_hz: frames a second; 0 keeps the frames' own spacing.
        keep_stamps: publish the frames' own stamps instead of times from `start_ns` on.
        rest_s: from the last frame of a loop to the first of the next.

    Yields:
        frame, stamp to publish in ns, nanoseconds since the start at which to publish it.
    """
    begin_ns, index, elapsed_ns, last_ns = 0, 0, 0, None
    for frame in frames:
        step_ns = 0 if last_ns is None else frame.stamp_ns - last_ns
        if step_ns < 0:
            begin_ns, index = elapsed_ns + round(rest_s * 1e9), 0
            elapsed_ns = begin_ns
        elif rate_hz > 0:
            elapsed_ns = begin_ns + round(index * 1e9 / rate_hz)
        elif last_ns is not None:
            elapsed_ns += step_ns or round(FRAME_S * 1e9)
        last_ns, index = frame.stamp_ns, index + 1
        yield frame, frame.stamp_ns if keep_stamps else start_ns + elapsed_ns, elapsed_ns


def _open(options: argparse.Namespace) -> Iterator[CameraFrame]:
    """Open the input at once, so that a bad file is said before anybody is waited for."""
    if options.frames == "-":
        return read_stream(sys.stdin.buffer)
    frames = load_frames(options.frames)
    times = range(options.loop) if options.loop else itertools.count()
    return (frame for _ in times for frame in frames)


def play(node: Node, options: argparse.Namespace, stop: threading.Event) -> int:
    """Play the frames; return the exit status."""
    source = _open(options)
    first = list(itertools.islice(source, 1))
    if not first:
        raise ValueError(f"frames: expected at least one, got none in {options.frames}")
    has_depth = any(frame.depth is not None for frame in first)
    with refused_arguments("play"):
        player = ImagePlayer(node, options.transport, has_depth)
    if not player.wait_for_listener(options.wait, stop):
        if stop.is_set():
            return 0
        topic = node.resolve_topic_name(topics.IMAGE.name)
        print(f"play: nobody subscribed to {topic} in {options.wait:g} s", file=sys.stderr)
        return NOBODY_LISTENS
    start_ns, start = int(node.get_clock().now().nanoseconds), time.monotonic()
    played: list[dict[str, int]] = []
    rest_s = options.rest if options.rest is not None else 1 / (options.rate or 1 / FRAME_S)
    film = itertools.chain(first, source)
    frames = schedule(film, start_ns, options.rate, options.stamps == "keep", rest_s)
    try:
        for index, (frame, stamp_ns, elapsed_ns) in enumerate(frames):
            late_s = start + elapsed_ns / 1e9 / options.speed - time.monotonic()
            if stop.wait(max(0.0, late_s)):
                break
            player.publish(frame, stamp_ns)
            entry = {"index": index, "original_ns": frame.stamp_ns, "published_ns": stamp_ns}
            played.append(entry)
            if options.json:
                print(json.dumps(entry), flush=True)
        print(f"play: {len(played)} frames published", file=sys.stderr)
        stop.wait(options.hold)
    finally:
        if options.log:
            Path(options.log).write_text(json.dumps({"frames": played}))
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("play", description="Publish frames as a camera.")
    parser.add_argument("frames", help=".npz file, or - for a stream on standard input")
    parser.add_argument("--rate", type=float, default=0.0, help="Hz; 0: the frames' own spacing")
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast")
    parser.add_argument("--loop", type=int, default=1, help="how often; 0: for ever")
    parser.add_argument("--rest", type=float, help="s between loops; else a frame's")
    parser.add_argument("--stamps", choices=("shift", "keep"), default="shift")
    parser.add_argument("--transport", choices=("raw", "compressed"), default="raw")
    parser.add_argument("--wait", type=float, default=30.0, help="s to wait for a listener")
    parser.add_argument("--hold", type=float, default=0.0, help="s to stay after the last frame")
    parser.add_argument("--log", help="file for the stamps that were published")
    parser.add_argument("--json", action="store_true", help="print each stamp as it goes out")
    options = parser.parse_args(list(argv))
    if not options.speed > 0:
        parser.error(f"--speed: expected above 0, got {options.speed:g}")
    for name in ("rate", "loop", "rest", "wait", "hold"):
        value = getattr(options, name)
        if value is not None and not value >= 0:
            parser.error(f"--{name}: expected 0 or above, got {value:g}")
    if options.log:  # now, not after everything was played
        log = Path(options.log).absolute()
        if not log.parent.is_dir():
            parser.error(f"--log: expected a file in a folder that exists, got {options.log}")
        if log.is_dir():
            parser.error(f"--log: expected a file, got the folder {options.log}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the player."""
    os.environ.update(profile_environment(os.environ))
    with ros_context(sys.argv if argv is None else ["play", *argv]) as arguments:
        options = _options(arguments[1:])
        node = Node("vidllm_player")
        with stop_event() as stop, SpinningThread(node):
            try:
                return play(node, options, stop)
            except (ValueError, FileNotFoundError) as error:
                print(f"play: {error}", file=sys.stderr)
                return 1


if __name__ == "__main__":
    raise SystemExit(main())
