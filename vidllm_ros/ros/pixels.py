# SPDX-License-Identifier: Apache-2.0
"""Bytes of a camera message to RGB or metres: every encoding, step and byte order, checked first.

The left edge of the figure, before anything is called a frame. Works on plain buffers with numpy
and OpenCV, so that it is tested without ROS. Next: conversions.py, which hands it messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.generic]
RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class RawImage:
    """The fields of a sensor_msgs/Image, without its header; `data` is any bytes-like buffer."""

    height: int
    width: int
    encoding: str
    step: int
    is_bigendian: bool
    data: object


@dataclass(frozen=True)
class _Encoding:
    """How one encoding is laid out, and the function that makes RGB of it."""

    dtype: type[np.generic]
    channels: int
    to_rgb: Callable[[Pixels], Pixels]
    even_width: bool = False
    even_height: bool = False


def _same(pixels: Pixels) -> Pixels:
    return pixels


def _first_three(pixels: Pixels) -> Pixels:
    return pixels[..., :3]


def _swap(pixels: Pixels) -> Pixels:
    return pixels[..., 2::-1]


def _grey(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., :1], 3, axis=2)


def _by_opencv(code: int) -> Callable[[Pixels], Pixels]:
    def convert(pixels: Pixels) -> Pixels:
        plane = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(plane), code))

    return convert


# OpenCV names a Bayer pattern by its second row, ROS by its first: hence RGGB -> BayerBG.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}


def _all_encodings() -> dict[str, _Encoding]:
    table: dict[str, _Encoding] = {}
    for bits, dtype in (("8", np.uint8), ("16", np.uint16)):
        table[f"rgb{bits}"] = _Encoding(dtype, 3, _same)
        table[f"bgr{bits}"] = _Encoding(dtype, 3, _swap)
        table[f"rgba{bits}"] = _Encoding(dtype, 4, _first_three)
        table[f"bgra{bits}"] = _Encoding(dtype, 4, _swap)
        table[f"mono{bits}"] = _Encoding(dtype, 1, _grey)
        for name, code in _BAYER.items():
            table[name + bits] = _Encoding(dtype, 1, _by_opencv(code), True, True)
    # Encodings without a colour space: OpenCV's own order, blue first.
    table["8UC1"] = table["mono8"]
    table["8UC3"] = table["bgr8"]
    table["8UC4"] = table["bgra8"]
    uyvy = _Encoding(np.uint8, 2, _by_opencv(cv2.COLOR_YUV2RGB_UYVY), even_width=True)
    yuyv = _Encoding(np.uint8, 2, _by_opencv(cv2.COLOR_YUV2RGB_YUY2), even_width=True)
    table |= {"yuv422": uyvy, "uyvy": uyvy, "yuv422_yuy2": yuyv, "yuyv": yuyv}
    return table


ENCODINGS = _all_encodings()
"""Colour encodings that `decode_rgb` reads, by their sensor_msgs name."""

DEPTH_ENCODINGS: dict[str, type[np.generic]] = {
    "32FC1": np.float32,
    "16UC1": np.uint16,
    "mono16": np.uint16,
}


def _shaped(image: RawImage, dtype: type[np.generic], channels: int) -> Pixels:
    """View the buffer as (H, W, channels) in this machine's byte order.

    Raises:
        ValueError: the image is empty, or its step or data cannot hold what its size says.
    """
    height, width = image.height, image.width
    if height < 1 or width < 1:
        raise ValueError(f"image: expected at least 1x1 pixels, got {width}x{height} (empty)")
    size = np.dtype(dtype).itemsize
    row = width * channels * size
    if image.step < row:
        raise ValueError(
            f"step: expected at least {row} bytes for {width} pixels of {image.encoding}, "
            f"got {image.step}"
        )
    buffer = np.frombuffer(image.data, np.uint8)  # type: ignore[call-overload]
    needed = image.step * (height - 1) + row  # the padding after the last row may be missing
    if not needed <= buffer.size <= image.step * height:
        raise ValueError(
            f"data: expected {image.step * height} bytes for {width}x{height} {image.encoding}, "
            f"got {buffer.size} (torn message)"
        )
    order = np.dtype(dtype).newbyteorder(">" if image.is_bigendian else "<")
    strides = (image.step, channels * size, size)
    view = np.ndarray((height, width, channels), order, buffer, 0, strides)
    return view.astype(dtype, copy=False)


def _colour_pixels(image: RawImage) -> tuple[_Encoding, Pixels]:
    """Find the encoding and view the buffer by it, or say what does not fit."""
    kind = ENCODINGS.get(image.encoding)
    if kind is None:
        hint = "; it is a depth encoding" if image.encoding in DEPTH_ENCODINGS else ""
        raise ValueError(
            f"encoding: expected one of {' '.join(sorted(ENCODINGS))}, "
            f"got {image.encoding!r}{hint}"
        )
    odd = (kind.even_width and image.width % 2) or (kind.even_height and image.height % 2)
    if odd:
        raise ValueError(
            f"size: expected even width and height for {image.encoding}, "
            f"got {image.width}x{image.height}"
        )
    return kind, _shaped(image, kind.dtype, kind.channels)


def check_layout(image: RawImage) -> None:
    """Raise unless `decode_rgb` would read it; costs no conversion.

    Raises:
        ValueError: unknown encoding, or size, step and data do not belong together.
    """
    _colour_pixels(image)


def decode_rgb(image: RawImage) -> RGB:
    """Make RGB of a colour or grey image.

    16-bit values are scaled by 255/65535 and rounded, as cv_bridge does.

    Returns:
        (H, W, 3), uint8, contiguous; may share memory with `image.data`.

    Raises:
        ValueError: unknown encoding, or size, step and data do not belong together.
    """
    kind, pixels = _colour_pixels(image)
    rgb = kind.to_rgb(pixels)
    if rgb.dtype == np.uint16:
        rgb = np.rint(rgb.astype(np.float32) * (255.0 / 65535.0)).astype(np.uint8)
    return np.ascontiguousarray(rgb, np.uint8)


def decode_depth(image: RawImage) -> NDArray[np.float32]:
    """Make metres of a depth image; the unit follows from the encoding (REP 118), never a knob.

    Returns:
        (H, W), float32, m along the optical axis, NaN where unknown.

    Raises:
        ValueError: not 32FC1 (m) or 16UC1 (mm), torn, or without one valid depth.
    """
    dtype = DEPTH_ENCODINGS.get(image.encoding)
    if dtype is None:
        raise ValueError(f"encoding: expected 32FC1 (m) or 16UC1 (mm), got {image.encoding!r}")
    values = _shaped(image, dtype, 1)[..., 0]
    depth = values.astype(np.float32)
    if dtype is np.uint16:
        depth *= 1e-3
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    if np.isnan(depth).all():
        raise ValueError("depth: expected some finite values above 0, got none")
    return depth


def _is_whole(data: NDArray[np.uint8]) -> bool:
    """Whether a JPEG or PNG has its end: OpenCV fills up a torn one with grey, silently."""
    head = data[:4].tobytes()
    if head.startswith(b"\xff\xd8"):
        return data[-64:].tobytes().rstrip(b"\0").endswith(b"\xff\xd9")
    if head == b"\x89PNG":
        return b"IEND" in data[-64:].tobytes()
    return True


def decode_compressed(image_format: str, data: object) -> RGB:
    """Decode a JPEG, PNG or other image file in memory; the stored rotation tag is ignored.

    Returns:
        (H, W, 3), uint8.

    Raises:
        ValueError: empty, torn, not an image, or a compressed depth image.
    """
    if "compresseddepth" in image_format.lower():
        raise ValueError(f"format: expected a colour image, got {image_format!r}")
    stream = np.frombuffer(data, np.uint8)  # type: ignore[call-overload]
    if stream.size == 0:
        raise ValueError("data: expected a JPEG or PNG image, got 0 bytes (empty)")
    if not _is_whole(stream):
        raise ValueError(f"data: the {image_format or 'image'} ends early (torn message)")
    try:
        bgr = cv2.imdecode(stream, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # OpenCV throws on absurd sizes in the header
        bgr = None
    if bgr is None:
        raise ValueError(
            f"data: expected a JPEG or PNG image, got {stream.size} bytes of format "
            f"{image_format!r} that OpenCV cannot decode"
        )
    return np.ascontiguousarray(bgr[..., ::-1], np.uint8)
