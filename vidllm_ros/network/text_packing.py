# SPDX-License-Identifier: Apache-2.0
"""Words into numbers: the tokenizer this project trains, and many texts laid out in one row.

A byte-level BPE can write any text, so no question is out of vocabulary. A packed row holds the
segments of one scene behind each other. Next: language.py, which runs a packed row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vidllm_ros import prompts

IGNORE = -100
_OUR_TOKENS = re.compile(f"({re.escape(prompts.LOC)}|{re.escape(prompts.BOX)})")


@dataclass(frozen=True)
class Segment:
    """One text after a scene.

    Attributes:
        prompt: from prompts.py; may hold <box> or end in <loc>.
        target: words to learn after it, with their leading space (`prompts.answer_text`); <eos> is
            added. None where only hidden states are wanted.
    """

    prompt: str
    target: str | None = None


@dataclass(frozen=True)
class PackedText:
    """Segments of B scenes, padded at the end.

    Attributes:
        ids: tokens, (B, L).
        segment_ids: which segment of its scene a token belongs to, (B, L); -1 where padded.
        offsets: place of a token inside its segment, (B, L).
        labels: the token to be predicted AT each token (already shifted), (B, L); -100 where none.
        loc_index: where each <loc> stands in L, in the order of segments, (B, R); -1 where padded.
        loc_segment: the segment each <loc> is in, (B, R); -1 where padded.
    """

    ids: Tensor
    segment_ids: Tensor
    offsets: Tensor
    labels: Tensor
    loc_index: Tensor
    loc_segment: Tensor

    def to(self, device: torch.device | str) -> PackedText:
        return PackedText(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def at_loc(self, hidden: Tensor) -> Tensor:
        """Pick the hidden states of <loc>, (B, L, D) -> (B, R, D); zero where padded."""
        index = self.loc_index.clamp_min(0)[..., None].expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, index) * (self.loc_index >= 0)[..., None]


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE whose first tokens are the special ones and every single byte.

    Raises:
        ValueError: the vocabulary cannot hold them.
    """
    smallest = 256 + len(prompts.SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size: expected at least {smallest}, got {vocab_size}")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(prompts.SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=prompts.PAD,
        bos_token=prompts.BOS,
        eos_token=prompts.EOS,
        additional_special_tokens=[prompts.LOC, prompts.BOX],
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that are not words; <pad>, <bos>, <eos> by the tokenizer's own names."""

    pad: int
    bos: int
    eos: int
    loc: int
    box: int


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """Look up the special tokens of a tokenizer, ours or a public model's.

    Raises:
        ValueError: it lacks one.
    """
    found = {
        "pad": tokenizer.pad_token_id,
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "loc": _index(tokenizer, prompts.LOC),
        "box": _index(tokenizer, prompts.BOX),
    }
    lacking = [name for name, index in found.items() if index is None]
    if lacking:
        raise ValueError(f"tokenizer: expected special tokens {lacking}, got none; add them first")
    return SpecialIds(**found)


def _index(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Look up one token; None where the tokenizer would answer with its unknown token."""
    index: Any = tokenizer.convert_tokens_to_ids(token)
    return None if index is None or index == tokenizer.unk_token_id else int(index)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text, nothing added before or after.

    Of the special tokens only <loc> and <box> are read as such, whatever a user writes.
    """
    ids: list[int] = []
    for piece in _OUR_TOKENS.split(text):
        if piece in (prompts.LOC, prompts.BOX):
            index = _index(tokenizer, piece)
            if index is None:
                raise ValueError(f"tokenizer: expected the token {piece}, got none; add it first")
            ids.append(index)
        elif piece:
            words = tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
            ids += words["input_ids"]
    return ids


def pack_segments(
    tokenizer: PreTrainedTokenizerBase, scenes: Sequence[Sequence[Segment]]
) -> PackedText:
    """Lay out the segments of every scene in one row each."""
    special = special_ids(tokenizer)
    rows = [
        [_encode_segment(tokenizer, segment, special.eos) for segment in scene] for scene in scenes
    ]
    length = max([1, *(sum(len(ids) for ids, _ in row) for row in rows)])
    batch = len(rows)
    ids = torch.full((batch, length), special.pad)
    segment_ids = torch.full((batch, length), -1)
    offsets = torch.zeros(batch, length, dtype=torch.long)
    labels = torch.full((batch, length), IGNORE)
    locs: list[list[tuple[int, int]]] = [[] for _ in rows]
    for b, row in enumerate(rows):
        start = 0
        for number, (segment, targets) in enumerate(row):
            here = slice(start, start + len(segment))
            ids[b, here] = torch.tensor(segment)
            labels[b, here] = torch.tensor(targets)
            segment_ids[b, here] = number
            offsets[b, here] = torch.arange(len(segment))
            locs[b] += [
                (start + i, number) for i, token in enumerate(segment) if token == special.loc
            ]
            start = here.stop
    width = max(len(found) for found in locs) if locs else 0
    padded = [found + [(-1, -1)] * (width - len(found)) for found in locs]
    table = torch.tensor(padded, dtype=torch.long).reshape(batch, width, 2)
    return PackedText(ids, segment_ids, offsets, labels, table[..., 0], table[..., 1])


def _encode_segment(
    tokenizer: PreTrainedTokenizerBase, segment: Segment, eos: int
) -> tuple[list[int], list[int]]:
    """Return the tokens a segment feeds and, at each, the token to be predicted."""
    prompt = encode(tokenizer, segment.prompt)
    if not prompt:
        raise ValueError("segment: expected a prompt of at least one token, got an empty one")
    if segment.target is None:
        return prompt, [IGNORE] * len(prompt)
    target = [*encode(tokenizer, segment.target), eos]
    # <eos> is predicted, never read, so the row does not hold it.
    return prompt + target[:-1], [IGNORE] * (len(prompt) - 1) + target
