# SPDX-License-Identifier: Apache-2.0
"""Compares a measured depth image with the network's depth at the same stamp, to check the scale.

Only a check, shown in the diagnostics; nothing is corrected. Plain numpy. Next: pixel_grid.py,
which says what pixel is compared with what; engine.py holds one of these beside the session.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.ros.pixel_grid import PixelGrid
from vidllm_ros.structures import Reconstruction

KEPT = 64
_MIN_PIXELS = 50

_Read = tuple[NDArray[np.float32], PixelGrid]
"""A measured depth at the places of a grid."""


class ScaleCheck:
    """Keeps recent measured depths, thinned, and the last ratio measured / predicted.

    Depths come at the camera's rate and only the newest `KEPT` stay; those of the window being
    computed are held beside them, however long that takes, and as long as windows share frames.

    Attributes:
        ratio: median over a window's pixels; 1 means our metres are metres. None before the first.
        words: the same as a sentence, or why there is none; empty where no depth has come.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depths: OrderedDict[int, _Read] = OrderedDict()
        self._held: dict[int, _Read | None] = {}  # by the stamps of the window; None: none so far
        self._have_met = False  # whether a frame and a depth ever had the same stamp
        self.ratio: float | None = None
        self.words = ""

    def offer(self, stamp_ns: int, depth: NDArray[np.float32], grid: PixelGrid) -> None:
        """Keep a measured depth, (H, W), m, NaN where unknown, at the places of the grid.

        The depth image shows what the camera's image of that stamp shows, in any size.
        """
        read = grid.read_source(depth)
        with self._lock:
            self._depths[stamp_ns] = read, grid
            if stamp_ns in self._held:
                self._held[stamp_ns] = read, grid
            while len(self._depths) > KEPT:
                self._depths.popitem(last=False)

    def hold(self, stamps_ns: Sequence[int]) -> None:
        """Keep the depths of a window that was taken, until the next one is."""
        with self._lock:
            self._held = {
                stamp_ns: self._depths.get(stamp_ns) or self._held.get(stamp_ns)
                for stamp_ns in stamps_ns
            }

    def compare(self, reconstruction: Reconstruction) -> float | None:
        """Compare all frames whose stamps have a measured depth; None where there is none."""
        ratios = []
        with self._lock:
            held = {stamp_ns: read for stamp_ns, read in self._held.items() if read is not None}
            measured = {**self._depths, **held}
        for index, stamp_ns in enumerate(reconstruction.stamps_ns):
            if stamp_ns in measured:
                predicted = np.where(
                    reconstruction.valid[index], reconstruction.depth[index], np.nan
                )
                read, grid = measured[stamp_ns]
                ratios.append(_ratios(read, grid.read_seen(predicted)))
        self._have_met |= bool(ratios)
        if measured and not self._have_met:
            self.words = (
                "depth images come, but none with the stamp of a frame; the driver must stamp "
                "them as its images"
            )
        values = np.concatenate(ratios) if ratios else np.empty(0)
        if values.size < _MIN_PIXELS:
            return None
        self.ratio = float(np.median(values))
        spread = float(np.subtract(*np.percentile(values, [75, 25]))) / self.ratio
        self.words = (
            f"measured depth is {self.ratio:.2f} x ours (spread {spread:.2f}, "
            f"{len(ratios)} frames)"
        )
        return self.ratio


def _ratios(measured: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float64]:
    """Divide where both are known."""
    known = np.isfinite(measured) & np.isfinite(predicted) & (predicted > 0) & (measured > 0)
    return np.asarray(measured[known], float) / np.asarray(predicted[known], float)
