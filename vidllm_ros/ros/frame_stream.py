# SPDX-License-Identifier: Apache-2.0
"""Frames for the player, from an .npz file or as a stream on a pipe; how other processes feed it.

The stream is one line of JSON a frame ({"stamp_ns", "height", "width", "frame_id", "K"}) followed
by height*width*3 bytes of RGB: long videos and bags pass through without being held. Next:
play.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.structures import check_shape

DEFAULT_FRAME_ID = "camera_optical_frame"


@dataclass(frozen=True)
class CameraFrame:
    """One frame to publish.

    Attributes:
        stamp_ns: when it was taken.
        rgb: (H, W, 3), uint8.
        frame_id: optical frame.
        K: (3, 3), px, or None for an uncalibrated camera.
        depth: of the same view in any size, (h, w), m, NaN where unknown, or None.
    """

    stamp_ns: int
    rgb: NDArray[np.uint8]
    frame_id: str
    K: NDArray[np.float64] | None = None
    depth: NDArray[np.float32] | None = None


def load_frames(path: str | Path) -> list[CameraFrame]:
    """Load frames from an .npz with images, stamps_ns and, where known, K, frame_id, depth.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not such a file.
    """
    if not Path(path).is_file():
        is_folder = Path(path).is_dir()
        why = "is a folder; see `vidllm play` for films" if is_folder else "does not exist"
        raise FileNotFoundError(f"frames: expected an .npz file, got {path}, which {why}")
    if not is_zipfile(path):
        raise ValueError(f"frames: expected an .npz file, got {path}, which is none; np.savez it")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _frames_of({name: arrays[name] for name in arrays.files})
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"frames: expected an .npz with images (S,H,W,3) uint8 and stamps_ns (S,), "
            f"got {path}: {error}"
        ) from error


def _frames_of(arrays: dict[str, NDArray[np.generic]]) -> list[CameraFrame]:
    images, stamps = arrays["images"], arrays["stamps_ns"]
    check_shape("images", images, (None, None, None, 3))
    if images.dtype != np.uint8:
        raise ValueError(f"images: expected uint8, got {images.dtype}")
    images = np.asarray(images, np.uint8)
    check_shape("stamps_ns", stamps, (len(images),))
    if len(stamps) and not np.issubdtype(stamps.dtype, np.integer):
        raise ValueError(f"stamps_ns: expected integers, got {stamps.dtype}")
    frame_id = str(arrays["frame_id"]) if "frame_id" in arrays else DEFAULT_FRAME_ID
    intrinsics: list[NDArray[np.float64] | None] = [None] * len(images)
    if "K" in arrays:
        check_shape("K", arrays["K"], (len(images), 3, 3)[arrays["K"].ndim < 3 :])
        K = np.broadcast_to(np.asarray(arrays["K"], float), (len(images), 3, 3))
        intrinsics = list(K)
    depths: list[NDArray[np.float32] | None] = [None] * len(images)
    if "depth" in arrays:
        depth = arrays["depth"]
        check_shape("depth", depth, (len(images), None, None))
        if not np.issubdtype(depth.dtype, np.floating) or not all(depth.shape[1:]):
            raise ValueError(
                f"depth: expected floats, m, of one pixel or more, got {depth.dtype} {depth.shape}"
            )
        depths = list(np.asarray(depth, np.float32))
    return [
        CameraFrame(int(stamp), rgb, frame_id, K, depth)
        for stamp, rgb, K, depth in zip(stamps, images, intrinsics, depths, strict=True)
    ]


def read_stream(pipe: BinaryIO) -> Iterator[CameraFrame]:
    """Read frames from a pipe until its end.

    Raises:
        ValueError: a header is not such JSON, or the pixels end early.
    """
    while line := pipe.readline():
        try:
            head = json.loads(line)
            height, width = int(head["height"]), int(head["width"])
            stamp_ns, K = head["stamp_ns"], head.get("K")
            if type(stamp_ns) is not int:
                raise TypeError("stamp_ns")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"stream: expected a JSON header, got {line[:80]!r}") from error
        pixels = pipe.read(height * width * 3)
        if len(pixels) != height * width * 3:
            raise ValueError(
                f"stream: expected {height * width * 3} bytes of RGB, got {len(pixels)}"
            )
        yield CameraFrame(
            stamp_ns=stamp_ns,
            rgb=np.frombuffer(pixels, np.uint8).reshape(height, width, 3),
            frame_id=head.get("frame_id") or DEFAULT_FRAME_ID,
            K=None if K is None else np.asarray(K, float).reshape(3, 3),
        )
