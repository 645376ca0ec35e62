# SPDX-License-Identifier: Apache-2.0
"""A window that does not fit is computed with fewer frames; broken numbers stop here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vidllm_ros.ros import memory_step
from vidllm_ros.ros.memory_step import SteppingBackend, is_out_of_memory, spread_frames
from vidllm_ros.streaming.backend import StandInBackend
from vidllm_ros.structures import Answer, Frames, Reconstruction, SceneContext


def frames(count: int) -> Frames:
    return Frames(np.zeros((count, 28, 28, 3), np.uint8), tuple(range(count)))


class Small(StandInBackend):
    """Has memory for so many frames."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []
        self.answers = 0

    def reconstruct(self, frames: Frames) -> Reconstruction:
        self.asked.append(len(frames))
        if len(frames) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return super().reconstruct(frames)

    def answer(self, scene: SceneContext, question: str) -> Answer:
        self.answers += 1
        if self.answers == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().answer(scene, question)


def stepping(backend: StandInBackend) -> tuple[SteppingBackend, list[str]]:
    said: list[str] = []
    return SteppingBackend(backend, lambda: said.append("freed"), said.append), said


def test_halves_until_it_fits_and_keeps_to_it() -> None:
    small = Small(room=5)
    backend, said = stepping(small)
    result = backend.reconstruct(frames(16))
    assert small.asked == [16, 8, 4]
    assert result.stamps_ns[-1] == 15  # the newest frame is always there
    assert len(result.stamps_ns) == 4
    assert said[0] == "freed"
    assert "out of memory with 16 frames (CUDA out of memory" in said[1]
    assert "going on with 8" in said[1]
    backend.reconstruct(frames(16))
    assert small.asked == [16, 8, 4, 4]


def test_tries_more_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_step, "TRY_MORE_AFTER", 3)
    small = Small(room=4)
    backend, said = stepping(small)
    backend.reconstruct(frames(8))
    small.room = 99
    for _ in range(4):
        backend.reconstruct(frames(8))
    assert small.asked == [8, 4, 4, 4, 8, 8]
    assert backend.frame_limit is None
    assert "trying 8 frames" in said[-1]


def test_gives_up_with_the_fewest_and_passes_other_errors_on() -> None:
    backend, _ = stepping(Small(room=1))
    with pytest.raises(torch.OutOfMemoryError):
        backend.reconstruct(frames(4))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(KeyError("out of memory"))
    assert is_out_of_memory(MemoryError())


def test_a_question_is_tried_again_once_memory_is_freed() -> None:
    backend, said = stepping(Small(room=9))
    scene = backend.reconstruct(frames(4)).scene
    assert "to answer: why?" in backend.answer(scene, "why?").text
    assert said == ["freed"]


@pytest.mark.parametrize(("count", "wanted"), [(32, 16), (32, 2), (3, 2), (8, 4), (7, 3)])
def test_spread_keeps_ends_and_order(count: int, wanted: int) -> None:
    stamps = spread_frames(frames(count), wanted).stamps_ns
    assert len(set(stamps)) == wanted
    assert list(stamps) == sorted(stamps)
    assert (stamps[0], stamps[-1]) == (0, count - 1)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("T_world_camera", "T_world_camera: expected finite numbers .* in 1 of 4 frames"),
        ("K", "K: expected finite"),
        ("scale", "scale: expected a positive number"),
        ("depth", "depth: expected finite values"),
    ],
)
def test_broken_numbers_are_refused(field: str, words: str) -> None:
    class Broken(StandInBackend):
        def reconstruct(self, frames: Frames) -> Reconstruction:
            good = super().reconstruct(frames)
            value = getattr(good, field)
            if field == "scale":
                return dataclasses.replace(good, scale=float("nan"))
            broken = value.copy()
            broken[1].flat[0] = np.nan
            return dataclasses.replace(good, **{field: broken})

    backend, _ = stepping(Broken())
    with pytest.raises(ValueError, match=words):
        backend.reconstruct(frames(4))
