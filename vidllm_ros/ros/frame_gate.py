# SPDX-License-Identifier: Apache-2.0
"""Decides whether a frame looks like the stream it belongs to: size, encoding, optical frame.

A single frame of another shape is a fault and is dropped; three in a row are a camera that was
set anew, and are followed. Stamps are judged later, by streaming/window.py. Next: inputs.py, which
asks for every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

FOLLOW_AFTER = 3
"""So many frames in a row of a new shape are a new stream, not a fault."""


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
