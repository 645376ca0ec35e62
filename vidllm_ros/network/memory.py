# SPDX-License-Identifier: Apache-2.0
"""How much memory a model needs, and how much a device has free; asked before anything is loaded.

An estimate from the size of the files, for refusing in words what would otherwise die of memory.
Used by the node at configure and by `vidllm doctor`. Next: checkpoint.py, which loads.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

if TYPE_CHECKING:  # it imports transformers; a node asks for free memory before it loads anything
    from vidllm_ros.network.memory_plan import Weights

WORKING_ROOM = 1.5
"""Memory a window is taken to need, as a multiple of the weights: a rule of thumb, not measured,
and the same for every window; memory_plan.py counts a given one."""
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_M_ARENA_MAX = -8  # of mallopt(3)
_STORED_BYTES = 2  # weights are stored in half precision and widened on loading


def needed_bytes(folder: Path, dtype: torch.dtype) -> int:
    """Estimate what the weights of a folder and a window need, bytes, in this number format."""
    on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return int(on_disk * (dtype.itemsize / _STORED_BYTES) * (1 + WORKING_ROOM))


def free_bytes(device: str) -> int:
    """Return the bytes that are free on the device.

    For a CPU those of the machine, or of the container where its limit leaves less.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    left = container_free_bytes()
    return machine_free_bytes() if left is None else min(left, machine_free_bytes())


def machine_free_bytes() -> int:
    """Return what the machine can give without swapping, limits aside, bytes."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        for line in meminfo:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def container_free_bytes() -> int | None:
    """Return what the limits of this process's control groups leave, bytes; None without any.

    Of a limit is left what is not in use; cached files not lately read count as free, as the
    kernel drops them first. Source: Linux, Documentation/admin-guide/cgroup-v2.rst and
    cgroup-v1/memory.rst.
    """
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            root, names = CGROUPS / "memory", ("limit_in_bytes", "usage_in_bytes", "total_")
        elif number == "0":
            root, names = CGROUPS, ("max", "current", "")
        else:
            continue
        own = root / path.lstrip("/")
        groups = [own, *own.parents]  # a limit of any group above holds as well
        inside = (group for group in groups if group.is_relative_to(root))
        left += [free for group in inside if (free := _left_of(group, *names)) is not None]
    return max(0, min(left)) if left else None


def _left_of(group: Path, limit: str, usage: str, prefix: str) -> int | None:
    """Return what a group's limit leaves, bytes; None where it has none or does not say."""
    try:
        most, used = (int((group / f"memory.{name}").read_text()) for name in (limit, usage))
    except (OSError, ValueError):  # no such group, or "max"
        return None
    with contextlib.suppress(OSError):
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{prefix}inactive_file "):
                used -= int(line.split()[1])
    return most - used


def trim_memory() -> None:
    """Hand freed pages of the heap back to the system.

    A window frees its tensors in another order than the next one takes them, and glibc keeps the
    holes: 80 MiB after a few windows of nano, and slowly more.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_one_arena() -> None:
    """Let all threads of this process share one heap, where the environment does not say.

    glibc gives threads heaps of their own, and each keeps the holes that a window leaves: with the
    worker's and those of the executor's threads a node grew by 3 % in ten minutes. Call it before
    there are threads.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # glibc only
            ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 1)


def resident_bytes() -> int:
    """Return what this process holds of the machine's memory now."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def stored_weights(folder: Path, dtype: torch.dtype) -> Weights:
    """Count a folder's weights from the heads of its files, as they will be loaded.

    Args:
        folder: of a checkpoint.
        dtype: of the loaded weights; the camera head's are float32 anyhow.
    """
    from vidllm_ros.network.memory_plan import Weights

    geometry = language = tables = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as stored:  # type: ignore[no-untyped-call]
            for name in stored.keys():  # noqa: SIM118 - no mapping
                width = 4 if name.startswith("camera_head.") else dtype.itemsize
                size = math.prod(stored.get_slice(name).get_shape()) * width
                if not name.startswith("language."):
                    geometry += size
                    continue
                language += size
                if "embed_tokens" in name or "lm_head" in name:
                    tables += size
    return Weights(geometry, language, tables, dtype.itemsize)
