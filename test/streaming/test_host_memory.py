# SPDX-License-Identifier: Apache-2.0
"""Weights that pass through the host are asked room for there; a GPU and limits are pretended."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from vidllm_ros.network import acceleration, memory
from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.network.memory_plan import Rung, Weights, ladder
from vidllm_ros.streaming import loading, memory_probe, memory_prospect, memory_rungs
from vidllm_ros.streaming.host_memory import (
    concatenation_on_host,
    rungs_with_host_room,
    vidllm_on_host,
)
from vidllm_ros.streaming.loading import BackendName, Fit
from vidllm_ros.streaming.memory_probe import MemoryChoice

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB = 2**30
WEIGHTS = Weights(geometry=4 * GIB, language=12 * GIB, tables=GIB)
NANO = Path(__file__).parents[2] / "models" / "vidllm-nano"


def llava(quantize: str) -> float:
    """LLaVA-3D of 12 GiB: nothing of it stays on the host where it is not quantised."""
    return 0.0 if quantize == "none" else 12.0 * GIB


def whole(quantize: str) -> float:
    return 16.0 * GIB


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend so much free memory on the host and on the GPU, bytes."""

    def pretend(host: float, gpu: float = 100 * GIB) -> None:
        monkeypatch.setattr(
            memory, "free_bytes", lambda device: int(host if device == "cpu" else gpu)
        )

    return pretend


def test_what_is_converted_is_taken_and_what_stays_mapped_is_not() -> None:
    kept, total = vidllm_on_host(NANO, torch.bfloat16), vidllm_on_host(NANO, torch.float32)
    weights = memory.stored_weights(NANO, torch.float32)
    everything = weights.geometry + weights.language
    for kind in ("none", "int8", "int4"):
        assert kept(kind) == 0  # stored in bfloat16
        assert 0.8 * everything < total(kind) <= everything


def test_of_public_models_the_language_model_alone_passes_through(
    public_parts: Path, tmp_path: Path
) -> None:
    def host_bytes(kind: str, language: str, dtype: torch.dtype) -> list[float]:
        places = (PartPlace(str(public_parts / name)) for name in ("vggt", language, "depth"))
        write_manifest(tmp_path / f"{language}{dtype}", Manifest(kind, *places))
        taken = concatenation_on_host(tmp_path / f"{language}{dtype}", dtype, WEIGHTS)
        return [taken(quantize) for quantize in ("none", "int8", "int4")]

    language = WEIGHTS.language
    for dtype in (torch.float32, torch.bfloat16):
        assert host_bytes("vggt_llava3d", "llava_3d", dtype) == [0, language, language]
    assert host_bytes("vggt_vlm", "vlm", torch.float32) == [0, 0, 0]  # as it is stored
    (taken,) = set(host_bytes("vggt_vlm", "vlm", torch.bfloat16))
    assert taken > 0


def test_a_host_with_room_changes_nothing_and_a_cpu_is_not_asked(free: Any) -> None:
    free(host=14 * GIB)
    assert rungs_with_host_room(llava, GPU, ladder(32), "row") == (ladder(32), "")
    free(host=1 * GIB)
    assert rungs_with_host_room(llava, CPU, ladder(32), "row") == (ladder(32), "")


def test_without_room_on_the_host_quantised_steps_are_left_out_and_said(free: Any) -> None:
    free(host=13 * GIB)  # nine tenths of it are planned with
    rungs, words = rungs_with_host_room(llava, GPU, ladder(32), "row")
    assert rungs == ladder(32, [])
    assert {rung.quantize for rung in rungs} == {"none"}
    assert words == (
        "int8 and int4 left out, as weights lie whole on the host before they are quantised: "
        "needs 12.0 GiB of 13.0 GiB free there"
    )


def test_a_step_fixed_by_hand_and_a_model_that_is_read_whole_are_refused(free: Any) -> None:
    free(host=13 * GIB)
    said = (
        r"^memory: expected 12\.0 GiB of the host's memory to load row through on its way to "
        r"cuda, got 13\.0 GiB free; free some, or take a smaller model$"
    )
    with pytest.raises(ValueError, match=said):
        rungs_with_host_room(llava, GPU, [Rung("int8", "int8", 32, 1.0)], "row")
    with pytest.raises(ValueError, match=r"expected 16\.0 GiB of the host's memory"):
        rungs_with_host_room(whole, GPU, ladder(32), "row")


@pytest.fixture
def gpu_row(
    public_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str], Weights]:
    """Public models in a row for a pretended GPU: folder, how each is loaded, its weights."""
    places = (PartPlace(str(public_parts / name)) for name in ("vggt", "llava_3d", "depth"))
    write_manifest(tmp_path / "row", Manifest("vggt_llava3d", *places))
    look_at, asked = memory_prospect.concatenation_prospect, []

    def look(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
        found = look_at(folder, CPU, dtype)
        return dataclasses.replace(
            found, load=lambda kind: (asked.append(kind), found.load("none"))[1]
        )

    def first(
        prospect: Any, model: Any, device: Any, rungs: Any, frames: int, wanted: str
    ) -> MemoryChoice:
        return MemoryChoice(rungs[-1], frames, rungs[-1].words)

    monkeypatch.setattr(memory_prospect, "concatenation_prospect", look)
    monkeypatch.setattr(memory_probe, "choose_step", first)
    monkeypatch.setattr(memory_rungs, "why_not_quantize", lambda *_: "")
    monkeypatch.setattr(acceleration, "usual_acceleration", lambda _: acceleration.Acceleration())
    return tmp_path / "row", asked, look_at(tmp_path / "row", CPU, torch.float32).weights


def test_loading_steps_down_and_says_why(free: Any, gpu_row: Any) -> None:
    folder, asked, weights = gpu_row
    name, dtype = BackendName.VGGT_LLAVA3D, torch.float32
    free(host=weights.language)
    _, choice, _ = loading._load_fitting(folder, name, GPU, dtype, Fit(32))
    assert asked == ["none"]
    assert choice.rung.quantize == "none"
    assert choice.words.startswith("8 frames, images at 50%; int8 and int4 left out, as weights")
    with pytest.raises(ValueError, match="of the host's memory to load row through"):
        loading._load_fitting(folder, name, GPU, dtype, Fit(32, "int8"))
    free(host=weights.language, gpu=weights.geometry)
    with pytest.raises(ValueError, match=r"got none: 8 frames.*, with int8 and int4 left"):
        loading._load_fitting(folder, name, GPU, dtype, Fit(32))
    free(host=2 * weights.language)
    _, choice, _ = loading._load_fitting(folder, name, GPU, dtype, Fit(32, "int8"))
    assert asked == ["none", "int8"]
    assert "left out" not in choice.words
