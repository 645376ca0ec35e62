# SPDX-License-Identifier: Apache-2.0
"""Whether the host has room for weights on their way to a GPU.

A language model that is quantised on a GPU is put together in the host's memory first, so that the
GPU never holds what does not fit it; some loaders read whole models there in any case. Steps that
the host has no room for are left out of the ladder before anything is loaded. Next:
memory_probe.py, which chooses among the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vidllm_ros.network import memory
from vidllm_ros.network.concat_manifest import read_manifest
from vidllm_ros.network.concatenation import locate_parts
from vidllm_ros.network.convert_files import TensorFiles
from vidllm_ros.network.memory_plan import RESERVE, Rung, Weights, ladder, size_words

HostBytes = Callable[[str], float]
"""How the language model is quantised ("none", "int8", "int4") to bytes held on the host."""


def vidllm_on_host(folder: Path, dtype: torch.dtype) -> HostBytes:
    """Return what Vid-LLM takes, quantised or not.

    All of it is read on the host: what is stored in the number format it is loaded in stays mapped
    to its file and takes nothing that could run out, the rest is converted there. Measured on the
    bundled network: as stored 2 MiB beside the file's pages, in float32 all of it.
    """
    taken = float(_converted_bytes(folder, dtype))
    return lambda quantize: taken


def concatenation_on_host(folder: Path, dtype: torch.dtype, weights: Weights) -> HostBytes:
    """Return what public models in a row take: their language model alone passes through the host.

    LLaVA-3D as it is goes to the GPU tensor by tensor and is put together on the host where it is
    quantised; others are read as Vid-LLM is. Vision towers are left to the reserve.

    Args:
        folder: with concatenation.json.
        dtype: of the loaded weights.
        weights: as they are loaded.
    """
    manifest = read_manifest(folder)
    if manifest.backend == "vggt_llava3d":
        return lambda quantize: 0.0 if quantize == "none" else float(weights.language)
    return vidllm_on_host(locate_parts(folder, manifest)["language"], dtype)


def _converted_bytes(path: Path, dtype: torch.dtype) -> int:
    """Bytes of the tensors that are loaded in another format than they are stored in."""
    return sum(
        math.prod(tensor.shape) * dtype.itemsize
        for name, tensor in TensorFiles(path).tensors.items()
        if tensor.dtype.is_floating_point
        and tensor.dtype is not dtype
        and not name.startswith("camera_head.")  # float32 in any case
    )


def rungs_with_host_room(
    host_bytes: HostBytes, device: torch.device, rungs: Sequence[Rung], name: str
) -> tuple[list[Rung], str]:
    """Leave out what the host has no room for.

    Args:
        host_bytes: of what is to be loaded.
        device: where it will run; on a CPU the plan itself counts weights that lie whole.
        rungs: to choose from; one where it is fixed by hand.
        name: of what is to be loaded, for the words.

    Returns:
        the rungs that are left, and in words what was left out and why; empty where nothing was.

    Raises:
        ValueError: nothing is left; with both numbers.
    """
    if device.type != "cuda":
        return list(rungs), ""
    free = memory.free_bytes("cpu")
    kinds = list(dict.fromkeys(rung.quantize for rung in rungs))
    left = [kind for kind in kinds if host_bytes(kind) <= RESERVE * free]
    if left == kinds:
        return list(rungs), ""
    gone = [kind for kind in kinds if kind not in left]
    need = size_words(host_bytes(gone[0]))
    if not left:
        raise ValueError(
            f"memory: expected {need} of the host's memory to load {name} through on its way to "
            f"{device}, got {size_words(free)} free; free some, or take a smaller model"
        )
    words = (
        f"{' and '.join(gone)} left out, as weights lie whole on the host before they are "
        f"quantised: needs {need} of {size_words(free)} free there"
    )
    return ladder(rungs[0].frames, left), words
