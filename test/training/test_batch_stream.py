# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the data is said in its own words, and no process stays behind."""

import multiprocessing
from contextlib import closing

import pytest
from torch.utils.data import Dataset

from vidllm_ros.training.batch_stream import From, stream_batches


class Numbers(Dataset[int]):
    """Batch k is k; the third cannot be read."""

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise ValueError("path: expected a sample, got room3.npz (torn); render it again")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_a_torn_room_is_named_and_nobody_waits_for_its_reader(workers):
    with closing(stream_batches(Numbers(), From(1, 9), workers, False)) as stream:
        with pytest.raises(ValueError, match=r"^path: expected a sample, got room3.npz") as told:
            list(stream)
        assert told.value.__traceback__ is not None  # it keeps the stream from being collected
        assert multiprocessing.active_children() == []
    if workers:
        assert "Original Traceback" in str(told.value.__cause__)


def fail_at_the_first(workers: int) -> None:
    with closing(stream_batches(Numbers(), From(0, 3), workers, False)) as stream:
        raise RuntimeError(f"the loss is not a number at {next(stream)}")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_fails_leaves_no_process_behind(workers):
    with pytest.raises(RuntimeError, match="not a number at 0") as told:
        fail_at_the_first(workers)
    assert multiprocessing.active_children() == []
    assert told.value.__traceback__ is not None


def test_batches_come_in_order_from_where_the_run_stopped():
    with closing(stream_batches(Numbers(), From(4, 8), 1, False)) as stream:
        assert list(stream) == [4, 5, 6, 7]
