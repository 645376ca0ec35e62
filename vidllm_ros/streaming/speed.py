# SPDX-License-Identifier: Apache-2.0
"""What a loaded network gets unasked to run faster on its device, and the log's line about it.

Attention kernels are timed on the window that will run, which memory_probe.py may have made
smaller than what was asked for. Next: network/acceleration.py, which switches it on.
"""

from __future__ import annotations

import torch

from vidllm_ros.network import acceleration
from vidllm_ros.network.concat_geometry import VggtGeometry
from vidllm_ros.network.memory_plan import Rung, shrunk_size
from vidllm_ros.network.vidllm import VidLLM


def window_tokens(geometry: VidLLM | VggtGeometry, size: tuple[int, int], rung: Rung) -> int:
    """Return how many tokens of a window look at each other in global attention, S*P.

    Args:
        geometry: the network.
        size: (H, W) of a frame at the network where nothing is given up, px.
        rung: what is given up.
    """
    patch = geometry.config.patch_size
    height, width = shrunk_size(size, rung.shrink, patch)
    patches = (height // patch) * (width // patch)
    return rung.frames * (patches + geometry.aggregator.patch_start)


def speed_up(
    geometry: VidLLM | VggtGeometry, device: torch.device, tokens: int | None = None
) -> tuple[str, ...]:
    """Switch on what is exact and fast on this device; say so in a line where that is anything.

    Args:
        geometry: the network, on its device.
        device: its device.
        tokens: of a window; see `acceleration.accelerate_geometry`.
    """
    choice = acceleration.usual_acceleration(device)
    probe = acceleration.accelerate_geometry(geometry, choice, tokens)
    on = ["dense heads channels-last"] if choice.channels_last else []
    on += [probe.words] if probe.words else []
    return (f"speed: {'; '.join(on)}",) if on else ()
