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
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
)

from vidllm_ros import prompts
from vidllm_ros.network import convert_language as words
from vidllm_ros.network import convert_sizes as sizes
from vidllm_ros.network.configuration import NANO_LANGUAGE, VidLLMConfig
from vidllm_ros.network.convert import (
    VGGT_ENCODER,
    KeyReport,
    NamedShape,
    Shape,
    UsedKey,
    assemble,
    convert_dinov2,
    convert_vggt,
)
from vidllm_ros.network.convert_files import TensorFiles, read_config
from vidllm_ros.network.convert_hub import Located
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.network.vidllm import VidLLM

SOURCES = ("vggt", "dinov2", "clip", "llava", "llava_3d", "language_model")
GEOMETRY_TEACHER, SEMANTIC_TEACHER = "teachers/geometry", "teachers/semantic"
WORDS_ROOM = 512
"""Tokens of the context that are kept free of scene tokens."""


@dataclass(frozen=True)
class Source:
    """A public checkpoint that was found and looked at.

    Attributes:
        option: one of `SOURCES`.
        located: where it is, and its licence.
        files: its tensors.
        config: its config.json, where it has one.
    """

    option: str
    located: Located
    files: TensorFiles
    config: dict[str, Any] | None

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: stored.shape for name, stored in self.files.tensors.items()}


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


def open_source(option: str, located: Located) -> Source:
    """Look at a checkpoint's names and shapes.

    Raises:
        FileNotFoundError, ValueError: there are no weights, or a file is damaged.
    """
    files, config = TensorFiles(located.path), read_config(located.path)
    return Source(option, located, files, config)


def build_plan(sources: Mapping[str, Source], choices: Choices) -> Plan:
    """Decide sizes and where everything goes.

    Raises:
        ValueError: sources do not fit each other, one is incomplete, or there is none.
    """
    if not sources:
        raise ValueError("sources: expected at least one checkpoint to convert, got none")
    encoder = _choose_encoder(sources, choices.encoder)
    speaker = _first(sources, ("language_model", "llava_3d", "llava"), _speaks)
    spoken = _words(sources, speaker, choices.tokenizer)
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
        given["vggt"].append(_blame("vggt", convert_vggt, meta, config))
    if encoder == "dinov2":
        meta = sources["dinov2"].files.meta()
        given["dinov2"].append(_blame("dinov2", convert_dinov2, meta, config))
    for option in ("language_model", "llava_3d", "llava"):
        if option in sources:
            given[option].append(_language(sources, option, speaker, places, language))
    pieces = _pieces(given)
    _check_whole(places, pieces)
    tower, teachers, teacher_reports = _teachers(sources)
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
        frozenset(words.OUR_WORDS + name for name in _word_tables(language)[1]),
        spoken.new_words,
        tuple(notes),
    )


def _choose_encoder(sources: Mapping[str, Source], wish: str) -> str | None:
    if wish == "auto":
        return _first(sources, ("vggt", "dinov2"), lambda source: True)
    if wish not in ("vggt", "dinov2") or wish not in sources:
        raise ValueError(
            f"encoder: expected auto, or vggt or dinov2 together with its checkpoint, got {wish!r}"
        )
    return wish


def _first(sources: Mapping[str, Source], order: tuple[str, ...], suits: Any) -> str | None:
    return next((o for o in order if o in sources and suits(sources[o])), None)


def _speaks(source: Source) -> bool:
    """Whether a checkpoint holds a language model, not LLaVA's small parts alone."""
    return source.option == "language_model" or any(
        "layers.0.input_layernorm" in name for name in source.shapes
    )


def _has(source: Source, target: Any) -> bool:
    return any(target(name) is not None for name in source.shapes)


@dataclass(frozen=True)
class _Words:
    """Fields of the language model, its tokenizer, rows nobody trained, and a note on them."""

    fields: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    new_words: tuple[int, ...]
    note: str


def _words(
    sources: Mapping[str, Source], speaker: str | None, tokenizer_folder: Path | None
) -> _Words:
    if speaker is None:
        texts = [text for t in prompts.TEMPLATES.values() for text in vars(t).values()]
        tokenizer = build_tokenizer(texts, int(NANO_LANGUAGE["vocab_size"]))
        note = "no language model was given: a small untrained one stands in; answers mean nothing"
        return _Words(dict(NANO_LANGUAGE), tokenizer, (), note)
    source = sources[speaker]
    if source.config is None:
        raise ValueError(
            f"{speaker}: expected config.json beside {source.located.where}, got none; "
            "give the model's whole folder"
        )
    fields = _blame(speaker, words.words_config, source.config)
    home = source.located.path if source.located.path.is_dir() else source.located.path.parent
    tokenizer = _blame(speaker, words.load_words_tokenizer, tokenizer_folder or home, fields)
    added = words.add_our_tokens(tokenizer)
    stored = next(
        (
            shape[0]
            for name, shape in source.shapes.items()
            if name.endswith("embed_tokens.weight")
        ),
        int(fields.get("vocab_size", 0)),
    )
    fields["vocab_size"] = words.table_rows(tokenizer, stored)
    for name in ("bos", "eos", "pad"):
        fields[f"{name}_token_id"] = int(getattr(tokenizer, f"{name}_token_id"))
    note = f"the rows of {prompts.LOC} and {prompts.BOX} in the word table are untrained"
    return _Words(fields, tokenizer, added, note)


def _config(
    sources: Mapping[str, Source],
    encoder: str | None,
    choices: Choices,
    language: dict[str, Any],
    has_words: bool,
) -> VidLLMConfig:
    fields: dict[str, Any] = {}
    if "vggt" in sources:
        fields = _blame("vggt", sizes.vggt_sizes, sources["vggt"].shapes)
    if encoder == "dinov2":
        source = sources["dinov2"]
        fields["encoder"] = _blame("dinov2", sizes.dinov2_sizes, source.shapes, source.config)
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


def _language(
    sources: Mapping[str, Source],
    option: str,
    speaker: str | None,
    places: Mapping[str, Shape],
    language: Mapping[str, Any],
) -> KeyReport:
    """Match the tensors of a language model or a LLaVA."""
    source = sources[option]
    from_projector = _first(
        sources, ("llava_3d", "llava"), lambda s: _has(s, words.projector_target)
    )
    from_position = _first(sources, ("llava_3d",), lambda s: _has(s, words.position_target))
    bare = {n[len(words.OUR_WORDS) :]: s for n, s in places.items() if n.startswith("language.")}
    meta, targets = source.files.meta(), {}
    base, tables = _word_tables(language)
    for name in meta:
        target: str | None = None
        if option == speaker:
            target = words.words_target(name, bare, base)
        if target is None and option == from_projector:
            target = words.projector_target(name)
        if target is None and option == from_position:
            target = words.position_target(name)
        targets[name] = () if target is None else (target,)
        if target is not None and target[len(words.OUR_WORDS) :] in tables:
            meta[name] = _lengthened(meta[name], int(language["vocab_size"]))
    return _blame(option, assemble, meta, targets, places)


def _word_tables(language: Mapping[str, Any]) -> tuple[str, set[str]]:
    """Return the body's prefix and the names of tensors with a row a word."""
    fields = dict(language)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    ends = {id(p) for p in model.get_input_embeddings().parameters()}
    output = model.get_output_embeddings()
    ends |= set() if output is None else {id(p) for p in output.parameters()}
    named = model.named_parameters(remove_duplicate=False)
    return str(model.base_model_prefix), {name for name, p in named if id(p) in ends}


def _lengthened(table: Tensor, rows: int) -> Tensor:
    """Return the table as it will be: at least as long as the tokenizer's words."""
    if table.shape[0] >= rows:
        return table
    return torch.empty((rows, *table.shape[1:]), dtype=table.dtype, device="meta")


def _teachers(
    sources: Mapping[str, Source],
) -> tuple[CLIPVisionConfig | None, dict[str, dict[str, Shape]], dict[str, tuple[str, KeyReport]]]:
    """Return stage 1's teachers: VGGT's DINO, and the vision tower of CLIP or of a LLaVA."""
    teachers: dict[str, dict[str, Shape]] = {}
    reports: dict[str, tuple[str, KeyReport]] = {}
    if "vggt" in sources:
        meta = sources["vggt"].files.meta()
        own = {n: tuple(t.shape) for n, t in meta.items() if n.startswith(VGGT_ENCODER)}
        teachers[GEOMETRY_TEACHER] = own
        targets = {name: (name,) if name in own else () for name in meta}
        reports[GEOMETRY_TEACHER] = ("vggt", assemble(meta, targets, own)[1])
    option = _first(
        sources,
        ("clip", "llava_3d", "llava"),
        lambda s: words.has_tower(s.shapes, only_inside=s.option != "clip"),
    )
    if option is None:
        if "clip" in sources:
            raise ValueError("clip: expected a CLIP vision tower among its tensors, got none")
        return None, teachers, reports
    source = sources[option]
    config = _blame(option, words.tower_config, source.shapes, source.config)
    with torch.device("meta"):
        state = CLIPVisionModel(config).state_dict()
    places = {name: tuple(t.shape) for name, t in state.items()}
    targets = {}
    for name in source.shapes:
        target = words.tower_target(name, places)
        targets[name] = () if target is None else (target,)
    report = _blame(option, assemble, source.files.meta(), targets, places)
    if report.missing:
        raise ValueError(
            f"{option}: expected a whole vision tower, got none of {report.missing[0]} "
            f"and {len(report.missing) - 1} more"
        )
    teachers[SEMANTIC_TEACHER] = places
    reports[SEMANTIC_TEACHER] = (option, report)
    return config, teachers, reports


def _blame(option: str, function: Any, *arguments: Any) -> Any:
    """Call, and say which source a ValueError is about; of a pair return the report."""
    try:
        result = function(*arguments)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    return result[1] if isinstance(result, tuple) else result


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
