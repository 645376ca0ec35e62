# SPDX-License-Identifier: Apache-2.0
"""Intrinsics of the camera and the removal of its lens distortion, from a CameraInfo's fields.

A frame that enters the window is a pinhole image: where D is not zero it is remapped once, to the
same K and size. Plain numpy and OpenCV. Next: inputs.py, which applies it to every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

PINHOLE_MODELS = ("plumb_bob", "rational_polynomial", "")
FISHEYE_MODELS = ("equidistant", "fisheye")
FOCAL_RANGE = (0.1, 10.0)
"""Focal length over the longer side that a camera can have: views of 157 down to 6 degrees."""


@dataclass(frozen=True)
class Calibration:
    """What a CameraInfo says of the camera.

    Attributes:
        K: intrinsics, (3, 3), px, of an image of `width` x `height`.
        distortion: coefficients in OpenCV's order; empty or zero for a pinhole.
        model: name of the distortion model as ROS writes it.
        width: px.
        height: px.
    """

    K: NDArray[np.float64]
    distortion: tuple[float, ...]
    model: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera_info: expected a size, got {self.width}x{self.height}")
        values = np.append(self.K.ravel(), self.distortion)
        if not np.isfinite(values).all() or self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            raise ValueError(
                f"camera_info: expected finite K, fx, fy > 0, got K={self.K.tolist()}"
            )
        focal, longest = (self.K[0, 0], self.K[1, 1]), max(self.width, self.height)
        low, high = (share * longest for share in FOCAL_RANGE)
        if not (low <= min(focal) and max(focal) <= high):
            raise ValueError(
                f"K: expected fx and fy of {low:g} to {high:g} px for {self.width}x{self.height}, "
                f"got {focal[0]:g} and {focal[1]:g}: no camera has such a field of view, "
                "intrinsics are estimated; calibrate it"
            )
        if self.is_distorted and self.model not in PINHOLE_MODELS + FISHEYE_MODELS:
            known = " ".join(name for name in PINHOLE_MODELS + FISHEYE_MODELS if name)
            raise ValueError(f"distortion_model: expected one of {known}, got {self.model!r}")

    @property
    def is_distorted(self) -> bool:
        return any(value != 0 for value in self.distortion)

    def is_same(self, other: Calibration | None) -> bool:
        """Whether both describe the same camera (dataclass equality fails on arrays)."""
        return (
            other is not None
            and np.array_equal(self.K, other.K)
            and (self.distortion, self.model, self.width, self.height)
            == (other.distortion, other.model, other.width, other.height)
        )


class Rectifier:
    """Undistorts frames of one calibration; the maps are computed once."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._maps = _undistortion_maps(calibration) if calibration.is_distorted else None

    def rectify(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the frame as a pinhole camera with the same K would see it.

        Raises:
            ValueError: the frame has another size than the calibration.
        """
        height, width = rgb.shape[:2]
        info = self.calibration
        if (width, height) != (info.width, info.height):
            raise ValueError(
                f"camera_info: expected the image's size {width}x{height}, got "
                f"{info.width}x{info.height}; publish the camera_info of this image"
            )
        if self._maps is None:
            return rgb
        rectified = cv2.remap(rgb, self._maps[0], self._maps[1], cv2.INTER_LINEAR)
        return np.asarray(rectified, np.uint8)

    def distorted(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Say where places of the pinhole image, (..., 2), px, lie in the camera's own.

        Interpolated between the pixels of the maps; a place outside of the image stays there.
        """
        if self._maps is None:
            return places
        last = (self.calibration.width - 1, self.calibration.height - 1)
        inner = np.clip(places, 0, last)
        u, v = (inner[..., axis].astype(np.float32) for axis in (0, 1))
        found = [cv2.remap(axis, u, v, cv2.INTER_LINEAR) for axis in self._maps]
        return np.stack(found, axis=-1).astype(float) + (places - inner)


def _undistortion_maps(
    calibration: Calibration,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Say for every pixel of the pinhole image where it lies in the distorted one."""
    K, size = calibration.K, (calibration.width, calibration.height)
    D = np.array(calibration.distortion, float)
    if calibration.model in FISHEYE_MODELS:
        maps = cv2.fisheye.initUndistortRectifyMap(K, D[:4], np.eye(3), K, size, cv2.CV_32FC1)
    else:
        maps = cv2.initUndistortRectifyMap(K, D, np.eye(3), K, size, cv2.CV_32FC1)
    return np.asarray(maps[0], np.float32), np.asarray(maps[1], np.float32)
