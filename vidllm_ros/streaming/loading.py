# SPDX-License-Identifier: Apache-2.0
"""What computes, found and loaded: the one door for the node and the command line.

A name or a folder becomes weights, "auto" becomes a device and a number format, and what does not
fit is refused before it is loaded; each reason is a sentence with its fix. torch and the network
are imported when asked for, so that names alone cost nothing. Next: backend.py, what is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidllm_ros.streaming.model_folders import LoadingError, find_model

if TYPE_CHECKING:
    import torch

    from vidllm_ros.network.concat_geometry import VggtGeometry
    from vidllm_ros.network.memory_plan import Rung
    from vidllm_ros.network.vidllm import VidLLM
    from vidllm_ros.streaming.backend import Backend
    from vidllm_ros.streaming.memory_probe import MemoryChoice

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
MEMORY_STEPS = (
    "auto", "full", "int8", "int4", "half_frames", "quarter_frames", "images_75", "images_50",
)  # fmt: skip
"""What a node may be told of memory: measure, or one of network/memory_plan.py's names."""
DEVICE_PATTERN = r"auto|cpu|cuda(:\d+)?"
DEVICE_WORDS = "auto, cpu, cuda or cuda:N"


class BackendName(str, Enum):
    """Who computes."""

    VIDLLM = "vidllm"
    VGGT_LLAVA3D = "vggt_llava3d"
    VGGT_VLM = "vggt_vlm"
    STANDIN = "standin"


CONCATENATIONS = (BackendName.VGGT_LLAVA3D, BackendName.VGGT_VLM)
"""Made of several public checkpoints, which their folder names (network/concat_manifest.py)."""


@dataclass(frozen=True)
class Fit:
    """Windows to find memory for.

    Attributes:
        frames: of a window.
        step: of the ladder (network/memory_plan.py), "auto" to measure.
        rung: that was chosen before, elsewhere: measured whether there is room for it, and for it
            alone; goes before `step`.
    """

    frames: int
    step: str = "auto"
    rung: Rung | None = None


@dataclass(frozen=True)
class LoadedBackend:
    """What computes, and where.

    Attributes:
        backend, name, device, precision: of what computes.
        notes: lines for the log: origins, licences and what makes it fast.
        memory: how much of a window there is memory for; None where nobody asked.
    """

    backend: Backend
    name: str
    device: str
    precision: str
    notes: tuple[str, ...] = ()
    memory: MemoryChoice | None = None

    def __str__(self) -> str:
        return f"{self.name} on {self.device} in {self.precision}"


def load_backend(
    name: BackendName | str,
    model: str | Path,
    device: str = "auto",
    precision: str = "auto",
    fit: Fit | None = None,
) -> LoadedBackend:
    """Load what computes.

    Args:
        name: who computes.
        model: folder of the weights, or the name of a bundled model.
        device: auto, cpu, cuda or cuda:N.
        precision: one of `PRECISIONS`.
        fit: windows to find memory for, which is measured; None refuses what does not fit and
            else begins with whole windows.

    Raises:
        LoadingError: it cannot be loaded.
    """
    wanted = BackendName(name)
    if wanted is BackendName.STANDIN:
        from vidllm_ros.streaming.backend import StandInBackend

        return LoadedBackend(StandInBackend(), wanted.value, "cpu", "float32")
    from vidllm_ros.network.full_float32 import why_not_full_float32

    where = choose_device(device)
    if where.type == "cuda" and (reason := why_not_full_float32()):
        raise LoadingError(f"torch: {reason}")
    dtype = choose_precision(precision, where)
    folder = find_model(model)
    try:
        check_kind(folder, wanted)
        backend: Backend
        memory: MemoryChoice | None
        if fit is not None:
            backend, memory, speed = _load_fitting(folder, wanted, where, dtype, fit)
        else:
            from vidllm_ros.streaming.speed import speed_up

            check_memory(folder, where, dtype)
            backend, memory = _LOADERS[wanted](folder, where, dtype), None
            speed = speed_up(_geometry_of(backend, wanted), where)
        notes = (*licence_notes(folder, wanted), *speed)
    except (ValueError, OSError, ImportError) as error:  # the last: a broken torchao
        raise LoadingError(str(error)) from error
    except (RuntimeError, MemoryError) as error:  # torch says out of memory as RuntimeError
        raise LoadingError(f"model: {folder} cannot be loaded on {where}: {error}") from error
    kind = str(dtype).removeprefix("torch.")
    return LoadedBackend(backend, wanted.value, str(where), kind, notes, memory)


def _load_fitting(
    folder: Path, name: BackendName, device: torch.device, dtype: torch.dtype, fit: Fit
) -> tuple[Backend, MemoryChoice, tuple[str, ...]]:
    """Load what computes as small as memory asks for, and measure how large a window may be.

    Raises:
        ValueError, MemoryError: not even the smallest step fits.
    """
    from transformers.utils import logging as transformers_logging

    from vidllm_ros.streaming import host_memory, memory_probe, memory_prospect, memory_rungs
    from vidllm_ros.streaming.speed import speed_up, window_tokens

    transformers_logging.disable_progress_bar()  # a log has lines, not bars
    rungs = (
        memory_rungs.usable_rungs(fit.frames, fit.step, device, dtype)
        if fit.rung is None
        else memory_rungs.rungs_loaded_as(fit.rung, fit.frames, device, dtype)
    )
    look: Callable[..., memory_prospect.Prospect[Any]] = memory_prospect.vidllm_prospect
    if name in CONCATENATIONS:
        look = memory_prospect.concatenation_prospect
    prospect = look(folder, device, dtype)
    rungs, left_out = host_memory.rungs_with_host_room(
        prospect.host_bytes, device, rungs, prospect.name
    )
    plan = memory_probe.plan_loading(prospect, device, rungs, left_out)
    model = prospect.load(plan.rung.quantize)
    geometry = _geometry_of(model, name)
    left, wanted = memory_rungs.rungs_left(rungs, plan.rung), fit.step
    if fit.rung is not None:
        left, wanted = [fit.rung], memory_rungs.AUTO  # measured, as whoever chose it did
    tokens = window_tokens(geometry, prospect.size, fit.rung or plan.rung)
    speed = speed_up(geometry, device, tokens)  # before memory is measured, which it changes
    choice = memory_probe.choose_step(prospect, model, device, left, fit.frames, wanted)
    chosen = window_tokens(geometry, prospect.size, choice.rung)
    if chosen != tokens:
        speed = speed_up(geometry, device, chosen)
    if left_out and choice.rung.name != "full":
        choice = replace(choice, words=f"{choice.words}; {left_out}")
    return model, choice, speed


def _geometry_of(backend: Any, name: BackendName) -> VidLLM | VggtGeometry:
    return backend.geometry if name in CONCATENATIONS else backend  # type: ignore[no-any-return]


def _load_vidllm(folder: Path, device: torch.device, dtype: torch.dtype) -> VidLLM:
    from transformers.utils import logging as transformers_logging

    from vidllm_ros.network.checkpoint import load_vidllm

    transformers_logging.disable_progress_bar()
    return load_vidllm(folder, device, dtype)


def _load_concatenation(folder: Path, device: torch.device, dtype: torch.dtype) -> Backend:
    from transformers.utils import logging as transformers_logging

    from vidllm_ros.network.concatenation import load_concatenation

    transformers_logging.disable_progress_bar()
    return load_concatenation(folder, device, dtype)


_LOADERS: dict[BackendName, Callable[[Path, torch.device, torch.dtype], Backend]] = {
    BackendName.VIDLLM: _load_vidllm,
    BackendName.VGGT_LLAVA3D: _load_concatenation,
    BackendName.VGGT_VLM: _load_concatenation,
}
"""How the weights in a folder become what computes; the stand-in has none."""


def check_kind(folder: Path, wanted: BackendName) -> None:
    """Refuse a folder that another backend reads, naming that one.

    Raises:
        LoadingError: the folder's own words name another backend.
        FileNotFoundError, ValueError: a concatenation's folder cannot be read.
    """
    from vidllm_ros.network import concat_manifest as manifests

    named = BackendName.VIDLLM.value
    if wanted in CONCATENATIONS or manifests.has_manifest(folder):
        named = manifests.read_manifest(folder).backend
    if named != wanted.value:
        raise LoadingError(
            f"backend: expected {named!r} for {folder}, got {wanted.value!r}; set backend to "
            f"{named}, or name another folder"
        )


def licence_notes(folder: Path, name: BackendName) -> tuple[str, ...]:
    """Say where a concatenation's parts are from and what their owners allow; else nothing."""
    if name not in CONCATENATIONS:
        return ()
    from vidllm_ros.network.concat_manifest import read_manifest

    return tuple(read_manifest(folder).licence_lines(folder))


def choose_device(device: str) -> torch.device:
    """Turn a name into a device that is there; "auto" takes a GPU if there is one.

    Raises:
        LoadingError: the name means nothing, or this GPU is not there.
    """
    import torch

    if not re.fullmatch(DEVICE_PATTERN, device):
        raise LoadingError(f"device: expected {DEVICE_WORDS}, got {device!r}")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            built = torch.version.cuda or "without CUDA"
            raise LoadingError(
                f"device: expected a GPU for {device!r}, and torch {torch.__version__} (built "
                f"{built}) sees none; install a CUDA build and driver, or set device to cpu"
            )
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise LoadingError(
                f"device: expected one of {torch.cuda.device_count()} GPUs, got {device!r}; "
                "take cuda"
            )
    return chosen


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Turn a name into a number format; "auto" takes one the device is good at."""
    import torch

    formats: dict[str, torch.dtype] = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    if precision != "auto":
        return formats[precision]
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def check_memory(folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what will not fit.

    Raises:
        LoadingError: the weights and a window need more than is free; of a concatenation the
            weights alone, as its window becomes smaller where memory is short.
    """
    from vidllm_ros.network import memory
    from vidllm_ros.network.concat_manifest import has_manifest

    if has_manifest(folder):
        from vidllm_ros.network.concatenation import weight_bytes

        needed = weight_bytes(folder, dtype)
    else:
        needed = memory.needed_bytes(folder, dtype)
    free = memory.free_bytes(str(device))
    if needed > free:
        raise LoadingError(
            f"memory: expected {needed / 2**30:.1f} GiB for {folder.name} on {device}, "
            f"{free / 2**30:.1f} GiB are free; take a smaller model or another device"
        )
