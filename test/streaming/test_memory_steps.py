# SPDX-License-Identifier: Apache-2.0
"""Short of memory: fewer frames, then smaller images, and back again when it has passed."""

import numpy as np
import pytest
import torch

from vidllm_ros.streaming.memory_steps import (
    STEPS,
    MemoryStep,
    MemorySteps,
    count_of,
    is_out_of_memory,
    thin_frames,
)
from vidllm_ros.structures import Frames


def film(count):
    images = np.zeros((count, 4, 4, 3), np.uint8)
    return Frames(images, tuple(range(count)))


def test_steps_cost_frames_first_and_size_last():
    sizes = [(count_of(32, step), step.shrink) for step in STEPS]
    assert sizes == [(32, 1.0), (24, 1.0), (16, 1.0), (8, 1.0), (8, 0.75), (8, 0.5)]
    assert [count_of(3, step) for step in STEPS] == [3, 2, 2, 2, 2, 2]
    assert count_of(1, STEPS[-1]) == 1


def test_a_window_shorter_than_there_is_room_for_is_computed_whole():
    eight_fit = MemoryStep(0.25, 1.0, room=8)
    steps = MemorySteps(eight_fit)
    assert steps.step == eight_fit
    counts = [[count_of(frames, steps.step) for frames in (32, 20, 8, 5)]]
    while steps.down():
        assert steps.step.shrink < 1
        counts.append([count_of(frames, steps.step) for frames in (32, 20, 8, 5)])
    assert counts == [[8, 8, 8, 5]] * 3
    assert len(thin_frames(film(8), eight_fit)) == 8
    fewer = MemorySteps(MemoryStep(0.5, 1.0, room=16))
    fewer.down()
    assert count_of(8, fewer.step) == 2  # memory ended with all 8, so it is a share again


def test_frames_are_thinned_evenly_with_first_and_last():
    assert len(thin_frames(film(32), STEPS[0])) == 32
    chosen = thin_frames(film(32), STEPS[3]).stamps_ns
    assert (len(chosen), chosen[0], chosen[-1]) == (8, 0, 31)
    assert set(np.diff(chosen)) <= {1, 4, 5}


@pytest.mark.parametrize("step", STEPS[1:])
@pytest.mark.parametrize("stride", [1, 5, 8, 24])
def test_thinned_windows_can_still_be_joined(step, stride):
    frames, known = film(400), ()
    for begin in range(0, 360, stride):
        thinned = thin_frames(frames.select(range(begin, begin + 32)), step, known)
        assert thinned.stamps_ns[-1] == begin + 31
        assert len(thinned) == count_of(32, step)
        assert begin == 0 or set(thinned.stamps_ns) & set(known)
        known = thinned.stamps_ns


def test_the_step_above_is_tried_again_and_each_failure_doubles_the_wait():
    steps = MemorySteps()
    assert steps.words(32) == ""
    for _ in range(4):
        assert steps.down()
    assert (
        steps.words(32) == "short of memory: 8 of 32 frames, images at 75% of the network's size"
    )
    waits = []
    for _ in range(4):
        index, waited = steps.index, 0
        while steps.index == index:
            steps.worked()
            waited += 1
        waits.append(waited)
        assert steps.down()  # it was still too much
    assert waits == [8, 16, 32, 64]
    while steps.index == 4:
        steps.worked()
    assert steps.index == 3
    for _ in range(24):
        steps.worked()  # now it fits: the next tries come soon
    assert steps.index == 0


def test_last_step_is_the_last():
    steps = MemorySteps()
    assert [steps.down() for _ in STEPS] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 TB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_failures(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_torch_itself_is_understood_when_it_cannot_allocate():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
