# SPDX-License-Identifier: Apache-2.0
"""Many short segments after one scene: tokenise, concatenate, remember who is who.

A question costs its own tokens only, since the scene's tokens are shared by all segments of the row
(the block mask is the network's). Captions hold <box>, phrases end in <loc>; both places are
remembered. Next: stages.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vidllm_ros.data.loader import IGNORED, Sentence


@dataclass(frozen=True)
class PackedText:
    """Segments of B scenes in rows of L tokens.

    Attributes:
        ids: (B, L); padding at the end.
        segments: which segment a token belongs to, from 0; -1 is padding, (B, L).
        targets: the token itself where it is to be learnt, -100 elsewhere, (B, L).
        loc: position of each phrase's <loc>, (B, R); -1 is padding.
        phrases: per scene, per phrase, the ids of its objects.
        boxes: (scene, position, object id) of every <box>.
        families: per scene, the family of every segment.
    """

    ids: Tensor
    segments: Tensor
    targets: Tensor
    loc: Tensor
    phrases: tuple[tuple[tuple[int, ...], ...], ...]
    boxes: tuple[tuple[int, int, int], ...]
    families: tuple[tuple[str, ...], ...]

    def to(self, device: torch.device) -> PackedText:
        return PackedText(
            self.ids.to(device),
            self.segments.to(device),
            self.targets.to(device),
            self.loc.to(device),
            self.phrases,
            self.boxes,
            self.families,
        )


@dataclass
class Row:
    """One scene's pack while it grows."""

    ids: list[int]
    segments: list[int]
    targets: list[int]
    loc: list[int]
    phrases: list[tuple[int, ...]]
    boxes: list[tuple[int, int]]
    families: list[str]


def pack_row(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sentence],
    max_tokens: int,
    known: frozenset[int],
) -> Row:
    """Append segments until one no longer fits; shorter ones behind it may still.

    Args:
        tokenizer: has <eos>, <loc> and <box>.
        sentences: in the order they are to be packed.
        max_tokens: of the row.
        known: objects there are boxes for; a caption of any other is left out.
    """
    eos = int(tokenizer.eos_token_id)
    loc_id = int(tokenizer.convert_tokens_to_ids("<loc>"))
    box_id = int(tokenizer.convert_tokens_to_ids("<box>"))
    row = Row([], [], [], [], [], [], [])
    for sentence in sentences:
        if sentence.kind == "caption" and not set(sentence.object_ids) <= known:
            continue
        prompt = tokenizer.encode(sentence.prompt, add_special_tokens=False)
        answer: list[int] = []
        if sentence.kind != "phrase":
            answer = [*tokenizer.encode(sentence.answer, add_special_tokens=False), eos]
        length = len(prompt) + len(answer)
        if len(row.ids) + length > max_tokens:
            continue
        start, number = len(row.ids), len(row.families)
        row.ids += prompt + answer
        row.segments += [number] * length
        row.targets += [IGNORED] * len(prompt) + answer
        row.families.append(sentence.family)
        if sentence.kind == "phrase":
            row.loc.append(start + prompt.index(loc_id))
            row.phrases.append(sentence.object_ids)
        elif sentence.kind == "caption":
            row.boxes.append((start + prompt.index(box_id), sentence.object_ids[0]))
    return row


def pack_sentences(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sequence[Sentence]],
    known: Sequence[Sequence[int]],
    max_tokens: int,
) -> PackedText:
    """Pack the sentences of every scene of a batch.

    Args:
        tokenizer: of the language model.
        sentences: one list a scene.
        known: ids of the objects each scene has boxes for.
        max_tokens: longest row.
    """
    rows = [
        pack_row(tokenizer, said, max_tokens, frozenset(ids))
        for said, ids in zip(sentences, known, strict=True)
    ]
    length = max(1, *(len(row.ids) for row in rows))
    places = max(1, *(len(row.loc) for row in rows))
    batch = len(rows)
    ids = torch.full((batch, length), int(tokenizer.pad_token_id or 0))
    segments = torch.full((batch, length), -1)
    targets = torch.full((batch, length), IGNORED)
    loc = torch.full((batch, places), -1)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids, dtype=torch.long)
        segments[i, : len(row.ids)] = torch.tensor(row.segments, dtype=torch.long)
        targets[i, : len(row.ids)] = torch.tensor(row.targets, dtype=torch.long)
        loc[i, : len(row.loc)] = torch.tensor(row.loc, dtype=torch.long)
    return PackedText(
        ids=ids,
        segments=segments,
        targets=targets,
        loc=loc,
        phrases=tuple(tuple(row.phrases) for row in rows),
        boxes=tuple((i, at, name) for i, row in enumerate(rows) for at, name in row.boxes),
        families=tuple(tuple(row.families) for row in rows),
    )
