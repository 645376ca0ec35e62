# SPDX-License-Identifier: Apache-2.0
"""Samples made once for all tests of SynthRooms: small pictures, whole rooms."""

from __future__ import annotations

import pytest
import torch

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms import SPLITS, make_scene


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def samples() -> list[SceneSample]:
    """Return twenty validation rooms, 16 frames of 48x64."""
    first = SPLITS["val"]
    return [make_scene(first + i, frames=16, height=48, width=64) for i in range(20)]
