# SPDX-License-Identifier: Apache-2.0
"""Decides whether a frame is one to look at: it is of its stream, and shows anything.

A single frame of another size, encoding or optical frame is a fault and is dropped; three in a row
are a camera that was set anew, and are followed. A frame of one brightness is a covered lens or a
dark room, about which the network would make things up. Stamps are judged later, by
streaming/window.py. Next: inputs.py, which asks for every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FOLLOW_AFTER = 3
"""So many frames in a row of a new shape are a new stream, not a fault."""
LEAST_CONTRAST = 1.5
"""Deviation of the brightness, of 255, from square to square. A wall on which the light changes by
less than 5 levels from side to side is refused too: it tells as little as a covered lens."""
SQUARE_PX = 10
MOST_SQUARES, LEAST_SQUARES = (64, 48), (16, 12)


@dataclass(frozen=True)
class Shape:
    """What must stay equal from frame to frame."""

    width: int
    height: int
    encoding: str
    frame_id: str

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.encoding} in {self.frame_id or '(no frame)'}"


class FrameGate:
    """One stream's memory of how its frames look."""

    def __init__(self) -> None:
        self._shape: Shape | None = None
        self._other: Shape | None = None
        self._others = 0

    def refuse(self, shape: Shape) -> str:
        """Return why a frame of this shape is to be dropped; empty where it is to be taken."""
        if self._shape is None or shape == self._shape:
            self._shape, self._other, self._others = shape, None, 0
            return ""
        self._others = self._others + 1 if shape == self._other else 1
        self._other = shape
        if self._others >= FOLLOW_AFTER:
            self._shape, self._other, self._others = shape, None, 0
            return ""
        return f"the stream is {self._shape}, this frame is {shape}"


def blindness(rgb: NDArray[np.uint8]) -> str:
    """Return why a frame (H, W, 3) shows nothing; empty where it shows something.

    Brightness is compared between squares of the image, in which grain is averaged away: of 10
    px or more, where grain of a deviation up to 15 (gray; 25 in colours) is no picture. Images
    under 160x120 have smaller squares, and grain in them may be taken for one.
    """
    squares = [
        min(most, max(least, side // SQUARE_PX))
        for side, most, least in zip(rgb.shape[1::-1], MOST_SQUARES, LEAST_SQUARES, strict=True)
    ]
    means = cv2.resize(rgb, squares, interpolation=cv2.INTER_AREA)
    brightness = means.astype(np.float32).mean(axis=-1)
    contrast = float(brightness.std())
    if contrast >= LEAST_CONTRAST:
        return ""
    return (
        f"the image is of one brightness ({brightness.mean():.0f} of 255, deviation "
        f"{contrast:.1f}); is the lens covered, the light off, or the exposure?"
    )
