# SPDX-License-Identifier: Apache-2.0
"""The order of batches of a run: by number, from the first that has not been seen.

Processes that prepare batches leave signals to their parent, which saves before it ends them.
Next: trainer.py.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class From(Sampler[int]):
    """Batch numbers from the first that has not been seen."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)


def leave_signals_to_parent(worker: int) -> None:
    """Ignore a signal sent to the whole group: the parent saves first and ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def stream_batches(
    batches: Dataset[Any], order: From, workers: int, is_pinned: bool
) -> Generator[Any, None, None]:
    """Yield the batches of an order, prepared ahead; close it, whatever happens.

    Args:
        batches: by number.
        order: which of them.
        workers: processes that prepare them; 0 prepares in this one.
        is_pinned: in page-locked memory, for a GPU.

    Raises:
        ValueError, OSError: as the data said it, without the traceback of the process it was in.
    """
    prepared: Any = iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=order,
            num_workers=workers,
            worker_init_fn=leave_signals_to_parent,
            prefetch_factor=4 if workers else None,
            pin_memory=is_pinned,
            generator=torch.Generator(),  # else every start would draw from the run's own
        )
    )
    try:
        yield from prepared
    except (ValueError, OSError) as error:
        if "Original Traceback" not in str(error):
            raise
        last = str(error).strip().rpartition("\n")[2]  # "ValueError: what was wrong"
        raise type(error)(last.partition(": ")[2]) from error
    finally:
        if workers:
            # They ignore what Python would end them with at exit, which would wait for ever; and
            # while an error is told its traceback keeps them from being collected.
            prepared._shutdown_workers()
