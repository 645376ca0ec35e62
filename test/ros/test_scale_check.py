# SPDX-License-Identifier: Apache-2.0
"""The ratio of measured to predicted depth is found, and only where stamps meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vidllm_ros.ros.scale_check import KEPT, ScaleCheck
from vidllm_ros.streaming.backend import StandInBackend
from vidllm_ros.structures import Frames

FRAMES = Frames(np.zeros((4, 84, 112, 3), np.uint8), (100, 200, 300, 400))


def test_ratio_ignores_what_is_unknown() -> None:
    rec = StandInBackend().reconstruct(FRAMES)
    rec = replace(rec, valid=rec.valid.copy())
    rec.depth[:, :, 50:] = 99.0
    rec.valid[:, :, 50:] = False
    check = ScaleCheck()
    assert check.compare(rec) is None
    measured = np.full((480, 640), StandInBackend.wall_m * 1.3, np.float32)
    measured[:100] = np.nan
    check.offer(200, measured)
    check.offer(250, measured * 5)
    assert check.compare(rec) == pytest.approx(1.3, rel=1e-6)
    assert "1.30 x ours" in check.words


def test_old_depths_are_forgotten() -> None:
    check = ScaleCheck()
    for stamp in range(KEPT + 10):
        check.offer(stamp, np.ones((4, 4), np.float32))
    assert min(check._depths) == 10
