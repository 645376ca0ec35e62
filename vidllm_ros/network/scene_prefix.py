# SPDX-License-Identifier: Apache-2.0
"""One scene as the language model remembers it, and who of the words after it sees whom.

Words are read behind the prefix's keys and values and cut off again, so that every question finds
the same prefix, also after a pass that failed between two layers. Next: language.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class ScenePrefix:
    """Keys and values of <bos>, the preface and the scene tokens.

    Attributes:
        cache: of every layer; words are appended and cut off again.
        length: tokens of the prefix.
    """

    cache: DynamicCache
    length: int

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let words be appended, and cut them off afterwards, whatever happens."""
        try:
            yield
        finally:
            self.cut(0)

    def cut(self, words: int) -> None:
        """Keep so many words after the prefix; layers may hold different numbers of them."""
        layers: list[Any] = list(self.cache.layers)
        for layer in layers:
            extra = int(layer.get_seq_length()) - self.length - words
            if extra > 0:
                layer.crop(-extra)


def packed_mask(prefix_mask: Tensor, segment_ids: Tensor) -> Tensor:
    """Say who attends to whom, (B, 1, P + L, P + L): causal, real prefix, own segment.

    Args:
        prefix_mask: (B, P).
        segment_ids: (B, L), -1 where padded; padding sees the prefix and itself, so that no row of
            the softmax is empty.
    """
    batch, width = prefix_mask.shape
    # The prefix is nobody's segment: -2.
    owner = torch.cat([segment_ids.new_full((batch, width), -2), segment_ids], dim=1)
    real = torch.cat([prefix_mask, torch.zeros_like(segment_ids, dtype=torch.bool)], dim=1)
    own = (owner[:, :, None] == owner[:, None, :]) & (owner >= -1)[:, None, :]
    total = owner.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool, device=owner.device).tril()
    return ((real[:, None, :] | own) & causal)[:, None]
