# SPDX-License-Identifier: Apache-2.0
"""Compares a measured depth image with the network's depth at the same stamp, to check the scale.

Only a check, shown in the diagnostics; nothing is corrected. Plain numpy. Next: engine.py, which
holds one of these beside the session.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.structures import Reconstruction

KEPT = 64
_LONGEST_SIDE = 160
_MIN_PIXELS = 50


class ScaleCheck:
    """Keeps recent measured depths, thinned, and the last ratio measured / predicted.

    Attributes:
        ratio: median over a window's pixels; 1 means our metres are metres. None before the first.
        words: the same as a sentence; empty before the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depths: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self.ratio: float | None = None
        self.words = ""

    def offer(self, stamp_ns: int, depth: NDArray[np.float32]) -> None:
        """Keep a measured depth, (H, W), m, NaN where unknown."""
        step = max(1, -(-max(depth.shape) // _LONGEST_SIDE))
        with self._lock:
            self._depths[stamp_ns] = depth[::step, ::step].copy()
            while len(self._depths) > KEPT:
                self._depths.popitem(last=False)

    def compare(self, reconstruction: Reconstruction) -> float | None:
        """Compare all frames whose stamps have a measured depth; None where there is none."""
        ratios = []
        with self._lock:
            measured = dict(self._depths)
        for index, stamp_ns in enumerate(reconstruction.stamps_ns):
            if stamp_ns in measured:
                predicted = np.where(
                    reconstruction.valid[index], reconstruction.depth[index], np.nan
                )
                ratios.append(_ratios(measured[stamp_ns], predicted))
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
    """Divide where both are known; the prediction is sampled at the measured pixels."""
    rows = (np.arange(measured.shape[0]) + 0.5) / measured.shape[0] * predicted.shape[0]
    columns = (np.arange(measured.shape[1]) + 0.5) / measured.shape[1] * predicted.shape[1]
    sampled = predicted[rows.astype(int)[:, None], columns.astype(int)[None, :]].astype(float)
    known = np.isfinite(measured) & np.isfinite(sampled) & (sampled > 0) & (measured > 0)
    return np.asarray(measured[known] / sampled[known], float)
