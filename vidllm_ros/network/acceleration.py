# SPDX-License-Identifier: Apache-2.0
"""Faster ways to run the same weights: what a device gets unasked, and what only who asks gets.

Channels-last maps and measured attention kernels are exact up to rounding: on a GPU the node has
them (streaming/loading.py), and the bench what the node has, unless told otherwise. Compilation is
exact too and costs minutes, a quantised language model is an approximation: neither is a default.
Keys of the weights stay as they are. Next: attention_kernels.py; cli/bench_model.py, which
measures all of it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vidllm_ros.network.attention_kernels import AttentionProbe, now, probe_attention
from vidllm_ros.network.concat_geometry import VggtGeometry
from vidllm_ros.network.vidllm import VidLLM

WINDOW_FRAMES = 32

QUANTISED: dict[str, tuple[str, dict[str, str]]] = {
    "int8": ("Int8WeightOnlyConfig", {}),
    # The packing that PyTorch's own kernel reads; torchao's default wants a library of its own.
    "int4": ("Int4WeightOnlyConfig", {"int4_packing_format": "tile_packed_to_4d"}),
}


@dataclass(frozen=True)
class Acceleration:
    """What to switch on.

    Attributes:
        compile: torch.compile of the repeated blocks and the dense decoders, static shapes; no
            CUDA graphs. Costs minutes at the first window.
        channels_last: dense heads hold their maps channel by channel for each pixel.
        attention: the aggregator takes the attention kernel that is fastest here, by measurement.
        quantize: "none", "int8" or "int4", of the language model's linear layers; needs torchao.
    """

    compile: bool = False
    channels_last: bool = False
    attention: bool = False
    quantize: str = "none"

    def __post_init__(self) -> None:
        if self.quantize != "none" and self.quantize not in QUANTISED:
            raise ValueError(
                f"quantize: expected none, int8 or int4, got {self.quantize!r}; choose one"
            )


def usual_acceleration(device: torch.device) -> Acceleration:
    """Return what is switched on unasked: what is exact, and on a GPU alone, where it counts."""
    is_gpu = device.type == "cuda"
    return Acceleration(channels_last=is_gpu, attention=is_gpu)


def accelerate(
    model: VidLLM, choice: Acceleration, window_tokens: int | None = None
) -> AttentionProbe:
    """Switch it on, in place.

    Args:
        model: on its device.
        choice: what.
        window_tokens: as for `accelerate_geometry`.

    Returns:
        which attention kernels were timed; none where it was not asked for.

    Raises:
        ImportError: quantisation was asked for and torchao is not installed.
    """
    probe = accelerate_geometry(model, choice, window_tokens)
    if choice.quantize != "none":
        quantize_language(model, choice.quantize, model.device)
    if choice.compile:
        for module in _repeated(model):
            # In place: a wrapped module would rename the weights' keys. Without CUDA graphs, which
            # overwrite outputs that are kept (PyTorch issues 152887, 160281).
            module.compile(dynamic=False, mode="default")
    return probe


def accelerate_geometry(
    model: VidLLM | VggtGeometry, choice: Acceleration, window_tokens: int | None = None
) -> AttentionProbe:
    """Switch on what of it concerns geometry, but compilation; in place.

    Args:
        model: Vid-LLM, or the geometry of public models in a row, on its device.
        choice: what.
        window_tokens: that global attention, the larger of the aggregator's two, is timed with;
            frame attention takes the same order. About those of 32 frames of a 4:3 camera where
            None.

    Returns:
        as `accelerate`.
    """
    if choice.channels_last:
        heads: list[nn.Module | None] = [model.depth_head, model.point_head]
        heads += [model.metric_depth] if isinstance(model, VidLLM) else []
        for head in heads:
            if head is not None:
                head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not choice.attention:
        return AttentionProbe()
    config, token = model.config, model.aggregator.camera_token
    if window_tokens is None:
        side = config.image_size // config.patch_size
        window_tokens = WINDOW_FRAMES * (side * side * 3 // 4 + model.aggregator.patch_start)
    count = config.aggregator_heads
    shape = (1, count, window_tokens, token.shape[-1] // count)
    probe = probe_attention(shape, token.dtype, token.device)
    model.aggregator.kernels = tuple(probe.seconds)
    return probe


def _repeated(model: VidLLM) -> list[nn.Module]:
    blocks = [*model.aggregator.frame_blocks, *model.aggregator.global_blocks]
    blocks += model.encoder.backbone.encoder.layer
    decoders = [model.depth_head.decoder, model.metric_depth.decoder]
    return [*blocks, *decoders, *(decoder.finish for decoder in decoders)]


def why_not_quantize(kind: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str:
    """Say what layers cannot be quantised for here and what to do; empty where they can.

    int4 has a kernel on a GPU and for bfloat16 alone. Source: torchao 0.18.

    Args:
        kind: "int8" or "int4".
        device: where they will run.
        dtype: of their weights.
    """
    if kind == "int4" and device.type != "cuda":
        return (
            f"expected a GPU for int4, got {device.type}; take int8, or leave weights as they are"
        )
    if kind == "int4" and dtype is not torch.bfloat16:
        return f"expected bfloat16 for int4, got {dtype}; set precision to bfloat16, or take int8"
    if importlib.util.find_spec("torchao") is None:
        return f"expected torchao for {kind}, found none; pip install torchao, or choose none"
    return ""


def quantize_language(model: VidLLM, kind: str, device: torch.device) -> None:
    """Quantise the language model's linear layers in place; see `quantize_layers`."""
    quantize_layers(model.language.model, kind, device)


def quantize_layers(words: nn.Module, kind: str, device: torch.device) -> None:
    """Quantise a language model's linear layers in place, where they will run; tables stay.

    Args:
        words: on any device.
        kind: "int8" or "int4", which is for bfloat16 on a GPU.
        device: where each layer is taken to be quantised.

    Raises:
        ImportError: torchao is not installed, or cannot do it on this device.
    """
    reason = why_not_quantize(kind, device, next(words.parameters()).dtype)
    if reason:
        raise ImportError(f"quantize: {reason}")
    torchao: Any = importlib.import_module("torchao.quantization")
    name, settings = QUANTISED[kind]
    torchao.quantize_(
        words,
        getattr(torchao, name)(**settings),
        lambda module, path: isinstance(module, nn.Linear) and "lm_head" not in path,
        device=device,
    )


def measured_ceilings(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] | None = None
) -> tuple[float, float]:
    """Measure FLOP/s of a large product and bytes/s of a large copy, read and write counted.

    Args:
        device: where.
        dtype: of the product.
        clock: the one the stages are timed by; the wall's where None.
    """
    read = clock or (lambda: now(device))
    edge, values = (8192, 1 << 28) if device.type == "cuda" else (1024, 1 << 25)
    a = torch.randn(edge, edge, dtype=dtype, device=device)
    source = torch.zeros(values, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def best(call: Callable[[], object]) -> float:
        took = []
        for _ in range(6):
            begin = read()
            call()
            took.append(read() - begin)
        return min(took[1:])

    return 2 * edge**3 / best(lambda: a @ a), 8 * values / best(lambda: target.copy_(source))
