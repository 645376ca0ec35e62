# SPDX-License-Identifier: Apache-2.0
"""Lay packed segments out in short rows, so that few words are compared that never meet.

A segment sees the scene and itself. Packed side by side, hundreds of words are compared with each
other for a mask to throw away: most of the attention's cost. In rows of a few segments they are
not. Source: ours. Next: language.py, whose `packed_forward` is the plain twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

ROW_TOKENS = 160


@dataclass(frozen=True)
class WordRows:
    """Which words of B packed texts stand in which of their C rows.

    Attributes:
        places: of each row's words in the packed text, (B, C, R); 0 where padded.
        real: where they are words, (B, C, R).
        found: of each packed word among its rows' C R places, (B, L); 0 where padded.
    """

    places: Tensor
    real: Tensor
    found: Tensor

    def __len__(self) -> int:
        """Rows of each text (C)."""
        return self.places.shape[1]

    def parted(self, packed: Tensor) -> Tensor:
        """Put what packed words have, (B, L, ...), into rows, (B C, R, ...)."""
        batch = torch.arange(len(packed), device=packed.device)[:, None, None]
        return packed[batch, self.places].flatten(0, 1)

    def joined(self, rows: Tensor) -> Tensor:
        """Put what rows have, (B C, R, ...), back in the order of the packed text, (B, L, ...)."""
        batch = torch.arange(len(self.found), device=rows.device)[:, None]
        return rows.unflatten(0, (len(self.found), -1)).flatten(1, 2)[batch, self.found]


def word_rows(segment_ids: Tensor, row_tokens: int = ROW_TOKENS) -> WordRows:
    """Fill rows with whole segments in their order; a longer one makes all rows as long.

    Args:
        segment_ids: of B packed texts, (B, L), ascending, -1 where padded.
        row_tokens: tokens of a row.
    """
    texts = segment_ids.tolist()
    lengths = [torch.bincount(ids[ids >= 0]).tolist() for ids in segment_ids.cpu()]
    width = max(row_tokens, *(length for text in lengths for length in text), 1)
    starts: list[list[int]] = []  # of every row, in its text
    for text in lengths:
        begins, used, place = [0], 0, 0
        for length in text:
            if used + length > width:
                begins.append(place)
                used = 0
            used, place = used + length, place + length
        starts.append([*begins, place])
    count = max(len(begins) - 1 for begins in starts)
    places = torch.zeros(len(texts), count, width, dtype=torch.long)
    real = torch.zeros(len(texts), count, width, dtype=torch.bool)
    found = torch.zeros(segment_ids.shape, dtype=torch.long)
    for b, begins in enumerate(starts):
        for row, (begin, end) in enumerate(pairwise(begins)):
            words = torch.arange(begin, end)
            places[b, row, : end - begin] = words
            real[b, row, : end - begin] = True
            found[b, begin:end] = row * width + words - begin
    device = segment_ids.device
    return WordRows(places.to(device), real.to(device), found.to(device))
