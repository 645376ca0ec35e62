# SPDX-License-Identifier: Apache-2.0
"""How large a window may be is measured at loading; a limit is pretended, the network is real."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vidllm_ros.network import memory
from vidllm_ros.network.memory_plan import Rung
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.streaming import memory_probe, memory_rungs
from vidllm_ros.streaming.loading import MEMORY_STEPS, Fit, load_backend
from vidllm_ros.streaming.memory_probe import MemoryMeter, Trial, run_window
from vidllm_ros.streaming.memory_prospect import vidllm_prospect
from vidllm_ros.streaming.memory_rungs import rungs_left, usable_rungs
from vidllm_ros.streaming.memory_steps import MemoryStep, MemorySteps
from vidllm_ros.streaming.model_folders import LoadingError

NANO = Path(__file__).parents[2] / "models" / "vidllm-nano"
CPU = torch.device("cpu")
MIB = 2**20
NONE = "expected torchao, found none; pip install torchao"


def took(mib: float) -> Trial:
    return Trial({"window": int(mib * MIB)})


@pytest.fixture(autouse=True)
def without_torchao(monkeypatch):
    monkeypatch.setattr(memory_rungs, "why_not_quantize", lambda *_: NONE)


@pytest.fixture
def pretend_free(monkeypatch):
    def pretend(mib: float) -> None:
        monkeypatch.setattr(memory, "free_bytes", lambda device: int(mib * MIB))

    return pretend


@pytest.fixture
def windows(monkeypatch):
    """Frames and shrink of every window the network computes."""
    seen = []
    whole = VidLLM.reconstruct

    def note(self, frames, shrink=1.0):
        seen.append((len(frames), shrink))
        return whole(self, frames, shrink)

    monkeypatch.setattr(VidLLM, "reconstruct", note)
    return seen


def test_where_there_is_plenty_a_small_window_is_measured_and_nothing_given_up(windows):
    loaded = load_backend("vidllm", NANO, "cpu", fit=Fit(32))
    assert windows == [(8, 1.0)]
    assert loaded.memory.step == MemoryStep(1.0, 1.0)
    assert loaded.memory.words.startswith("32 frames: needs ")
    assert "MiB with 8 frames" in loaded.memory.words
    assert len(loaded.backend.frame_cache) == 0  # nothing of it is remembered


def test_an_account_corrected_by_a_small_window_covers_the_whole_one():
    prospect = vidllm_prospect(NANO, CPU, torch.float32)
    model = prospect.load("none")
    full, small = Rung("full", "none", 32, 1.0), Rung("probe", "none", 8, 1.0)
    run_window(prospect, model, CPU, full)  # what a first window of a process takes once for all

    def least_mib(rung: Rung) -> float:
        """Of two: what else the process does meanwhile can only be added."""
        return min(run_window(prospect, model, CPU, rung).took["window"] for _ in "ab") / MIB

    def reckoned_mib(rung: Rung) -> float:
        return prospect.account.stage_bytes(rung)["window"] / MIB

    corrected = max(1.0, least_mib(small) / reckoned_mib(small)) * reckoned_mib(full)
    assert least_mib(full) < corrected


def test_what_is_measured_decides_and_not_the_account(pretend_free, monkeypatch):
    monkeypatch.setattr(memory_probe, "run_window", lambda *_: took(90))
    pretend_free(210)
    chosen = load_backend("vidllm", NANO, "cpu", fit=Fit(32)).memory
    assert chosen.rung.name == "half_frames"
    assert chosen.step == MemoryStep(0.5, 1.0, 16)
    assert "measured 90 MiB with 8 frames, and tried" in chosen.words


def test_where_it_is_tight_the_window_is_tried_and_a_smaller_one_taken(pretend_free, monkeypatch):
    tried = []

    def run(prospect, model, device, rung):
        tried.append((rung.frames, rung.shrink))
        if rung.frames > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return took(60)

    monkeypatch.setattr(memory_probe, "run_window", run)
    pretend_free(160)
    chosen = load_backend("vidllm", NANO, "cpu", fit=Fit(32)).memory
    assert tried == [(8, 1.0), (32, 1.0), (16, 1.0)]
    assert chosen.rung == Rung("quarter_frames", "none", 8, 1.0)
    assert chosen.words.startswith("8 frames: needs ")


def test_where_memory_ends_in_the_small_window_a_smaller_one_is_measured(monkeypatch):
    tried = []

    def run(prospect, model, device, rung):
        tried.append((rung.frames, rung.shrink))
        if rung.shrink > 0.5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return took(1)

    monkeypatch.setattr(memory_probe, "run_window", run)
    chosen = load_backend("vidllm", NANO, "cpu", fit=Fit(32)).memory
    assert tried == [(8, 1.0), (8, 0.75), (8, 0.5)]
    assert chosen.rung == Rung("images_50", "none", 8, 0.5)
    assert "measured 1 MiB with 8 frames, images at 50%" in chosen.words


def test_where_no_window_can_be_run_loading_is_refused_with_the_fix(monkeypatch):
    def run(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(memory_probe, "run_window", run)
    with pytest.raises(LoadingError, match=r"room for a window of 8 frames, images at 50%.*free"):
        load_backend("vidllm", NANO, "cpu", fit=Fit(32))


def test_where_nothing_fits_loading_is_refused_with_both_numbers(pretend_free):
    pretend_free(20)
    with pytest.raises(LoadingError, match=r"8 frames, images at 50%: needs \d+ MiB of 20 MiB"):
        load_backend("vidllm", NANO, "cpu", fit=Fit(32))


def test_a_rung_chosen_elsewhere_is_measured_and_taken_or_refused(
    pretend_free, monkeypatch, windows
):
    half = Rung("half_frames", "none", 16, 1.0)
    chosen = load_backend("vidllm", NANO, "cpu", fit=Fit(32, rung=half)).memory
    assert chosen.rung == half  # though there is room for more
    assert chosen.step == MemoryStep(0.5, 1.0, 16)
    assert windows[0] == (8, 1.0)  # measured
    pretend_free(20)
    with pytest.raises(LoadingError, match=r"got none: .* of 20 MiB free"):
        load_backend("vidllm", NANO, "cpu", fit=Fit(32, rung=half))
    with pytest.raises(LoadingError, match="expected language model in int8, 8 frames, as was ch"):
        load_backend("vidllm", NANO, "cpu", fit=Fit(32, rung=Rung("half_frames", "int8", 8, 1.0)))

    def run(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    pretend_free(10_000)
    monkeypatch.setattr(memory_probe, "run_window", run)
    with pytest.raises(LoadingError, match=r"room for a window of 16 frames, and memory ended"):
        load_backend("vidllm", NANO, "cpu", fit=Fit(32, rung=half))


def test_a_step_fixed_by_hand_is_taken_unmeasured(windows):
    chosen = load_backend("vidllm", NANO, "cpu", fit=Fit(32, "images_75")).memory
    assert (chosen.rung.frames, chosen.rung.shrink) == (8, 0.75)
    assert chosen.words == "8 frames, images at 75%, fixed by memory_step"
    assert windows == []


def test_steps_that_are_not_to_be_had_are_refused():
    with pytest.raises(ValueError, match="memory_step: expected auto or one of"):
        usable_rungs(32, "half", CPU)
    with pytest.raises(ValueError, match="pip install torchao"):
        usable_rungs(32, "int8", CPU)
    assert (memory_rungs.AUTO, *memory_rungs.STEP_NAMES) == MEMORY_STEPS  # one free of torch


def test_a_step_fixed_by_hand_never_computes_more_than_was_asked_for():
    assert usable_rungs(16, "quarter_frames", CPU) == [Rung("half_frames", "none", 8, 1.0)]
    assert usable_rungs(32, "quarter_frames", CPU) == [Rung("quarter_frames", "none", 8, 1.0)]
    assert usable_rungs(4, "full", CPU) == [Rung("full", "none", 4, 1.0)]
    assert usable_rungs(4, "images_75", CPU) == [Rung("images_75", "none", 4, 0.75)]
    with pytest.raises(ValueError, match=r"window of 4 frames smaller, got 'half_frames'; take"):
        usable_rungs(4, "half_frames", CPU)
    with pytest.raises(LoadingError, match="got 'quarter_frames'; take images_75"):
        load_backend("vidllm", NANO, "cpu", fit=Fit(8, "quarter_frames"))


def test_once_loaded_only_frames_and_images_are_left_to_give_up(monkeypatch):
    monkeypatch.setattr(memory_rungs, "why_not_quantize", lambda *_: "")
    rungs = usable_rungs(32, "auto", torch.device("cuda"))
    names = [rung.name for rung in rungs_left(rungs, rungs[1])]
    assert names == ["int8", "half_frames", "quarter_frames", "images_75", "images_50"]
    assert {rung.quantize for rung in rungs_left(rungs, rungs[0])} == {"none"}


def test_the_meter_sees_what_was_held_in_between():
    with MemoryMeter(CPU) as meter:
        held = torch.ones(40_000_000)
        total = float(held.sum())
        del held
    assert total == 40_000_000
    assert meter.peak_bytes > 0.8 * 160e6


def test_the_meter_counts_each_stage_by_itself():
    with MemoryMeter(CPU) as meter:
        meter.turn_to("large")
        large = torch.ones(40_000_000)
        total = float(large.sum())
        del large
        meter.turn_to("small")
        small = torch.ones(10_000_000)
        total += float(small.sum())
        del small
    assert total == 50_000_000
    assert meter.peaks["large"] > 0.8 * 160e6
    assert 0.8 * 40e6 < meter.peaks["small"] < 80e6
    assert meter.peak_bytes == meter.peaks["large"]


def test_the_meter_sees_what_is_taken_from_holes_in_the_heap():
    held = [bytearray(100_000) for _ in range(800)]
    last = held[-1]  # at the end of the heap, which keeps what is freed below
    del held
    with MemoryMeter(CPU) as meter:
        again = [bytearray(100_000) for _ in range(800)]
    assert len(again) == 800
    assert len(last) == 100_000
    assert meter.peak_bytes > 0.6 * 80e6


def test_a_window_that_is_refused_is_not_reported_as_measured(monkeypatch):
    def refuse(*_):
        raise ValueError("depth: expected some, got none")

    monkeypatch.setattr(VidLLM, "reconstruct", refuse)
    seen = []
    whole = memory_probe.plan_memory
    monkeypatch.setattr(
        memory_probe, "plan_memory", lambda *a, **b: (seen.append(a[4:]), whole(*a, **b))[1]
    )
    words = load_backend("vidllm", NANO, "cpu", fit=Fit(32)).memory.words
    assert words.endswith(
        "not measured, as 8 frames gave no window: depth: expected some, got none"
    )
    assert seen[-1] == ({},)  # so network/memory_plan.py's own slack


def test_what_loading_left_is_given_back_before_free_memory_is_read(monkeypatch):
    order = []
    read = memory.free_bytes
    monkeypatch.setattr(memory_probe, "free_memory", lambda: order.append("given back"))
    monkeypatch.setattr(memory, "free_bytes", lambda d: (order.append("read"), read(d))[1])
    monkeypatch.setattr(memory_probe, "run_window", lambda *_: took(1))
    load_backend("vidllm", NANO, "cpu", fit=Fit(32))
    assert order == ["read", "given back", "read"]  # before loading, and after


def test_a_session_begins_at_the_chosen_step_and_never_exceeds_it():
    steps = MemorySteps(MemoryStep(0.5, 1.0))
    assert steps.step == MemoryStep(0.5, 1.0)
    assert steps.words(32) == ""
    sizes = [steps.step]
    while steps.down():
        sizes.append(steps.step)
    assert [(s.frames, s.shrink) for s in sizes] == [
        (0.5, 1.0), (0.25, 1.0), (0.25, 0.75), (0.25, 0.5),
    ]  # fmt: skip
    for _ in range(400):
        steps.worked()
    assert steps.step == MemoryStep(0.5, 1.0)
