# SPDX-License-Identifier: Apache-2.0
"""Float32 that is float32: neither autocast nor TF32, for the few layers whose last bits count.

PyTorch lets cuDNN's convolutions round float32 to TF32 (10 bits, hardly more than bfloat16's 7)
unless told otherwise, and products too where somebody asked for speed. Used by metric_depth.py and
camera_head.py; everything else keeps the precision of the run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

EXACT = "ieee"
_lock = threading.Lock()
_entered = 0
_before: tuple[str, ...] = ()


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32 on this device, whatever surrounds it.

    PyTorch keeps the switch once a process. Where several threads are inside at once, the first
    sets it and the last one sets it back; another thread's products meanwhile are exact as well,
    never less exact than it asked for.
    """
    with torch.autocast(device.type, enabled=False):
        _enter()
        try:
            yield
        finally:
            _leave()


def _enter() -> None:
    global _entered, _before
    with _lock:
        if _entered == 0:
            _before = _precisions()
            _set(EXACT for _ in _before)
        _entered += 1


def _leave() -> None:
    global _entered
    with _lock:
        _entered -= 1
        if _entered == 0:
            _set(_before)


def _precisions() -> tuple[str, ...]:
    """Return how each of `_switches` has float32 on a GPU: "ieee", "tf32" or "none"."""
    return tuple(switch.fp32_precision for switch in _switches())


def _set(precisions: Iterable[str]) -> None:
    for switch, precision in zip(_switches(), precisions, strict=True):
        switch.fp32_precision = precision


def _switches() -> tuple[Any, ...]:
    """Return the holders of the switches: of convolutions, of products.

    While the first is set, PyTorch refuses to read its older name, `cudnn.allow_tf32`; nothing in
    here does, and it can be read again afterwards.
    """
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv, torch.backends.cuda.matmul
