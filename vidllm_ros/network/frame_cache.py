# SPDX-License-Identifier: Apache-2.0
"""What the encoder said of each frame, kept while windows still hold that frame.

The encoder sees one frame at a time, so its output does not depend on the window; everything after
it does (the adapter's bridge tokens mix the frames). Windows of 32 by 8 share 24 frames: those are
encoded once. A hit needs the same stamp and the same pixels, so nothing can be mistaken, also
where another film has the same stamps. Next: vidllm.py, `reconstruct`, the only caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidllm_ros.network.encoder import EncoderOutput

DEFAULT_MAX_BYTES = 1 << 30
Encode = Callable[[NDArray[np.uint8]], EncoderOutput]
"""Images (S, H, W, 3) to the encoder's output of a batch of one, (1, S, N, C)."""


@dataclass(frozen=True)
class _Entry:
    image: NDArray[np.uint8]  # (H, W, 3), as the encoder saw it
    features: Tensor  # (U, N, C): the last layer, then the levels that differ from it
    grid: tuple[int, int]

    @property
    def byte_count(self) -> int:
        return self.image.nbytes + self.features.nbytes


@dataclass
class EncoderCounts:
    """How often the encoder had to work: frames it encoded, and frames it had not to."""

    encoded: int = 0
    reused: int = 0


class FrameCache:
    """Encoder outputs by stamp, bounded in bytes; the least recently used go first.

    Only frames of the newest window are kept: older ones never come back. Not thread-safe: the
    thread that owns the network calls it.

    Attributes:
        max_bytes: bound of images and features together; 0 keeps nothing.
        counts: what it saved, since it was made.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes: expected at least 0, got {max_bytes}")
        self.max_bytes = max_bytes
        self.counts = EncoderCounts()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._level_rows: list[int] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy without contents: a copied network computes its own."""
        return type(self), (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def byte_count(self) -> int:
        """Memory held now, on the network's device and beside it."""
        return sum(entry.byte_count for entry in self._entries.values())

    def clear(self) -> None:
        """Forget all frames; the counts stay."""
        self._entries.clear()

    def encode(
        self, images: NDArray[np.uint8], stamps_ns: Sequence[int], encode: Encode
    ) -> EncoderOutput:
        """Return the encoder's output of a window, (1, S, N, C), encoding only what is new.

        Equals `encode(images)` up to the rounding of smaller batches.

        Args:
            images: of the network's size, (S, H, W, 3).
            stamps_ns: their names.
            encode: runs the encoder.
        """
        known = [self._find(stamp, image) for stamp, image in zip(stamps_ns, images, strict=True)]
        new = [i for i, entry in enumerate(known) if entry is None]
        self.counts.encoded += len(new)
        self.counts.reused += len(known) - len(new)
        if len(new) == len(known):
            output = encode(images)
            self._remember(images, stamps_ns, output, new)
            self._drop_others(stamps_ns)
            return output
        rows = {i: entry.features for i, entry in enumerate(known) if entry is not None}
        if new:
            output = encode(images[new])
            rows |= dict(zip(new, _stacked(output).unbind(), strict=True))
            self._remember(images, stamps_ns, output, new)
        grid = next(entry.grid for entry in known if entry is not None)
        joined = torch.stack([rows[i] for i in range(len(known))])[None]  # (1, S, U, N, C)
        self._drop_others(stamps_ns)
        return EncoderOutput(
            joined[:, :, 0], [joined[:, :, row] for row in self._level_rows], grid
        )

    def _find(self, stamp_ns: int, image: NDArray[np.uint8]) -> _Entry | None:
        entry = self._entries.get(stamp_ns)
        if entry is None or not np.array_equal(entry.image, image):
            return None
        self._entries.move_to_end(stamp_ns)
        return entry

    def _remember(
        self,
        images: NDArray[np.uint8],
        stamps_ns: Sequence[int],
        output: EncoderOutput,
        places: Sequence[int],
    ) -> None:
        if self.max_bytes == 0:
            return
        self._level_rows = _rows_of_levels(output)
        features = _stacked(output)
        for row, i in enumerate(places):
            # Clones: a view would keep the whole window's batch alive.
            self._entries[stamps_ns[i]] = _Entry(
                images[i].copy(), features[row].clone(), output.grid
            )
            self._entries.move_to_end(stamps_ns[i])

    def _drop_others(self, stamps_ns: Sequence[int]) -> None:
        newest = set(stamps_ns)
        for stamp in [stamp for stamp in self._entries if stamp not in newest]:
            del self._entries[stamp]
        held = self.byte_count
        while held > self.max_bytes:
            held -= self._entries.popitem(last=False)[1].byte_count


def _rows_of_levels(output: EncoderOutput) -> list[int]:
    """Say which row of `_stacked` each level is; the last layer is often a level too."""
    rows, fresh = [], 1
    for level in output.levels:
        if level is output.patch_tokens:
            rows.append(0)
        else:
            rows.append(fresh)
            fresh += 1
    return rows


def _stacked(output: EncoderOutput) -> Tensor:
    """Put a batch of one's distinct layers together, (S, U, N, C), the last layer first."""
    others = [level for level in output.levels if level is not output.patch_tokens]
    return torch.stack([output.patch_tokens[0], *(level[0] for level in others)], dim=1)
