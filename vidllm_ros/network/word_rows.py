# SPDX-License-Identifier: Apache-2.0
"""Read segments behind their scene in short rows: fewer words are compared that never meet.

A segment sees the scene and itself. Packed side by side, hundreds of words are compared with each
other for a mask to throw away: most of the attention's cost. In rows of a few segments they are
not. Source: ours. Next: language.py, whose `packed_forward` is the plain twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache

from vidllm_ros.network.language import LanguageOutput, SceneLanguageModel
from vidllm_ros.network.scene_prefix import packed_mask
from vidllm_ros.network.text_packing import PackedText

ROW_TOKENS = 100  # of 48 to 400 the quickest, float32 and bfloat16 together (`vidllm bench words`)


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

    def to(self, device: torch.device | str) -> WordRows:
        return WordRows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

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
        segment_ids: of B packed texts, (B, L), ascending, -1 where padded; on the CPU.
        row_tokens: tokens of a row.
    """
    lengths = [torch.bincount(ids[ids >= 0]).tolist() for ids in segment_ids]
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
    places = torch.zeros(len(starts), count, width, dtype=torch.long)
    real = torch.zeros(len(starts), count, width, dtype=torch.bool)
    found = torch.zeros(segment_ids.shape, dtype=torch.long)
    for b, begins in enumerate(starts):
        for row, (begin, end) in enumerate(pairwise(begins)):
            words = torch.arange(begin, end)
            places[b, row, : end - begin] = words
            real[b, row, : end - begin] = True
            found[b, begin:end] = row * width + words - begin
    return WordRows(places, real, found)


def can_read_in_rows(language: SceneLanguageModel) -> bool:
    """Say whether `read_in_rows` works: a layer runs twice, the second time on keys it kept.

    Layers that are computed again keep none, and a shard gathers a layer once a pass.
    """
    modules = list(language.model.modules())
    again = any(getattr(module, "gradient_checkpointing", False) for module in modules)
    is_sharded = any(isinstance(module, FSDPModule) for module in modules)
    return not is_sharded and not (again and language.training)


def read_in_rows(
    language: SceneLanguageModel,
    scene_embeds: Tensor,
    scene_mask: Tensor,
    text: PackedText,
    rows: WordRows,
    box_embeds: Tensor | None = None,
) -> LanguageOutput:
    """Equal `packed_forward` in two passes: the scenes, then the words behind them in rows.

    Words of one row are compared, the others of the scene are not. A layer is called twice, with
    (B, P, D) and with (B C, R, D). The padding's hidden states are those of some word.

    Args:
        language: reads.
        scene_embeds: projected scene tokens, (B, M, D).
        scene_mask: which are real, (B, M); real ones first.
        text: the segments, (B, L).
        rows: of the text, C a scene of R words; `word_rows`.
        box_embeds: what stands at the <box> tokens, in their order, (B, R, D).
    """
    prefix, prefix_mask = language._masked_prefix(scene_embeds, scene_mask)
    cache = DynamicCache(config=language.model.config)
    language.model.base_model(inputs_embeds=prefix, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(rows))
    seen = prefix_mask.repeat_interleave(len(rows), 0)
    owners = rows.parted(text.segment_ids).masked_fill(~rows.real.flatten(0, 1), -1)
    words = rows.parted(language._embed(text.ids, box_embeds).to(prefix.dtype))
    hidden = language.model.base_model(
        inputs_embeds=words,
        attention_mask=packed_mask(seen, owners)[:, :, prefix.shape[1] :],
        position_ids=seen.sum(1, keepdim=True) + rows.parted(text.offsets),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden = rows.joined(hidden)
    return LanguageOutput(language._logits(hidden), hidden)
