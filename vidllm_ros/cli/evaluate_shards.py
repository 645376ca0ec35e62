# SPDX-License-Identifier: Apache-2.0
"""Which process of a run of `vidllm evaluate` this is, and how several wait for each other.

Next: evaluate.py, which shares the scenes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shard:
    """Which process of how many this is, and its device."""

    index: int
    count: int
    device: str

    @property
    def is_main(self) -> bool:
        return self.index == 0


def find_shard() -> Shard:
    """Say which process this is: of `accelerate launch`, or the only one."""
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    # Shares end at different times, and the first waits for the last: not for half an hour only.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=30))
    device = "cpu" if state.device.type == "cpu" else str(state.device)  # of several "cpu:0"
    return Shard(state.process_index, state.num_processes, device)


def wait_for_all() -> None:
    """Wait until every process is here."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()


@contextmanager
def in_turn(model: Path | None, shard: Shard) -> Iterator[None]:
    """Let the first process open public models in a row before the others do.

    It measures how much memory there is, and its run folder tells the others. None of them
    predicts before all have found room. Other models are opened side by side.
    """
    from vidllm_ros.network.concat_manifest import has_manifest

    if shard.count == 1 or model is None or not has_manifest(model):
        yield
        return
    if not shard.is_main:
        wait_for_all()
    yield
    if shard.is_main:
        wait_for_all()
    wait_for_all()
