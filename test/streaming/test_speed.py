# SPDX-License-Identifier: Apache-2.0
"""Attention kernels are timed on the window that will run, which memory may have made smaller."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from vidllm_ros.network import acceleration, attention_kernels
from vidllm_ros.network.memory_plan import Rung, shrunk_size
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.streaming import memory_probe
from vidllm_ros.streaming.loading import Fit, load_backend
from vidllm_ros.streaming.memory_prospect import made_up_frames, vidllm_prospect
from vidllm_ros.streaming.model_folders import BUNDLED_MODEL, find_model
from vidllm_ros.streaming.speed import window_tokens

CPU = torch.device("cpu")
Shape = tuple[int, int, int, int]


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """Shapes that kernels are timed on, as a GPU's choice would have it."""
    shapes: list[Shape] = []
    whole = attention_kernels.probe_attention

    def note(shape: Shape, dtype: torch.dtype, device: torch.device) -> Any:
        shapes.append(shape)
        return whole((1, 1, 4, 8), dtype, device)

    choice = acceleration.Acceleration(attention=True)
    monkeypatch.setattr(acceleration, "probe_attention", note)
    monkeypatch.setattr(acceleration, "usual_acceleration", lambda device: choice)
    return shapes


def load(frames: int, step: str = "auto") -> VidLLM:
    loaded = load_backend("vidllm", BUNDLED_MODEL, "cpu", fit=Fit(frames, step))
    assert isinstance(loaded.backend, VidLLM)
    return loaded.backend


@pytest.mark.parametrize(("step", "frames", "shrink"), [("full", 9, 1.0), ("images_50", 8, 0.5)])
def test_kernels_are_timed_on_the_shape_of_the_window(
    step: str, frames: int, shrink: float, probed: list[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shape global attention has once a window of the rung runs; nothing else is timed."""
    model = load(9, step)
    seen: list[Shape] = []
    whole = functional.scaled_dot_product_attention

    def note(q: Any, *args: Any, **named: Any) -> Any:
        seen.append(tuple(q.shape))
        return whole(q, *args, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", note)
    prospect = vidllm_prospect(find_model(BUNDLED_MODEL), CPU, torch.float32)
    model.reconstruct(made_up_frames(prospect.size, frames), shrink)
    assert probed == [max((shape for shape in seen if shape[0] == 1), key=lambda s: s[2])]


def test_kernels_are_timed_anew_where_less_fits_than_was_reckoned(
    probed: list[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = memory_probe.choose_step
    smaller = Rung("images_75", "none", 8, 0.75)

    def choose(*args: Any) -> memory_probe.MemoryChoice:
        return replace(whole(*args), rung=smaller)

    monkeypatch.setattr(memory_probe, "choose_step", choose)
    model = load(12)
    prospect = vidllm_prospect(find_model(BUNDLED_MODEL), CPU, torch.float32)
    full = Rung("full", "none", 12, 1.0)
    expected = [window_tokens(model, prospect.size, rung) for rung in (full, smaller)]
    assert [shape[2] for shape in probed] == expected
    height, width = shrunk_size(prospect.size, 0.75, model.config.patch_size)
    patches = height * width // model.config.patch_size**2
    assert expected[1] == 8 * (patches + model.aggregator.patch_start)
