# SPDX-License-Identifier: Apache-2.0
"""Public models in a row go down the same ladder: stages measured, the choice said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vidllm_ros.network import memory
from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.network.concat_vlm import VlmTalker
from vidllm_ros.network.concatenation import Concatenation
from vidllm_ros.network.memory_plan import Rung
from vidllm_ros.streaming import memory_probe, memory_rungs
from vidllm_ros.streaming.loading import Fit, load_backend
from vidllm_ros.streaming.memory_probe import Trial
from vidllm_ros.streaming.memory_prospect import concatenation_prospect
from vidllm_ros.streaming.memory_steps import MemoryStep
from vidllm_ros.streaming.model_folders import LoadingError
from vidllm_ros.streaming.session import Session, SessionSettings
from vidllm_ros.streaming.window import WindowSettings
from vidllm_ros.structures import Frames

LANGUAGES = {"vggt_llava3d": "llava_3d", "vggt_vlm": "vlm"}
KINDS = sorted(LANGUAGES)
MIB = 2**20


@pytest.fixture(autouse=True)
def without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "expected torchao, found none; pip install torchao"
    monkeypatch.setattr(memory_rungs, "why_not_quantize", lambda *_: reason)


@pytest.fixture
def folder(public_parts: Path, tmp_path: Path) -> Callable[[str], Path]:
    def write(kind: str) -> Path:
        places = (PartPlace(str(public_parts / n)) for n in ("vggt", LANGUAGES[kind], "depth"))
        write_manifest(tmp_path / kind, Manifest(kind, *places))
        return tmp_path / kind

    return write


def pretend(monkeypatch: pytest.MonkeyPatch, free_mib: float, **took: float) -> list[Rung]:
    """Pretend so much memory, and that a window's stages took so much, MiB; note the windows."""
    rungs: list[Rung] = []

    def run(prospect: Any, model: Any, device: Any, rung: Rung) -> Trial:
        rungs.append(rung)
        return Trial({stage: int(mib * MIB) for stage, mib in took.items()})

    monkeypatch.setattr(memory, "free_bytes", lambda device: int(free_mib * MIB))
    if took:
        monkeypatch.setattr(memory_probe, "run_window", run)
    return rungs


@pytest.mark.parametrize("kind", KINDS)
def test_where_there_is_plenty_a_small_window_and_two_words_are_measured(
    kind: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []
    whole = Concatenation.reconstruct

    def note(self: Concatenation, frames: Any, shrink: float = 1.0) -> Any:
        seen.append((len(frames), shrink))
        return whole(self, frames, shrink)

    monkeypatch.setattr(Concatenation, "reconstruct", note)
    loaded = load_backend(kind, folder(kind), "cpu", fit=Fit(32))
    assert seen == [(8, 1.0)]
    assert loaded.memory is not None
    assert loaded.memory.step == MemoryStep(1.0, 1.0)
    assert loaded.memory.words.startswith("32 frames: needs ")
    assert loaded.memory.words.endswith("MiB with 8 frames")
    assert isinstance(loaded.backend, Concatenation)
    assert loaded.backend.metric_depth is not None
    remembered = (loaded.backend._frames, loaded.backend.metric_depth._known)
    assert [len(known) for known in remembered] == [0, 0]
    if kind == "vggt_llava3d":
        assert loaded.backend.talker._last is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_is_measured_by_itself(kind: str, folder: Callable[[str], Path]) -> None:
    cpu = torch.device("cpu")
    prospect = concatenation_prospect(folder(kind), cpu, torch.float32)
    rung = Rung("probe", "none", 8, 1.0)
    trial = memory_probe.run_window(prospect, prospect.load("none"), cpu, rung)
    assert list(trial.took) == ["metric_depth", "geometry", "words"]
    assert set(trial.took) == set(prospect.account.stage_bytes(rung))
    assert all(took > 0 for took in trial.took.values())
    assert trial.refused == ""


@pytest.mark.parametrize("kind", KINDS)
def test_what_geometry_took_decides_how_many_frames_there_is_room_for(
    kind: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reckoned 4.2, 8.3 and 16.3 MiB for 8, 16 and 32 frames: 60, 120 and 236 as measured.
    rungs = pretend(monkeypatch, 160, metric_depth=1, geometry=60, words=1)
    chosen = load_backend(kind, folder(kind), "cpu", fit=Fit(32)).memory
    assert chosen is not None
    assert chosen.rung.name == "half_frames"
    assert chosen.step == MemoryStep(0.5, 1.0, 16)
    assert "of 160 MiB free beside the weights, measured 60 MiB with 8 frames" in chosen.words
    assert [rung.frames for rung in rungs] == [8, 16]  # tight, so tried


def test_a_metric_depth_that_is_large_does_not_ask_for_fewer_frames(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees one frame at a time: 70 MiB with 8 frames are about 71 with 32."""
    pretend(monkeypatch, 90, metric_depth=70, geometry=5, words=5)
    chosen = load_backend("vggt_vlm", folder("vggt_vlm"), "cpu", fit=Fit(32)).memory
    assert chosen is not None
    assert chosen.rung.name == "full"


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_fit_is_refused_with_both_numbers_before_it_is_loaded(
    kind: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, 3)
    words = r"got none: 8 frames, images at 50%: needs \d+ MiB of 3 MiB free; take"
    with pytest.raises(LoadingError, match=words):
        load_backend(kind, folder(kind), "cpu", fit=Fit(32))


def test_a_step_fixed_by_hand_is_taken_unmeasured(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Concatenation, "reconstruct", lambda *_: pytest.fail("measured"))
    chosen = load_backend("vggt_vlm", folder("vggt_vlm"), "cpu", fit=Fit(32, "images_75")).memory
    assert chosen is not None
    assert chosen.is_fixed
    assert chosen.words == "8 frames, images at 75%, fixed by memory_step"


def test_words_that_are_refused_are_said_and_what_was_measured_still_counts(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("question: expected at most 64 tokens, got 900")

    monkeypatch.setattr(VlmTalker, "answer", refuse)
    chosen = load_backend("vggt_vlm", folder("vggt_vlm"), "cpu", fit=Fit(32)).memory
    assert chosen is not None
    assert "measured " in chosen.words
    assert chosen.words.endswith(
        "with 8 frames, and the rest not: question: expected at most 64 tokens, got 900"
    )


def test_int8_and_int4_are_refused_in_a_sentence_where_they_cannot_be_had(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LoadingError, match=r"^memory_step: expected torchao.*pip install torchao"):
        load_backend("vggt_vlm", folder("vggt_vlm"), "cpu", fit=Fit(32, "int8"))
    monkeypatch.undo()
    with pytest.raises(
        LoadingError, match=r"^memory_step: expected a GPU for int4, got cpu; take"
    ):
        load_backend("vggt_vlm", folder("vggt_vlm"), "cpu", fit=Fit(32, "int4"))


@pytest.mark.parametrize("kind", KINDS)
def test_int8_quantises_the_language_model_and_nothing_else(
    kind: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchao")
    monkeypatch.undo()
    loaded = load_backend(kind, folder(kind), "cpu", fit=Fit(32, "int8"))
    assert loaded.memory is not None
    assert loaded.memory.words == "language model in int8, 32 frames, fixed by memory_step"
    backend: Any = loaded.backend
    layers = [m for m in backend.talker.model.modules() if isinstance(m, nn.Linear)]
    small = [m for m in layers if hasattr(m.weight, "qdata")]
    inside = [
        m
        for n, m in backend.talker.decoder.named_modules()
        if isinstance(m, nn.Linear) and not n.endswith("lm_head")
    ]
    assert {id(m) for m in small} == {id(m) for m in inside}
    assert small[0].weight.qdata.dtype == torch.int8
    assert not any(hasattr(p, "qdata") for p in backend.geometry.parameters())
    plain: Any = load_backend(kind, folder(kind), "cpu").backend
    embeds = torch.randn(1, 12, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (
            one.talker.decoder.base_model(inputs_embeds=embeds).last_hidden_state
            for one in (plain, backend)
        )
    assert 0 < (after - before).norm() / before.norm() < 0.02
    assert backend.answer(backend.reconstruct(film(5)).scene, "what?").confidence > 0


def film(count: int) -> Any:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, 60, 80, 3), dtype=np.uint8)
    return Frames(images, tuple(range(1, count + 1)), "camera_optical_frame")


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_answered_from_windows_of_the_chosen_size(
    kind: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, 160, metric_depth=1, geometry=60, words=1)
    loaded = load_backend(kind, folder(kind), "cpu", fit=Fit(32))
    monkeypatch.undo()
    assert loaded.memory is not None
    windows = WindowSettings(size=32, stride=32, min_frames=32, min_shared=4, min_motion=0.0)
    settings = SessionSettings(window=windows, largest=loaded.memory.step)
    session = Session(loaded.backend, settings)
    frames = film(32)
    ready = [
        session.add_frame(stamp * 100_000_000, image).is_ready
        for stamp, image in zip(frames.stamps_ns, frames.images, strict=True)
    ]
    assert ready.count(True) == 1
    result = session.process_next()
    assert len(result.reconstruction.stamps_ns) == 16
    answer = session.ask("what is red?")
    assert 0 < answer.confidence <= 1
