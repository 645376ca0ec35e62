# SPDX-License-Identifier: Apache-2.0
"""A model's folder before it is loaded: what it would take, and how its windows are tried.

The ladder asks the same of Vid-LLM and of public models in a row: weights by file, an account of a
window's stages, loading with a quantised language model, and a rehearsal of a window whose stages
are measured one by one. Next: memory_probe.py, which decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from vidllm_ros.network import memory
from vidllm_ros.network.acceleration import quantize_language
from vidllm_ros.network.checkpoint import check_folder, load_vidllm
from vidllm_ros.network.concat_account import look_at_concatenation
from vidllm_ros.network.concatenation import Concatenation, load_concatenation
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.memory_plan import VidLLMAccount, Weights, WindowAccount
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.streaming.host_memory import HostBytes, concatenation_on_host, vidllm_on_host
from vidllm_ros.structures import Frames

Loaded = TypeVar("Loaded")
QUESTION, QUESTION_TOKENS = "what is on the table?", 2


@dataclass(frozen=True)
class Prospect(Generic[Loaded]):
    """What may be loaded.

    Attributes:
        name: of its folder.
        size: (H, W) at the network of a 4:3 camera, px.
        weights: as they are loaded where nothing is given up.
        account: of its windows.
        host_bytes: what of it the host holds for a while where it is loaded onto a GPU.
        load: loads it, given how the language model is quantised ("none", "int8", "int4").
        rehearse: given what was loaded, frames and a share of the image size, runs a window and
            a question, yields each stage's name before it begins, and leaves nothing remembered.
    """

    name: str
    size: tuple[int, int]
    weights: Weights
    account: WindowAccount
    host_bytes: HostBytes
    load: Callable[[str], Loaded]
    rehearse: Callable[[Loaded, Frames, float], Iterator[str]]


def vidllm_prospect(folder: Path, device: torch.device, dtype: torch.dtype) -> Prospect[VidLLM]:
    """Look at a folder of Vid-LLM's weights.

    Raises:
        FileNotFoundError, ValueError: it cannot be loaded.
    """
    check_folder(folder)  # before anything is read out of it: what is damaged is said in words
    config = VidLLMConfig.from_pretrained(folder)
    size = usual_size(config)

    def load(quantize: str) -> VidLLM:
        if quantize == "none":
            return load_vidllm(folder, device, dtype)
        # whole on the host, so that the device never holds what does not fit
        model = load_vidllm(folder, torch.device("cpu"), dtype)
        quantize_language(model, quantize, device)
        model.to(device=device)  # type: ignore[call-arg, misc]
        return model

    weights = memory.stored_weights(folder, dtype)
    account = VidLLMAccount(config, size, dtype.itemsize)
    host_bytes = vidllm_on_host(folder, dtype)
    return Prospect(folder.name, size, weights, account, host_bytes, load, _rehearse_vidllm)


def concatenation_prospect(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> Prospect[Concatenation]:
    """Look at a folder that names public models; each part is found, or fetched.

    Raises:
        FileNotFoundError, ValueError: it cannot be loaded.
    """
    account, weights = look_at_concatenation(folder, dtype)
    host_bytes = concatenation_on_host(folder, dtype, weights)

    def load(quantize: str) -> Concatenation:
        return load_concatenation(folder, device, dtype, quantize)

    return Prospect(
        folder.name, account.size, weights, account, host_bytes, load, _rehearse_concatenation
    )


def usual_size(config: VidLLMConfig) -> tuple[int, int]:
    """Return (H, W) at the network of a 4:3 camera, px."""
    patches = config.image_size // config.patch_size
    height = round(0.75 * patches) if config.resize_mode == "width" else patches
    return max(2, height) * config.patch_size, patches * config.patch_size


def made_up_frames(size: tuple[int, int], count: int) -> Frames:
    """Return so many frames of (H, W) that show a ramp on the move."""
    row, column = np.mgrid[0 : size[0], 0 : size[1]]
    ramp = ((row * 3 + column * 2) % 256).astype(np.uint8)
    images = np.stack([np.roll(ramp, 4 * i, axis=1) for i in range(count)])
    return Frames(
        images=np.repeat(images[..., None], 3, axis=-1),
        stamps_ns=tuple(range(1, count + 1)),
        frame_id="probe_optical_frame",
    )


def _rehearse_vidllm(model: VidLLM, frames: Frames, shrink: float) -> Iterator[str]:
    try:
        yield "window"
        model.detect(model.reconstruct(frames, shrink).scene)
    finally:
        model.eval()  # forgets frames and scenes


def _rehearse_concatenation(
    backend: Concatenation, frames: Frames, shrink: float
) -> Iterator[str]:
    try:
        if backend.metric_depth is not None:
            yield "metric_depth"
            backend.metres(backend.prepare(frames, shrink))
        yield "geometry"
        rec = backend.reconstruct(frames, shrink)  # finds that depth remembered
        yield "words"
        backend.talker.answer(rec.scene, QUESTION, QUESTION_TOKENS)
    finally:
        backend.forget_frames()
