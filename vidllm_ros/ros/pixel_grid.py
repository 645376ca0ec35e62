# SPDX-License-Identifier: Apache-2.0
"""Where the pixels that the network sees lie in the camera's own image: cut, resized, undistorted.

A second image of the same view, such as a depth camera's registered to this one, is read at these
places, so that both are compared pixel by pixel. Its size may differ: places are shares of the
image. Plain numpy. Next: scale_check.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.ros.calibration import Rectifier
from vidllm_ros.streaming.backend import Backend, ThriftyBackend
from vidllm_ros.structures import Frames

LONGEST_SIDE = 160
"""Places along the longer side: enough for a median, and little to keep."""


@dataclass(frozen=True)
class CameraView:
    """Size of the camera's images, px, and what undistorts them before the network; or None."""

    height: int
    width: int
    rectifier: Rectifier | None = None


@dataclass(frozen=True)
class PixelGrid:
    """Places spread evenly over what the network sees.

    Attributes:
        seen: centres of the places in the network's image, (R,) down and (C,) to the right, as
            shares of its height and width.
        source: the same places in the camera's image, (R, C, 2), across and down, as shares of
            its width and height; outside of 0 to 1 the camera saw nothing.
    """

    seen: tuple[NDArray[np.float64], NDArray[np.float64]]
    source: NDArray[np.float64]

    def read_source(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an image of the camera's view, (H, W), at the places, (R, C); NaN outside."""
        height, width = image.shape
        across = np.floor(self.source[..., 0] * width)
        down = np.floor(self.source[..., 1] * height)
        inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
        values = np.full(inside.shape, np.nan, np.float32)
        values[inside] = image[down[inside].astype(int), across[inside].astype(int)]
        return values

    def read_seen(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an image of the network's view, (h, w) of any size, at the places, (R, C)."""
        rows, columns = (
            (shares * side).astype(int)
            for shares, side in zip(self.seen, image.shape, strict=True)
        )
        return image[rows[:, None], columns[None, :]]


def grid_of(backend: Backend, view: CameraView) -> PixelGrid:
    """Spread places over what a backend sees of a camera.

    A backend that prepares frames says by their K how it cuts and resizes; any other is taken to
    see the whole image.

    Raises:
        ValueError: the backend cannot use images of this size.
    """
    scale, offset, seen_size = _cut(backend, view.height, view.width)
    rows, columns = (_shares(side, max(seen_size)) for side in seen_size)
    u, v = (
        (shares * side - 0.5 - start) / factor
        for shares, side, start, factor in zip(
            (columns, rows), reversed(seen_size), offset, scale, strict=True
        )
    )
    places = np.stack(np.meshgrid(u, v), axis=-1)  # (R, C, 2), px of the pinhole image
    if view.rectifier is not None:
        places = view.rectifier.distorted(places)
    return PixelGrid((rows, columns), (places + 0.5) / (view.width, view.height))


def _shares(side: int, longest: int) -> NDArray[np.float64]:
    count = min(side, max(1, side * LONGEST_SIDE // longest))
    return np.asarray((np.arange(count) + 0.5) / count, float)


def _cut(
    backend: Backend, height: int, width: int
) -> tuple[tuple[float, float], tuple[float, float], tuple[int, int]]:
    """Return factor and offset, across and down, from camera to network pixels, and its size."""
    if not isinstance(backend, ThriftyBackend):
        return (1.0, 1.0), (0.0, 0.0), (height, width)
    blank = np.zeros((1, height, width, 3), np.uint8)
    small = backend.prepare(Frames(blank, (0,), K=np.eye(3)[None]))
    if small.K is None:
        raise ValueError("prepare: expected frames with the K they came with, got none")
    (fx, _, left), (_, fy, top) = small.K[0, :2]
    return (fx, fy), (left, top), (small.images.shape[1], small.images.shape[2])
