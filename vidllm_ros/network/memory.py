# SPDX-License-Identifier: Apache-2.0
"""How much memory a model needs, and how much a device has free; asked before anything is loaded.

An estimate from the size of the files, for refusing in words what would otherwise die of memory.
Used by the node at configure and by `vidllm doctor`. Next: checkpoint.py, which loads.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

WORKING_ROOM = 1.5
"""Memory a window is taken to need, as a multiple of the weights: a rule of thumb, not measured,
and the same for every window; memory_plan.py counts a given one."""
_STORED_BYTES = 2  # weights are stored in half precision and widened on loading


def needed_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Estimate what the weights of a folder and a window need, bytes, in this number format."""
    on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return int(on_disk * (dtype.itemsize / _STORED_BYTES) * (1 + WORKING_ROOM))


def free_bytes(device: str) -> int:
    """Return the bytes that are free on the device; those of the machine for a CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        for line in meminfo:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
