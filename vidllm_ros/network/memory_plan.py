# SPDX-License-Identifier: Apache-2.0
"""What to give up, and in which order, so that a window fits the memory that is free.

The ladder: int8 language model, int4 language model, half the frames and half again, smaller
images. `plan_memory` is a pure function of measured free memory and the account; who loads a model
measures, plans, says what was chosen, and refuses where nothing fits. Next: account.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vidllm_ros.network.account import Account, Workload
from vidllm_ros.network.configuration import VidLLMConfig

RESERVE = 0.9
"""Share of free memory that is planned with; allocators and libraries take the rest."""
SLACK = 1.25
"""Activations beside those of the account: buffers of kernels, fragments."""
LEAST_FRAMES = 8
SHRINKS = (1.0, 0.75, 0.5)
WEIGHT_SHARE = {"none": 1.0, "int8": 0.53, "int4": 0.30}
"""Of half-precision weights, scales included: one byte, or half a byte, and a scale a group."""


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights in the precision they are loaded in.

    Attributes:
        geometry: everything but the language model.
        language: the language model, with its tables of words, which stay as they are.
        tables: of them, the word tables.
    """

    geometry: int
    language: int
    tables: int


@dataclass(frozen=True)
class MemoryPlan:
    """A rung of the ladder.

    Attributes:
        quantize: "none", "int8" or "int4": of the language model's linear layers.
        frames: of a window.
        shrink: share of the image size.
        needed_bytes: what the account says it takes.
        free_bytes: what was free.
    """

    quantize: str
    frames: int
    shrink: float
    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= RESERVE * self.free_bytes

    @property
    def words(self) -> str:
        """What the plan is, for a log and for diagnostics."""
        given_up = [] if self.quantize == "none" else [f"language model in {self.quantize}"]
        given_up.append(f"{self.frames} frames")
        if self.shrink < 1:
            given_up.append(f"images at {self.shrink:.0%}")
        need, free = self.needed_bytes / 2**30, self.free_bytes / 2**30
        return f"{', '.join(given_up)}: needs {need:.1f} GiB of {free:.1f} GiB free"


def plan_memory(
    config: VidLLMConfig,
    weights: Weights,
    free_bytes: int,
    size: tuple[int, int],
    frames: int,
    bytes_per_value: int = 2,
    can_quantize: bool = True,
) -> MemoryPlan:
    """Choose the first rung that fits; the last one, with `fits` False, where none does.

    Args:
        config: of the network.
        weights: in the precision they are loaded in.
        free_bytes: measured on the device, before loading.
        size: (H, W) of a frame at the network, px.
        frames: of a window, wished for.
        bytes_per_value: of activations.
        can_quantize: whether a library for it is installed; without, those rungs are left out.

    Raises:
        ValueError: nothing was asked for.
    """
    if frames < 1 or free_bytes < 0:
        raise ValueError(f"frames, free_bytes: expected >= 1 and >= 0, got {frames}, {free_bytes}")
    chosen: MemoryPlan | None = None
    for quantize, count, shrink in ladder(frames, can_quantize):
        load = Workload(
            count, _shrunk(size, shrink, config.patch_size), config.max_scene_tokens,
            bytes_per_value=bytes_per_value,
        )  # fmt: skip
        needed = weight_bytes(weights, quantize) + SLACK * _peak(config, load)
        chosen = MemoryPlan(quantize, count, shrink, int(needed), free_bytes)
        if chosen.fits:
            break
    assert chosen is not None  # the ladder has a first rung
    return chosen


def ladder(frames: int, can_quantize: bool = True) -> Iterator[tuple[str, int, float]]:
    """Yield quantisation, frames and share of the image size, what costs least given up first."""
    rungs = ["none", "int8", "int4"] if can_quantize else ["none"]
    for quantize in rungs:
        yield quantize, frames, 1.0
    last = rungs[-1]
    counts = [frames]
    while counts[-1] // 2 >= LEAST_FRAMES:
        counts.append(counts[-1] // 2)
        yield last, counts[-1], 1.0
    for shrink in SHRINKS[1:]:
        yield last, counts[-1], shrink


def weight_bytes(weights: Weights, quantize: str) -> float:
    """Bytes of all weights with the language model's linear layers quantised so."""
    layers = weights.language - weights.tables
    return weights.geometry + weights.tables + WEIGHT_SHARE[quantize] * layers


def _shrunk(size: tuple[int, int], shrink: float, patch: int) -> tuple[int, int]:
    height, width = (max(2, int(edge * shrink + 1e-6) // patch) * patch for edge in size)
    return height, width


def _peak(config: VidLLMConfig, load: Workload) -> float:
    """Activations at the fullest moment: blocks or dense maps, never both, and what is kept."""
    kept = dict(Account(config, load).kept_bytes())
    passing = max(kept.pop("block"), kept.pop("dense_maps"))
    return sum(kept.values()) + passing


def shrink_workload(load: Workload, plan: MemoryPlan, patch: int) -> Workload:
    """Return the workload as the plan leaves it."""
    return replace(load, frames=plan.frames, size=_shrunk(load.size, plan.shrink, patch))
