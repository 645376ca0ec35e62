# SPDX-License-Identifier: Apache-2.0
"""What every kind of film gives: frames with stamps, one after the other, read when asked for.

A film is a video file, a folder of images or a rosbag2; all three answer the same two calls, so
that nothing beyond video.py knows which it was. Stamps always grow: whoever plays, windows or
measures frames finds them by stamp. Next: video.py, the front door.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

OPTICAL_FRAME = "camera_optical_frame"
FIRST_STAMP_NS = 1_000_000_000  # of films without a clock; 0 means "not set" in ROS
SMALLEST_SIDE_PX = 14  # one patch of the encoder


@dataclass(frozen=True)
class VideoFrame:
    """One image of a film.

    Attributes:
        stamp_ns: acquisition time; larger than that of the frame before.
        rgb: (H, W, 3), uint8.
        frame_id: optical frame the image was taken in.
        K: intrinsics of this image, (3, 3), px, or None where the film tells none.
    """

    stamp_ns: int
    rgb: NDArray[np.uint8]
    frame_id: str = OPTICAL_FRAME
    K: NDArray[np.float64] | None = None


class FrameSource(Protocol):
    """A film that can be read any number of times."""

    path: Path

    def count(self) -> int:
        """Return how many frames the film announces, without decoding; 0 where it does not."""

    def read(self, chosen: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Yield the frames at these places, oldest first, or all; only these are decoded."""


def decode_image(coded: NDArray[np.uint8] | bytes, name: str) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or whatever else OpenCV reads to RGB, (H, W, 3).

    Args:
        coded: the file's bytes.
        name: how the message calls the image.

    Raises:
        ValueError: these bytes are no image, or a torn one.
    """
    data = np.frombuffer(coded, np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(
            f"{name}: expected an image, got {data.size} bytes that cannot be decoded; "
            "write it again or remove it"
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def check_size(name: str, rgb: NDArray[np.uint8]) -> None:
    """Raise for an image smaller than a patch.

    Raises:
        ValueError: no network could use it.
    """
    height, width = rgb.shape[:2]
    if min(height, width) < SMALLEST_SIDE_PX:
        raise ValueError(
            f"{name}: expected images of at least {SMALLEST_SIDE_PX} x {SMALLEST_SIDE_PX} px, "
            f"got {width} x {height}; use a larger image"
        )
