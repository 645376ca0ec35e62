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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
NO_MEMORY = "memory ended"
_lock = threading.RLock()


def now(device: torch.device) -> float:
    """Return seconds once the device has done all it was given; a launch returns before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def clock_of(name: str, device: torch.device) -> Callable[[], float]:
    """Return what reads a benchmark's clock, s.

    Args:
        name: "wall", or "cpu" for the processor time of all threads: what other processes take
            does not count.
        device: where the work is done.

    Raises:
        ValueError: another name, or processor time of work that is not a processor's.
    """
    if name not in ("wall", "cpu") or (name == "cpu" and device.type != "cpu"):
        raise ValueError(f"clock: expected wall, or cpu on a CPU, got {name!r}")
    return time.process_time if name == "cpu" else lambda: now(device)


@dataclass(frozen=True)
class AttentionProbe:
    """What was timed.

    Attributes:
        seconds: of the kernels that take the shape, in the order they are to be tried.
        refused: why each of the others was not timed.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What is tried first and why, for a log; empty where nothing was looked at."""
        parts = [f"{name} {1e3 * took:.2f} ms" for name, took in self.seconds.items()]
        for why in dict.fromkeys(self.refused.values()):
            names = [name for name, reason in self.refused.items() if reason == why]
            parts.append(f"{' and '.join(names)} not timed: {why}")
        if not parts:
            return ""
        what = "by what is fastest here" if self.seconds else "as PyTorch chooses"
        return f"attention {what} ({', '.join(parts)})"


def probe_attention(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> AttentionProbe:
    """Time every attention kernel that takes this shape; the fastest is the first.

    The literal one is the last, however fast: its table grows with the square of the tokens, and a
    larger window may come. It is left out where its table would be large.

    Args:
        shape: batch, heads, tokens, channels of a head.
        dtype: of queries, keys and values.
        device: where.

    Raises:
        RuntimeError: a kernel failed otherwise than by refusing, or memory's end.
    """
    try:
        q, k, v = (torch.randn(shape, dtype=dtype, device=device) for _ in range(3))
    except torch.OutOfMemoryError:
        return AttentionProbe(refused=dict.fromkeys(KERNELS, NO_MEMORY))
    table = shape[0] * shape[1] * shape[2] ** 2
    seconds, refused = {}, {}
    with _lock:  # of all kernels: another thread's window would be timed with them
        for name in KERNELS:
            if name == LAST and table > MATH_TABLE_VALUES:
                refused[name] = "its table would be large"
                continue
            try:
                seconds[name] = _time_kernel(name, (q, k, v), device)
            except RefusedError as error:
                refused[name] = str(error)
    order = sorted(seconds, key=lambda name: (name == LAST, seconds[name]))
    return AttentionProbe({name: seconds[name] for name in order}, refused)


class RefusedError(Exception):
    """A kernel does not run here; says why."""


def _time_kernel(name: str, qkv: tuple[Tensor, Tensor, Tensor], device: torch.device) -> float:
    """Return the best of a few runs, s.

    The literal kernel stays on beside it, for other threads' words; so a kernel that refuses is
    not called, and PyTorch does not warn.

    Raises:
        RefusedError: the kernel does not take it, or memory ends.
    """
    took = []
    with _switched([KERNELS[name], KERNELS[LAST]] if name != LAST else [KERNELS[LAST]]):
        if torch._fused_sdp_choice(*qkv) != KERNELS[name].value:
            raise RefusedError("not for this device, format or size")
        try:
            for _ in range(PROBE_REPETITIONS + 1):
                begin = now(device)
                functional.scaled_dot_product_attention(*qkv)
                took.append(now(device) - begin)
        except torch.OutOfMemoryError:
            raise RefusedError(NO_MEMORY) from None
        except RuntimeError as error:  # cuDNN finds out late that it has no plan for a shape
            if "cudnn" not in str(error).lower():
                raise
            raise RefusedError(str(error).strip().splitlines()[0]) from error
    return min(took[1:])


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
