# SPDX-License-Identifier: Apache-2.0
"""From a recorded image message to RGB pixels, without ROS.

Rows may be padded, bytes may be in the other order, and NV12 has more rows than the image: the
bytes are laid out here, and rosbags-image does the colours. Next: bags.py, which reads messages.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.image import ImageError
from rosbags.image.image import convert_color, to_cvtype

from vidllm_ros.data.frame_source import decode_image

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
DEPTH_ENCODINGS = ("16UC1", "32FC1")
NAMED = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8"}  # OpenCV's own order
CHROMA_BELOW = ("nv12", "nv21")  # half as many rows again hold the colours


def rgb_from_message(message: Any, msgtype: str, name: str) -> NDArray[np.uint8]:
    """Return the pixels of a sensor_msgs Image or CompressedImage, (H, W, 3), RGB.

    Args:
        message: as rosbags deserializes it.
        msgtype: IMAGE or COMPRESSED.
        name: how a complaint calls the image.

    Raises:
        ValueError: it shows no colour, or has not the bytes its header promises.
    """
    if msgtype == COMPRESSED:
        return decode_image(message.data, name)
    encoding = NAMED.get(message.encoding, message.encoding)
    if encoding in DEPTH_ENCODINGS:
        raise ValueError(f"{name}: expected colour, got depth ({encoding}); choose another topic")
    try:
        pixels = lay_out(message, encoding)
        return np.ascontiguousarray(convert_color(pixels, encoding, "rgb8"), np.uint8)
    except (ImageError, ValueError, cv2.error) as error:
        raise ValueError(
            f"{name}: expected an image, got {message.width} x {message.height} px of "
            f"{message.encoding} in {len(message.data)} bytes ({' '.join(str(error).split())})"
        ) from error


def lay_out(message: Any, encoding: str) -> NDArray[Any]:
    """View a raw message's bytes as rows of pixels, (H, W) or (H, W, channels).

    Raises:
        ValueError: fewer bytes than rows and step promise.
    """
    _, _, kind, channels = to_cvtype(encoding)
    dtype = np.dtype(kind)
    rows = message.height * 3 // 2 if encoding in CHROMA_BELOW else message.height
    used = message.width * channels * dtype.itemsize
    step = message.step or used
    data = np.frombuffer(message.data, np.uint8)
    if step < used or data.size < rows * step:
        raise ValueError(f"{rows} rows of {max(step, used)} bytes expected")
    lines = np.ascontiguousarray(data[: rows * step].reshape(rows, step)[:, :used])
    pixels = lines.view(dtype)
    if dtype.itemsize > 1 and bool(message.is_bigendian) != (sys.byteorder == "big"):
        pixels = pixels.byteswap()
    return pixels if channels == 1 else pixels.reshape(rows, message.width, channels)
