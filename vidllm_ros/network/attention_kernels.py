# SPDX-License-Identifier: Apache-2.0
"""Which attention kernel runs where: each is timed on a shape the network has, the fastest first.

All kernels give the same numbers up to rounding; which is fast depends on device, number format
and head size. The aggregator holds the order (aggregator.py): its shapes repeat from window to
window. Words are left to PyTorch's own choice, as each new length is a new shape, for which some
kernels make a plan first. Next: acceleration.py, which switches it on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
LAST = "math"
"""The literal kernel: takes everything, and is never tried before another one."""
PROBE_REPETITIONS = 3
MATH_TABLE_VALUES = 1 << 28
"""Scores that the literal kernel may hold while it is timed; at paper size it would be 36 GB."""
_lock = threading.RLock()


def now(device: torch.device) -> float:
    """Return seconds once the device has done all it was given; a launch returns before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def probe_attention(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    """Time every attention kernel that takes this shape; return s by name, the fastest first.

    The literal one is the last, however fast: its table grows with the square of the tokens, and a
    larger window may come. It is left out where its table would be large.

    Args:
        shape: batch, heads, tokens, channels of a head.
        dtype: of queries, keys and values.
        device: where.
    """
    seconds: dict[str, float] = {}
    try:
        q, k, v = (torch.randn(shape, dtype=dtype, device=device) for _ in range(3))
    except torch.OutOfMemoryError:
        return {}
    table = shape[0] * shape[1] * shape[2] ** 2
    with _lock:  # of all kernels: another thread's window would be timed with them
        for name, kernel in KERNELS.items():
            if kernel is SDPBackend.MATH and table > MATH_TABLE_VALUES:
                continue
            took = _time_kernel(kernel, (q, k, v), device)
            if took is not None:
                seconds[name] = took
    return dict(sorted(seconds.items(), key=lambda entry: (entry[0] == LAST, entry[1])))


def _time_kernel(
    kernel: SDPBackend, qkv: tuple[Tensor, Tensor, Tensor], device: torch.device
) -> float | None:
    """Return the best of a few runs; None where the kernel does not take it, or memory ends."""
    best: float | None = None
    with _switched([kernel]):
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


@contextmanager
def attention_order(names: Iterable[str]) -> Iterator[None]:
    """Let attention take the first named kernel that fits the call.

    Args:
        names: of `KERNELS`, the first preferred, `LAST` the last wherever it is named; none leaves
            PyTorch its own choice.
    """
    wanted = list(names)
    if not wanted:
        yield
        return
    with _switched([KERNELS[name] for name in (*(n for n in wanted if n != LAST), LAST)]):
        yield


@contextmanager
def _switched(order: Sequence[SDPBackend]) -> Iterator[None]:
    """Let attention take these kernels alone, in this order; one thread at a time.

    PyTorch keeps the switches once a process, and each context sets back what it found: two that
    cross would leave the one's for good. So a second thread waits until the first has left; one
    that asks for nothing does not wait, and meanwhile has the other's order.
    """
    with _lock, sdpa_kernel(list(order), set_priority=True):
        yield
