# SPDX-License-Identifier: Apache-2.0
"""What to give up, and in which order, so that a window fits the memory that is free.

The ladder: int8 language model, int4 language model, half the frames and half again, smaller
images. `plan_memory` is a pure function of measured free memory, the account and, once a window
has been measured, of how far the account is off at each stage. Next: concat_account.py for the
account of public models in a row, streaming/memory_probe.py, which measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
WEIGHT_SHARE = {"int8": 0.53, "int4": 0.30}
"""Of half-precision weights, scales included: one byte, or half a byte, and a scale a group."""


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights in the precision they are loaded in.

    Attributes:
        geometry: everything but the language model.
        language: the language model, with its tables of words, which stay as they are.
        tables: of them, the word tables.
        bytes_per_value: of that precision.
    """

    geometry: int
    language: int
    tables: int
    bytes_per_value: int = 2


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


class WindowAccount(Protocol):
    """What a window takes beside the weights, reckoned before it is run."""

    def stage_bytes(self, rung: Rung) -> dict[str, float]:
        """Return the bytes held at the fullest moment of each stage, by the stage's name."""


def plan_memory(
    account: WindowAccount,
    weights: Weights,
    free_bytes: int,
    rungs: Sequence[Rung],
    slack: Mapping[str, float] | None = None,
    whole_first: bool = False,
) -> MemoryPlan:
    """Choose the first rung that fits; the last one, with `fits` False, where none does.

    Args:
        account: of the network's windows.
        weights: in the precision they are loaded in; zeros once they are loaded.
        free_bytes: measured on the device.
        rungs: to choose from.
        slack: measured bytes of a stage over the account's; `SLACK` for stages not measured.
        whole_first: whether weights lie here whole before they are quantised, as on a CPU.

    Raises:
        ValueError: nothing was asked for.
    """
    if not rungs or free_bytes < 0:
        raise ValueError(
            f"rungs, free_bytes: expected one or more and >= 0, got {len(rungs)}, {free_bytes}"
        )
    whole = weight_bytes(weights, "none") if whole_first else 0.0
    for rung in rungs:
        passing = max(
            bytes_ * (slack or {}).get(stage, SLACK)
            for stage, bytes_ in account.stage_bytes(rung).items()
        )
        needed = max(whole, weight_bytes(weights, rung.quantize) + passing)
        chosen = MemoryPlan(rung, int(needed), free_bytes)
        if chosen.fits:
            break
    return chosen


def ladder(frames: int, kinds: Sequence[str] = KINDS) -> list[Rung]:
    """Return the rungs, what costs least given up first.

    Args:
        frames: of a full window.
        kinds: of `KINDS`, those that can be had; the rungs of the others are left out.

    Raises:
        ValueError: a window without frames.
    """
    if frames < 1:
        raise ValueError(f"frames: expected a window of one or more, got {frames}")
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


@dataclass(frozen=True)
class VidLLMAccount:
    """The account of Vid-LLM's windows; one stage, "window".

    Attributes:
        config: of the network.
        size: (H, W) of a frame at the network, px.
        bytes_per_value: of activations.
    """

    config: VidLLMConfig
    size: tuple[int, int]
    bytes_per_value: int = 2

    def stage_bytes(self, rung: Rung) -> dict[str, float]:
        """See `WindowAccount`."""
        size = shrunk_size(self.size, rung.shrink, self.config.patch_size)
        load = Workload(
            rung.frames, size, self.config.max_scene_tokens, bytes_per_value=self.bytes_per_value
        )
        return {"window": _peak(self.config, load)}


def weight_bytes(weights: Weights, quantize: str) -> float:
    """Bytes of all weights with the language model's linear layers quantised so."""
    layers = float(weights.language - weights.tables)
    if quantize != "none":
        layers *= WEIGHT_SHARE[quantize] * 2 / weights.bytes_per_value
    return weights.geometry + weights.tables + layers


def shrunk_size(size: tuple[int, int], shrink: float, patch: int) -> tuple[int, int]:
    """Return (H, W) at a share of a size, in whole patches, at least two, px."""
    height, width = (max(2, int(edge * shrink + 1e-6) // patch) * patch for edge in size)
    return height, width


def _peak(config: VidLLMConfig, load: Workload) -> float:
    """Activations at the fullest moment: blocks or dense maps, never both, and what is kept."""
    kept = dict(Account(config, load).kept_bytes())
    passing = max(kept.pop("block"), kept.pop("dense_maps"))
    return sum(kept.values()) + passing
