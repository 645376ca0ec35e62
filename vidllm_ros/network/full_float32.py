# SPDX-License-Identifier: Apache-2.0
"""Float32 that is float32: neither autocast nor TF32, for the few sums whose last bits count.

PyTorch lets cuDNN's convolutions round float32 to TF32 (10 bits, hardly more than bfloat16's 7)
unless told otherwise, and products too where somebody asked for speed. Used for metric depth, the
camera head, and wherever poses and places are multiplied; the rest keeps the precision of the run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

EXACT, INHERITED = "ieee", "none"
_lock = threading.Lock()
_entered = 0
_before: list[tuple[Any, str]] = []


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32 on this device, whatever surrounds it.

    PyTorch keeps the switches once a process. Where several threads are inside at once, the first
    sets them and the last one sets them back; another thread's products meanwhile are exact as
    well, never less exact than it asked for. Each gets back what it said itself, also where it
    inherited. Limits: what somebody sets inside is lost at the end; inside, PyTorch refuses to
    read the older names (`allow_tf32`) of what was TF32, with a RuntimeError; the switches are a
    GPU's, and mkldnn's, which let a CPU round to bfloat16, stay as they are.
    """
    with torch.autocast(device.type, enabled=False):
        _enter()
        try:
            yield
        finally:
            _leave()


def exact_product(first: Tensor, second: Tensor) -> Tensor:
    """Return first @ second in float32 at least, whatever surrounds it.

    For poses and places: in bfloat16 a place at 2 m has steps of 8 mm, a rotation of a quarter of
    a degree.
    """
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    with full_float32(first.device):
        return first.to(dtype) @ second.to(dtype)


def why_not_full_float32() -> str:
    """Say why PyTorch cannot be told so on a GPU and what to do; empty where it can."""
    try:
        _chains()
    except AttributeError:
        return (
            f"expected torch 2.9 or newer on a GPU, which can be told to keep float32 (its "
            f"fp32_precision), got {torch.__version__}; install a newer one: "
            "https://pytorch.org/get-started/locally"
        )
    return ""


def _enter() -> None:
    global _entered, _before
    with _lock:
        if _entered == 0:
            chains = [] if why_not_full_float32() else _chains()  # there, a CPU computes
            inexact = [chain for chain in chains if chain[-1].fp32_precision != EXACT]
            _before = [(chain[-1], _own(chain)) for chain in inexact]
            for switch, _ in _before:
                switch.fp32_precision = EXACT
        _entered += 1


def _leave() -> None:
    global _entered
    with _lock:
        _entered -= 1
        if _entered == 0:
            for switch, own in _before:
                switch.fp32_precision = own


def _chains() -> list[tuple[Any, ...]]:
    """Return the switches of convolutions and of products, each after those it inherits from.

    Raises:
        AttributeError: torch is older than 2.9, which brought them.
    """
    backends: Any = torch.backends
    above = (backends, backends.cudnn)  # of everything, of everything on a GPU
    chains = [(*above, backends.cudnn.conv), (*above, backends.cuda.matmul)]
    for chain in chains:
        for switch in chain:
            _ = switch.fp32_precision
    return chains


def _own(chain: Sequence[Any]) -> str:
    """Return what the last switch says itself: "ieee", "tf32", or "none" where it inherits.

    Reading one resolves what it inherits. So where it and the one above say the same, that one is
    made exact for a moment, to see whether the answer follows.
    """
    *above, switch = chain
    answer = str(switch.fp32_precision)
    if not above or answer in (INHERITED, EXACT) or answer != above[-1].fp32_precision:
        return answer
    upper, own = above[-1], _own(above)
    upper.fp32_precision = EXACT
    follows = switch.fp32_precision == EXACT
    upper.fp32_precision = own
    return INHERITED if follows else answer
