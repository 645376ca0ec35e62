# SPDX-License-Identifier: Apache-2.0
"""What loading took and what freeing gave back, in bytes and in words for the node's log.

What is loaded, and why not, is streaming/loading.py's. Next: engine.py, which runs it.
"""

from __future__ import annotations

import gc
import resource

import torch

from vidllm_ros.network.memory import free_bytes, trim_memory
from vidllm_ros.streaming.loading import LoadedBackend


def memory_used_bytes(device: str) -> int:
    """Bytes this process holds on the device: GPU allocations, or resident memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated(device))
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def release_memory(device: str) -> int:
    """Collect what nobody holds and hand it to the system; return the bytes still used."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    else:
        trim_memory()
    return memory_used_bytes(device)


def describe_torch() -> str:
    """Say which torch this is and what it sees."""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    seen = f"{torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "no GPU"
    return f"torch {torch.__version__} ({built}), {seen} seen, {torch.get_num_threads()} threads"


def describe_memory(loaded: LoadedBackend, used_before: int) -> str:
    """Say what was loaded and what it took, given the process's memory before."""
    used = memory_used_bytes(loaded.device)
    if loaded.device == "cpu":
        used -= used_before
    free = free_bytes(loaded.device)
    return f"{loaded}; {used / 2**20:.0f} MiB taken, {free / 2**20:.0f} MiB free"
