# SPDX-License-Identifier: Apache-2.0
"""What a run writes down: log.jsonl and TensorBoard for losses, curve.jsonl for metrics.

log.jsonl has smoothed terms every few steps; curve.jsonl has what validation rooms gave, with the
number of scenes seen, so that a metric can be drawn against samples. Next: trainer.py;
cli/curves.py draws both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.writer import SummaryWriter

LOG, CURVE, TENSORBOARD = "log.jsonl", "curve.jsonl", "tensorboard"


@dataclass(frozen=True)
class Validated:
    """What a look at validation rooms gave.

    Attributes:
        numbers: by name.
        picture: (H, W, 3), uint8 RGB, or None.
    """

    numbers: Mapping[str, float]
    picture: NDArray[np.uint8] | None = None


class RunLog:
    """Files and TensorBoard of a run's folder; other processes than the first write nothing.

    Args:
        folder: of the run.
        is_writing: whether this process writes.
    """

    def __init__(self, folder: Path, is_writing: bool = True) -> None:
        self.folder = folder
        self.is_writing = is_writing
        self.board: SummaryWriter | None = None

    def __enter__(self) -> RunLog:
        if self.is_writing:
            self.board = SummaryWriter(str(self.folder / TENSORBOARD))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.board is not None:
            self.board.close()

    def row(
        self, place: Mapping[str, Any], smooth: Mapping[str, float], terms: Mapping[str, float]
    ) -> None:
        """Write where the run is, its smoothed terms, and to TensorBoard the terms themselves."""
        if self.board is None:
            return
        rounded = {name: round(value, 5) for name, value in sorted(smooth.items())}
        self._append(LOG, {**place, **rounded})
        for name, value in terms.items():
            self.board.add_scalar(name, value, place["step"])

    def validated(self, place: Mapping[str, Any], result: Validated) -> None:
        """Write what validation gave."""
        if self.board is None:
            return
        rounded = {name: round(value, 5) for name, value in sorted(result.numbers.items())}
        self._append(CURVE, {**place, **rounded})
        for name, value in result.numbers.items():
            self.board.add_scalar(f"validation/{name}", value, place["step"])
        if result.picture is not None:
            self.board.add_image(
                "validation/rooms", result.picture, place["step"], dataformats="HWC"
            )

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(row) + "\n")
