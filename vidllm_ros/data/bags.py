# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 as a film, read without ROS: sqlite3 or mcap, raw or compressed images.

The topic is chosen where only one shows colour; depth images beside it do not count, and a
compressed twin of a raw topic is the same camera. Stamps are the headers', as a node would see
them, and K comes from the camera_info beside the images.
Next: image_messages.py, from a message to pixels; ros/inputs.py does the same for live topics.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from vidllm_ros.data.frame_source import OPTICAL_FRAME, VideoFrame, check_size
from vidllm_ros.data.image_folder import is_intrinsics
from vidllm_ros.data.image_messages import COMPRESSED, DEPTH_ENCODINGS, IMAGE, rgb_from_message
from vidllm_ros.geometry.camera import scale_K

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TWIN = "/compressed"  # what image_transport adds to a raw topic's name
SAME_SHAPE = 0.01  # how far the aspect ratios of image and camera_info may be apart
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """What a camera_info says: K, (3, 3), px, for images of this size, px (0 where unset)."""

    K: NDArray[np.float64]
    height: int
    width: int

    def scaled(self, height: int, width: int) -> NDArray[np.float64] | None:
        """Return K for images of this size; None where they are no mere scaling of each other."""
        if not (self.height and self.width) or (self.height, self.width) == (height, width):
            return self.K
        sx, sy = width / self.width, height / self.height
        return scale_K(self.K, sx, sy) if abs(sx / sy - 1) < SAME_SHAPE else None


class Bag:
    """One image topic of a rosbag2.

    Attributes:
        path: the bag's folder, or one of its storage files.
        topic: where the images are.
        calibration: of the camera, or None where the bag has no camera_info of it.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self.path = path
        with open_bag(path) as reader:
            self.topic = _choose_topic(path, reader, topic)
            images = _connections(reader, self.topic)
            self._count = sum(connection.msgcount for connection in images)
            self.calibration = _calibration(path, reader, self.topic)

    def count(self) -> int:
        return self._count

    def read(self, chosen: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Yield the frames at these places; those not newer than the one before do not count.

        Raises:
            ValueError: the bag is torn, or a message holds no image.
        """
        last = None if chosen is None else max(chosen, default=-1)
        wanted = None if chosen is None else frozenset(chosen)
        newest_ns, place, left_out = -1, 0, 0
        with open_bag(self.path) as reader:
            for connection, received_ns, raw in _messages(self.path, reader, self.topic):
                stamp_ns = header_stamp_ns(raw) or received_ns
                if stamp_ns <= newest_ns:
                    left_out += 1
                    continue
                newest_ns = stamp_ns
                if wanted is None or place in wanted:
                    message = _deserialize(self.path, reader, connection, raw)
                    yield self._frame(stamp_ns, connection, message)
                if place == last:
                    return
                place += 1
        self._count = place
        if left_out:
            log.warning(
                "%s: %d messages on %s left out, not newer than the one before",
                self.path,
                left_out,
                self.topic,
            )

    def _frame(self, stamp_ns: int, connection: Connection, message: Any) -> VideoFrame:
        name = f"{self.path}, {self.topic} at {stamp_ns / 1e9:.3f} s"
        rgb = rgb_from_message(message, connection.msgtype, name)
        check_size(name, rgb)
        K = self.calibration.scaled(*rgb.shape[:2]) if self.calibration else None
        return VideoFrame(stamp_ns, rgb, message.header.frame_id or OPTICAL_FRAME, K)


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """Open a bag for reading; one without metadata.yaml by its storage files.

    Raises:
        ValueError: it cannot be read.
    """
    paths = [path]
    if path.is_dir() and not (path / "metadata.yaml").exists():
        paths = sorted([*path.glob("*.mcap"), *path.glob("*.db3")])
    try:
        reader = AnyReader(paths, default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # whatever the storage trips over: all mean a torn bag
        raise _torn(path, error) from error
    try:
        yield reader
    finally:
        reader.close()


def _torn(path: Path, error: Exception) -> ValueError:
    what = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ValueError(
        f"{path}: expected an intact rosbag2, got one that cannot be read ({what}); "
        "try `ros2 bag reindex` or `mcap recover`"
    )


def _messages(
    path: Path, reader: AnyReader, topic: str
) -> Iterator[tuple[Connection, int, bytes]]:
    """Yield connection, receive time in ns and bytes of a topic's messages, in the bag's order."""
    messages = reader.messages(_connections(reader, topic))
    while True:
        try:
            entry = next(messages)
        except StopIteration:
            return
        except Exception as error:  # as in open_bag
            raise _torn(path, error) from error
        yield entry


def _deserialize(path: Path, reader: AnyReader, connection: Connection, raw: bytes) -> Any:
    try:
        return reader.deserialize(raw, connection.msgtype)
    except Exception as error:  # as in open_bag
        raise _torn(path, error) from error


def _first(path: Path, reader: AnyReader, topic: str) -> Any:
    """Return the first message of a topic, or None."""
    for connection, _, raw in _messages(path, reader, topic):
        return _deserialize(path, reader, connection, raw)
    return None


def header_stamp_ns(raw: bytes) -> int:
    """Read the header's stamp from a serialized message (CDR: 4 bytes, then sec and nanosec)."""
    if len(raw) < 12:
        return 0
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _connections(reader: AnyReader, topic: str) -> list[Connection]:
    return [connection for connection in reader.connections if connection.topic == topic]


def _choose_topic(path: Path, reader: AnyReader, wanted: str | None) -> str:
    """Return the topic to read: the wanted one, or the only one that shows colour."""
    kinds = {entry.topic: entry.msgtype for entry in reader.connections if entry.msgcount}
    images = sorted(topic for topic, kind in kinds.items() if kind in (IMAGE, COMPRESSED))
    if wanted is not None:
        if wanted not in images:
            has = ", ".join(images) or "none"
            raise ValueError(f"topic: expected an image topic of {path} ({has}), got {wanted}")
        return wanted
    color = [topic for topic in images if not _is_depth(path, reader, topic, kinds[topic])]
    color = [topic for topic in color if topic.removesuffix(TWIN) not in set(color) - {topic}]
    if len(color) == 1:
        return color[0]
    if color:
        raise ValueError(
            f"{path}: expected one image topic, got {len(color)}: {', '.join(color)}; "
            "choose one: --topic NAME, or TOPIC=NAME with make"
        )
    has = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(kinds.items())) or "no message"
    raise ValueError(f"{path}: expected an image topic, got a bag with {has}; record the images")


def _is_depth(path: Path, reader: AnyReader, topic: str, kind: str) -> bool:
    name = topic.lower()
    if "depth" in name or "disparity" in name:
        return True
    message = _first(path, reader, topic)
    return kind == IMAGE and message is not None and message.encoding in DEPTH_ENCODINGS


def _calibration(path: Path, reader: AnyReader, topic: str) -> Calibration | None:
    """Read the camera_info beside an image topic, or the only one if it has the same frame."""
    infos = {entry.topic for entry in reader.connections if entry.msgtype == CAMERA_INFO}
    base = topic.removesuffix(TWIN)
    beside = f"{base.rpartition('/')[0]}/camera_info"
    if beside in infos:
        info = _first(path, reader, beside)
    elif len(infos) == 1:
        info = _first(path, reader, next(iter(infos)))
        if info is None or info.header.frame_id != _frame_id(path, reader, topic):
            return None
    else:
        return None
    if info is None:
        return None
    is_rectified = "rect" in base.rpartition("/")[2]
    K = np.array(info.p, float).reshape(3, 4)[:, :3] if is_rectified else np.array(info.k, float)
    K = K.reshape(3, 3)
    return Calibration(K, info.height, info.width) if is_intrinsics(K) else None


def _frame_id(path: Path, reader: AnyReader, topic: str) -> str:
    message = _first(path, reader, topic)
    return "" if message is None else str(message.header.frame_id)
