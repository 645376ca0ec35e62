# SPDX-License-Identifier: Apache-2.0
"""Faster ways to run the same weights, chosen by measuring them on the device at hand.

Attention kernels differ by device, number format and head size, so each is timed on the shapes
this network has and the fastest is put first. Compilation and channels-last maps are exact up to
rounding; a quantised language model is an approximation and never a default. Keys of the weights
stay as they are. Next: cli/bench_model.py, which measures all of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vidllm_ros.network.vidllm import VidLLM

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PROBE_REPETITIONS = 3
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
        quantize: "none", "int8" or "int4", of the language model's linear layers; needs torchao.
    """

    compile: bool = False
    channels_last: bool = False
    quantize: str = "none"

    def __post_init__(self) -> None:
        if self.quantize != "none" and self.quantize not in QUANTISED:
            raise ValueError(
                f"quantize: expected none, int8 or int4, got {self.quantize!r}; choose one"
            )


def now(device: torch.device) -> float:
    """Return seconds once the device has done all it was given; a launch returns before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def accelerate(model: VidLLM, choice: Acceleration) -> VidLLM:
    """Switch it on, in place; return the model.

    Raises:
        ImportError: quantisation was asked for and torchao is not installed.
    """
    if choice.channels_last:
        for head in (model.depth_head, model.metric_depth):
            head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if choice.quantize != "none":
        quantize_language(model, choice.quantize, model.device)
    if choice.compile:
        for module in _repeated(model):
            # In place: a wrapped module would rename the weights' keys. Without CUDA graphs, which
            # overwrite outputs that are kept (PyTorch issues 152887, 160281).
            module.compile(dynamic=False, mode="default")
    return model


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


def probe_attention(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Time every attention kernel that takes this shape; return s by name, the fastest first.

    Args:
        shape: batch, heads, tokens, channels of a head.
        dtype: of queries, keys and values.
        device: where.
    """
    seconds: dict[str, float] = {}
    q, k, v = (torch.randn(shape, dtype=dtype, device=device) for _ in range(3))
    for name, kernel in KERNELS.items():
        took = _time_kernel(kernel, (q, k, v), device)
        if took is not None:
            seconds[name] = took
    return dict(sorted(seconds.items(), key=lambda entry: entry[1]))


def _time_kernel(
    kernel: SDPBackend, qkv: tuple[Tensor, Tensor, Tensor], device: torch.device
) -> float | None:
    """Return the best of a few runs; None where the kernel does not take it, or memory ends."""
    best: float | None = None
    with sdpa_kernel(kernel):
        for turn in range(PROBE_REPETITIONS + 1):
            begin = now(device)
            try:
                functional.scaled_dot_product_attention(*qkv)
            except RuntimeError:  # not this device, type or size; also out of memory
                return None
            took = now(device) - begin
            if turn:
                best = took if best is None else min(best, took)
    return best


def attention_order(seconds: dict[str, float]) -> AbstractContextManager[Any]:
    """Return a context in which attention takes the fastest probed kernel that fits the call."""
    order = [KERNELS[name] for name in seconds] or list(KERNELS.values())
    if SDPBackend.MATH not in order:
        order.append(SDPBackend.MATH)  # takes everything
    return sdpa_kernel(order, set_priority=True)


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
