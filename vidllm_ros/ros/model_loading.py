# SPDX-License-Identifier: Apache-2.0
"""Finds and loads what computes, at configure; each reason it cannot is a sentence with its fix.

Resolves the model's name, the device and the precision, checks the memory, and says what it chose.
Next: engine.py, which runs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from dataclasses import dataclass
from pathlib import Path

import torch
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from vidllm_ros.network.memory import free_bytes as memory_free_bytes
from vidllm_ros.network.memory import needed_bytes
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.streaming.backend import Backend, StandInBackend

_PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class ModelError(Exception):
    """What computes cannot be loaded; the message says why and what to do."""


@dataclass(frozen=True)
class LoadedBackend:
    """What computes, and where."""

    backend: Backend
    name: str
    device: str
    precision: str

    def __str__(self) -> str:
        return f"{self.name} on {self.device} in {self.precision}"


def find_model(model: str) -> Path:
    """Find the folder of a model: a path, or the name of one that is bundled.

    Raises:
        ModelError: there is none.
    """
    given = Path(model).expanduser()
    if given.is_dir():
        return given
    searched = [given.absolute()]
    if len(given.parts) == 1:
        searched += [folder / model for folder in _bundled_folders()]
    for folder in searched:
        if folder.is_dir():
            return folder
    places = ", ".join(str(folder) for folder in searched)
    raise ModelError(
        f"model: expected a folder of weights or a bundled name, got {model!r}; looked at "
        f"{places}; set the parameter model to a folder that save_pretrained wrote"
    )


def _bundled_folders() -> list[Path]:
    """Name the models folders of the installed package and of the source tree."""
    folders = [Path(__file__).resolve().parents[2] / "models"]
    with contextlib.suppress(PackageNotFoundError):  # run from the source tree
        folders.insert(0, Path(get_package_share_directory("vidllm_ros")) / "models")
    return folders


def choose_device(device: str) -> torch.device:
    """Turn the parameter into a device that is there.

    Raises:
        ModelError: this GPU is not.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            built = torch.version.cuda or "without CUDA"
            raise ModelError(
                f"device: expected a GPU for {device!r}, and torch {torch.__version__} (built "
                f"{built}) sees none; install a CUDA build and driver, or set device to cpu"
            )
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise ModelError(
                f"device: expected one of {torch.cuda.device_count()} GPUs, got {device!r}"
            )
    return chosen


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Turn the parameter into a number format the device is good at."""
    if precision != "auto":
        return _PRECISIONS[precision]
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


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


def trim_memory() -> None:
    """Hand freed pages of the heap back to the system.

    A window frees its tensors in another order than the next one takes them, and glibc keeps the
    holes: 80 MiB after a few windows of nano, and slowly more.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _check_memory(folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Raise if the weights and a window will not fit."""
    needed = needed_bytes(folder, dtype)
    free = memory_free_bytes(str(device))
    if needed > free:
        raise ModelError(
            f"memory: expected {needed / 2**30:.1f} GiB for {folder.name} on {device}, "
            f"{free / 2**30:.1f} GiB are free; take a smaller model or another device"
        )


def load_backend(parameters: NodeParameters) -> LoadedBackend:
    """Load what computes.

    Raises:
        ModelError: it cannot be loaded.
    """
    if parameters.backend == "standin":
        return LoadedBackend(StandInBackend(), "standin", "cpu", "float32")
    device = choose_device(parameters.device)
    dtype = choose_precision(parameters.precision, device)
    folder = find_model(parameters.model)
    _check_memory(folder, device, dtype)
    # Here and not above: the stand-in starts without the seconds these imports take.
    from transformers.utils import logging as transformers_logging

    from vidllm_ros.network.checkpoint import load_vidllm

    transformers_logging.disable_progress_bar()  # a node's log has lines, not bars
    try:
        model = load_vidllm(folder, device, dtype)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise ModelError(str(error)) from error
    except (RuntimeError, MemoryError) as error:  # torch says out of memory as RuntimeError
        raise ModelError(f"model: {folder} cannot be loaded on {device}: {error}") from error
    return LoadedBackend(model, "vidllm", str(device), str(dtype).removeprefix("torch."))


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
    free = memory_free_bytes(loaded.device)
    return f"{loaded}; {used / 2**20:.0f} MiB taken, {free / 2**20:.0f} MiB free"
