# SPDX-License-Identifier: Apache-2.0
"""How well the image says where a followed point is: badly along an edge, well across it.

The structure tensor of the square a point is followed in, over the variance of the image's grain,
is the inverse of its covariance; a floor stands for what no grain explains, the square changing
its shape. Source: Foerstner and Guelch, "A Fast Operator for Detection and Precise Location of
Distinct Points"; both deviations were measured in rendered rooms (docs/deviations.md, D64).
Next: tracks.py, which asks it; bundle_adjustment.py, which weighs by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SQUARE_PX = 11  # side of the square points are followed in
GRAIN = 25.0  # deviation of one gray level from what was there before, contrast equalised
FLOOR_PX = 0.08
SOBEL_SCALE = SQUARE_PX * 4.0 * 255.0 / 8.0  # OpenCV's derivative times this: gray levels a px
LEAST_POWER = 1e-3  # of a square without any structure: 790 px


def sharpness(
    gray: Sequence[NDArray[np.uint8]], frame: NDArray[np.int64], uv: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what an error in px is multiplied by to be in deviations, (n, 2, 2).

    Rows are the directions in which the image says most and least, over the deviation there.

    Args:
        gray: S images the points were followed in, (H, W) each.
        frame: in which of them each point is, (n,).
        uv: where it is, (n, 2), px, inside the image.
    """
    out = np.empty((len(frame), 2, 2))
    for number in np.unique(frame):
        rows = np.flatnonzero(frame == number)
        u, v = np.rint(uv[rows]).astype(int).T
        found = cv2.cornerEigenValsAndVecs(gray[number], SQUARE_PX, 3)[v, u].astype(np.float64)
        power = np.maximum(found[:, :2] * SOBEL_SCALE**2, LEAST_POWER)
        deviation = np.sqrt(GRAIN**2 / power + FLOOR_PX**2)
        # OpenCV answers zero, or one direction twice, where all are alike: then any will do.
        most = found[:, 2:4]
        length = np.hypot(*most.T)[:, None]
        most = np.where(length > 0.5, most / np.maximum(length, 0.5), [1.0, 0.0])
        least = np.stack([-most[:, 1], most[:, 0]], axis=1)
        out[rows] = np.stack([most, least], axis=1) / deviation[:, :, None]
    return out
