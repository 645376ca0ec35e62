# SPDX-License-Identifier: Apache-2.0
"""What to give up, and in which order, so that a window fits the memory that is free.

The ladder: int8 language model, int4 language model, half the frames and half again, smaller
images. `plan_memory` is a pure function of measured free memory, the account and, once a window
has been measured, of how far the account is off. Next: streaming/memory_probe.py, which measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vidllm_ros.network.account import Account, Workload
from vidllm_ros.network.configuration import VidLLMConfig

RESERVE = 0.9
"""Share of free memory that is planned with; allocators and libraries take the rest."""
SLACK = 1.25
"""Activations beside those of the account: buffers of kernels, fragments."""
LEAST_FRAMES = 8
KINDS = ("int8", "int4")
STEP_NAMES = (
    "full", *KINDS, "half_frames", "quarter_frames", "images_75", "images_50",
)  # fmt: skip
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
class Rung:
    """A step of the ladder.

    Attributes:
        name: of `STEP_NAMES`.
        quantize: "none", "int8" or "int4": of the language model's linear layers.
        frames: of a window.
        shrink: share of the image size.
    """

    name: str
    quantize: str
    frames: int
    shrink: float

    @property
    def words(self) -> str:
        """What it gives up, for a log and for diagnostics."""
        given_up = [] if self.quantize == "none" else [f"language model in {self.quantize}"]
        given_up.append(f"{self.frames} frames")
        if self.shrink < 1:
            given_up.append(f"images at {self.shrink:.0%}")
        return ", ".join(given_up)


@dataclass(frozen=True)
class MemoryPlan:
    """A rung, and what it takes.

    Attributes:
        rung: what is given up.
        needed_bytes: what account, weights and slack say it takes.
        free_bytes: what was free.
    """

    rung: Rung
    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= RESERVE * self.free_bytes

    @property
    def words(self) -> str:
        """What the plan is, for a log and for diagnostics."""
        need, free = size_words(self.needed_bytes), size_words(self.free_bytes)
        return f"{self.rung.words}: needs {need} of {free} free"


def size_words(count: float) -> str:
    """Say so many bytes in GiB, or MiB where there are few."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def plan_memory(
    config: VidLLMConfig,
    weights: Weights,
    free_bytes: int,
    size: tuple[int, int],
    frames: int,
    bytes_per_value: int = 2,
    rungs: Sequence[Rung] = (),
    slack: float = SLACK,
) -> MemoryPlan:
    """Choose the first rung that fits; the last one, with `fits` False, where none does.

    Args:
        config: of the network.
        weights: in the precision they are loaded in; zeros once they are loaded.
        free_bytes: measured on the device.
        size: (H, W) of a frame at the network, px.
        frames: of a window, wished for.
        bytes_per_value: of activations.
        rungs: to choose from; the whole ladder where empty.
        slack: measured activations over the account's.

    Raises:
        ValueError: nothing was asked for.
    """
    if frames < 1 or free_bytes < 0:
        raise ValueError(f"frames, free_bytes: expected >= 1 and >= 0, got {frames}, {free_bytes}")
    chosen: MemoryPlan | None = None
    for rung in rungs or ladder(frames):
        passing = activation_bytes(config, size, rung, bytes_per_value)
        needed = weight_bytes(weights, rung.quantize) + slack * passing
        chosen = MemoryPlan(rung, int(needed), free_bytes)
        if chosen.fits:
            break
    assert chosen is not None  # the ladder has a first rung
    return chosen


def ladder(frames: int, kinds: Sequence[str] = KINDS) -> list[Rung]:
    """Return the rungs, what costs least given up first.

    Args:
        frames: of a full window.
        kinds: of `KINDS`, those that can be had; the rungs of the others are left out.
    """
    least = min(LEAST_FRAMES, frames)
    half, quarter = max(least, frames // 2), max(least, frames // 4)
    rungs = [Rung("full", "none", frames, 1.0)]
    rungs += [Rung(kind, kind, frames, 1.0) for kind in KINDS if kind in kinds]
    last = rungs[-1].quantize
    for name, count, shrink in (
        ("half_frames", half, 1.0),
        ("quarter_frames", quarter, 1.0),
        ("images_75", quarter, 0.75),
        ("images_50", quarter, 0.5),
    ):
        if (count, shrink) != (rungs[-1].frames, rungs[-1].shrink):
            rungs.append(Rung(name, last, count, shrink))
    return rungs


def activation_bytes(
    config: VidLLMConfig, size: tuple[int, int], rung: Rung, bytes_per_value: int
) -> float:
    """Return what the account says a rung's window takes beside the weights, bytes."""
    load = Workload(
        rung.frames, _shrunk(size, rung.shrink, config.patch_size), config.max_scene_tokens,
        bytes_per_value=bytes_per_value,
    )  # fmt: skip
    return _peak(config, load)


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
