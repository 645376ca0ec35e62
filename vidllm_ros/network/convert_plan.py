# SPDX-License-Identifier: Apache-2.0
"""What of which public checkpoint goes where in one network, decided before anything is read.

A plan names for every tensor of the network the stored tensor it comes from, or none, and for
every stored tensor where it went, or that it was left over. A part is filled whole or not at all.
Next: convert_write.py, which carries a plan out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    PreTrainedTokenizerBase,
)

from vidllm_ros.network import convert_language as words
from vidllm_ros.network import convert_sizes as sizes
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import (
    VGGT_ENCODER,
    KeyReport,
    NamedShape,
    Shape,
    UsedKey,
    convert_dinov2,
    convert_vggt,
)
from vidllm_ros.network.convert_sources import Source, blaming, first_of, speaks
from vidllm_ros.network.convert_teachers import match_teachers
from vidllm_ros.network.convert_words import choose_words, match_language, word_tables
from vidllm_ros.network.vidllm import VidLLM

WORDS_ROOM = 512
"""Tokens of the context that are kept free of scene tokens."""


@dataclass(frozen=True)
class Choices:
    """What the user decides.

    Attributes:
        encoder: "auto" (VGGT's, which its aggregator knows, else DINOv2's), "vggt" or "dinov2".
        size: "auto", "paper" or "nano": for what no checkpoint decides.
        changes: fields of `VidLLMConfig` to set otherwise.
        tokenizer: folder; None takes the language model's.
    """

    encoder: str = "auto"
    size: str = "auto"
    changes: Mapping[str, Any] | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Piece:
    """Where a tensor comes from: the `part`-th of `parts` equal pieces of a stored one."""

    option: str
    name: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Plan:
    """Everything `write_checkpoint` needs.

    Attributes:
        config, tokenizer: of the network.
        places: every tensor to write.
        pieces: where it comes from; a place without one is untrained.
        tower: of the semantic teacher, where there is one.
        teachers: likewise `places` of the teachers, by folder, and where all of them come from.
        teacher_pieces: by folder and name.
        reports: by source.
        tables: places with a row a word.
        new_words: rows of words the public model does not know.
        notes: sentences for the card.
    """

    config: VidLLMConfig
    tokenizer: PreTrainedTokenizerBase
    places: dict[str, Shape]
    pieces: dict[str, Piece]
    tower: CLIPVisionConfig | None
    teachers: dict[str, dict[str, Shape]]
    teacher_pieces: dict[str, dict[str, Piece]]
    reports: dict[str, KeyReport]
    tables: frozenset[str]
    new_words: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def missing(self) -> tuple[NamedShape, ...]:
        """Tensors of the network that no source has."""
        return tuple(
            NamedShape(n, shape) for n, shape in self.places.items() if n not in self.pieces
        )


def build_plan(sources: Mapping[str, Source], choices: Choices) -> Plan:
    """Decide sizes and where everything goes.

    Raises:
        ValueError: sources do not fit each other, one is incomplete, or there is none.
    """
    if not sources:
        raise ValueError("sources: expected at least one checkpoint to convert, got none")
    encoder = _choose_encoder(sources, choices.encoder)
    speaker = first_of(sources, ("language_model", "llava_3d", "llava"), speaks)
    spoken = choose_words(sources, speaker, choices.tokenizer)
    language, notes = spoken.fields, [spoken.note]
    config = _config(sources, encoder, choices, language, has_words=speaker is not None)
    with torch.device("meta"):
        model = VidLLM(config)
    tied = set(model.all_tied_weights_keys)
    places = {n: tuple(t.shape) for n, t in model.state_dict().items() if n not in tied}
    given: dict[str, list[KeyReport]] = {option: [] for option in sources}
    if "vggt" in sources:
        keep = encoder == "vggt"
        meta = sources["vggt"].files.meta()
        meta = {n: t for n, t in meta.items() if keep or not n.startswith(VGGT_ENCODER)}
        given["vggt"].append(blaming("vggt", convert_vggt, meta, config))
    if encoder == "dinov2":
        meta = sources["dinov2"].files.meta()
        given["dinov2"].append(blaming("dinov2", convert_dinov2, meta, config))
    for option in ("language_model", "llava_3d", "llava"):
        if option in sources:
            given[option].append(match_language(sources, option, speaker, places, language))
    pieces = _pieces(given)
    _check_whole(places, pieces)
    tower, teachers, teacher_reports = match_teachers(sources)
    for option, report in teacher_reports.values():
        given[option].append(report)
    if encoder == "vggt" and "dinov2" in sources:
        notes.append(
            "dinov2 was given and not used: VGGT's own encoder is what its aggregator knows "
            "(`--encoder dinov2` takes DINOv2's, which then needs stage 1)"
        )
    return Plan(
        config,
        spoken.tokenizer,
        places,
        pieces,
        tower,
        teachers,
        {folder: _pieces({o: [report]}) for folder, (o, report) in teacher_reports.items()},
        {option: _join(sources[option], reports) for option, reports in given.items()},
        frozenset(words.OUR_WORDS + name for name in word_tables(language)[1]),
        spoken.new_words,
        tuple(notes),
    )


def _choose_encoder(sources: Mapping[str, Source], wish: str) -> str | None:
    if wish == "auto":
        return first_of(sources, ("vggt", "dinov2"), lambda source: True)
    if wish not in ("vggt", "dinov2") or wish not in sources:
        raise ValueError(
            f"encoder: expected auto, or vggt or dinov2 together with its checkpoint, got {wish!r}"
        )
    return wish


def _config(
    sources: Mapping[str, Source],
    encoder: str | None,
    choices: Choices,
    language: dict[str, Any],
    has_words: bool,
) -> VidLLMConfig:
    fields: dict[str, Any] = {}
    if "vggt" in sources:
        fields = blaming("vggt", sizes.vggt_sizes, sources["vggt"].shapes)
    if encoder == "dinov2":
        source = sources["dinov2"]
        fields["encoder"] = blaming("dinov2", sizes.dinov2_sizes, source.shapes, source.config)
        fields["image_size"] = int(fields["encoder"]["image_size"])
        depth = int(fields["encoder"]["num_hidden_layers"])
        fields["encoder_layers"] = sizes.spread_layers(depth)
        heads = int(fields["encoder"]["num_attention_heads"])
        fields.setdefault("aggregator_heads", heads)
        fields.setdefault("camera_heads", heads)
    is_paper = choices.size == "paper" or (choices.size == "auto" and not fields)
    width = int(fields["encoder"]["hidden_size"]) if fields else 0
    preset = sizes.preset_fields("paper" if is_paper else choices.size, width)
    if not preset and fields:
        fields["adapter_heads"] = int(fields["encoder"]["num_attention_heads"])
    merged = {**preset, **fields, "language": language}
    merged["prompt_template"] = "vicuna" if has_words else "plain"
    context = int(language.get("max_position_embeddings", 4096))
    cap = int(merged.get("max_scene_tokens", VidLLMConfig().max_scene_tokens))
    merged["max_scene_tokens"] = min(cap, max(context - WORDS_ROOM, context // 2))
    # Random metric depth must not set the scale of good relative depth.
    merged["scale_alignment"] = "none"
    return VidLLMConfig(**{**merged, **(choices.changes or {})})


def _pieces(given: Mapping[str, list[KeyReport]]) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    for option, reports in given.items():
        for used in (entry for report in reports for entry in report.used):
            parts = len(used.targets)
            for part, target in enumerate(used.targets):
                pieces[target.name] = Piece(option, used.source.name, part, parts)
    return pieces


def part_of(name: str) -> str:
    """Return the part of the network a tensor belongs to: the first word of its name."""
    return name.partition(".")[0]


def _check_whole(places: Mapping[str, Shape], pieces: Mapping[str, Piece]) -> None:
    """Refuse a part of which some tensors are given and others not.

    DINOv2's mask token is for its pretraining only, and some exports lack it.
    """
    lacking: dict[str, list[str]] = {}
    for name in places:
        if name not in pieces and not name.endswith(".mask_token"):
            lacking.setdefault(part_of(name), []).append(name)
    for part in {part_of(name) for name in pieces} & set(lacking):
        options = sorted({piece.option for n, piece in pieces.items() if part_of(n) == part})
        names = lacking[part]
        raise ValueError(
            f"{', '.join(options)}: expected all tensors of {part}, got none for {names[0]} "
            f"{places[names[0]]} and {len(names) - 1} more; is the checkpoint whole?"
        )


def _join(source: Source, reports: list[KeyReport]) -> KeyReport:
    """Return one report for a source that filled several parts."""
    used: dict[str, UsedKey] = {}
    for entry in (entry for report in reports for entry in report.used):
        before = used.get(entry.source.name)
        stored = NamedShape(entry.source.name, source.shapes[entry.source.name])
        targets = (*before.targets, *entry.targets) if before else entry.targets
        used[entry.source.name] = UsedKey(stored, targets)
    left = (NamedShape(n, shape) for n, shape in source.shapes.items() if n not in used)
    return KeyReport(tuple(used.values()), (), tuple(left))
