# SPDX-License-Identifier: Apache-2.0
"""How many frames go through the dense decoders at a time: bounds memory, changes no number.

Small maps go through many frames at a time, maps at image size few, so that they stay in a CPU's
cache. Next: dense_head.py and metric_depth.py, which go through in these turns.
"""

from __future__ import annotations

import math

from torch import Tensor

# Values of the largest map that go through at a time: 32 frames of the bundled network in two
# turns, then four frames at a time at image size; at paper size the least frames decide.
DECODER_VALUES, FINISH_VALUES = 1 << 21, 5 << 18
LEAST_FRAMES = 8


def in_turns(total: int, values: int, limit: int, least: int) -> int:
    """Return how many of `total` frames go through at a time, in turns of about equal length.

    One frame's largest map has `values`; `limit` of them fit, but at least `least` frames go.
    """
    most = max(least, limit // max(1, values), 1)
    return max(1, math.ceil(total / math.ceil(max(1, total) / most)))


def finish_at_a_time(final: Tensor, size: tuple[int, int], channels: int) -> int:
    """Say how many frames of a decoder's final map go through the layers at image size at a time.

    On a GPU all of them: it has no cache to stay in.

    Args:
        final: (F, ., ., .).
        size: (H, W), px.
        channels: of the widest layer there.
    """
    if final.device.type != "cpu":
        return len(final)
    return in_turns(len(final), size[0] * size[1] * channels, FINISH_VALUES, 1)
