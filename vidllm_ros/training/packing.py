# SPDX-License-Identifier: Apache-2.0
"""Which sentences follow a scene, and what their <loc> and <box> tokens stand for.

The network lays segments out (network/text_packing.py); here a token budget is kept, and the
objects behind every phrase and caption are remembered in the order of their tokens.
Next: stages.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from vidllm_ros.data.scene_batch import Sentence
from vidllm_ros.network.text_packing import PackedText, Segment, encode, pack_segments
from vidllm_ros.network.word_rows import WordRows, word_rows


@dataclass(frozen=True)
class SpokenScenes:
    """The packed text of B scenes and its meaning.

    Attributes:
        text: as the network takes it.
        rows: in which its words are learnt; made on the CPU, where nobody waits for it.
        phrases: per scene, the object ids of every <loc>, in order.
        boxes: per scene, the object id of every <box>, in order.
        evidence: per scene, per segment, the ids of the objects it rests on.
    """

    text: PackedText
    rows: WordRows
    phrases: tuple[tuple[tuple[int, ...], ...], ...]
    boxes: tuple[tuple[int, ...], ...]
    evidence: tuple[tuple[tuple[int, ...], ...], ...]

    def to(self, device: torch.device) -> SpokenScenes:
        text, rows = self.text.to(device), self.rows.to(device)
        return SpokenScenes(text, rows, self.phrases, self.boxes, self.evidence)


def choose_sentences(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sentence],
    known: frozenset[int],
    max_tokens: int,
) -> list[Sentence]:
    """Keep sentences in order while they fit; shorter ones behind one that does not still may.

    A caption of an object there is no box for is left out.
    """
    chosen, used = [], 0
    for sentence in sentences:
        if sentence.kind == "caption" and not set(sentence.object_ids) <= known:
            continue
        length = len(encode(tokenizer, sentence.prompt)) + len(encode(tokenizer, sentence.answer))
        if used + length <= max_tokens:
            chosen.append(sentence)
            used += length
    return chosen


def pack_sentences(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sequence[Sentence]],
    known: Sequence[Sequence[int]],
    max_tokens: int,
) -> SpokenScenes:
    """Pack the sentences of every scene of a batch.

    Args:
        tokenizer: of the language model.
        sentences: one list a scene.
        known: ids of the objects each scene has boxes for.
        max_tokens: longest row.
    """
    chosen = [
        choose_sentences(tokenizer, said, frozenset(ids), max_tokens)
        for said, ids in zip(sentences, known, strict=True)
    ]
    segments = [
        [Segment(s.prompt, None if s.kind == "phrase" else s.answer) for s in said]
        for said in chosen
    ]
    text = pack_segments(tokenizer, segments)
    return SpokenScenes(
        text,
        word_rows(text.segment_ids),
        tuple(tuple(s.object_ids for s in said if s.kind == "phrase") for said in chosen),
        tuple(tuple(s.object_ids[0] for s in said if s.kind == "caption") for said in chosen),
        tuple(tuple(s.object_ids for s in said) for said in chosen),
    )
