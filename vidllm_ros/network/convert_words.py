# SPDX-License-Identifier: Apache-2.0
"""The language side of a plan: which checkpoint speaks, its tokenizer, and its tensors' places.

Next: convert_plan.py, which joins it with the geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from vidllm_ros import prompts
from vidllm_ros.network import convert_language as words
from vidllm_ros.network.configuration import NANO_LANGUAGE
from vidllm_ros.network.convert import KeyReport, Shape, assemble
from vidllm_ros.network.convert_sources import Source, blaming, first_of, has_target
from vidllm_ros.network.text_packing import build_tokenizer


@dataclass(frozen=True)
class SpokenWords:
    """Fields of the language model, its tokenizer, rows nobody trained, and a note on them."""

    fields: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    new_words: tuple[int, ...]
    note: str


def choose_words(
    sources: Mapping[str, Source], speaker: str | None, tokenizer_folder: Path | None
) -> SpokenWords:
    if speaker is None:
        texts = [text for t in prompts.TEMPLATES.values() for text in vars(t).values()]
        tokenizer = build_tokenizer(texts, int(NANO_LANGUAGE["vocab_size"]))
        note = "no language model was given: a small untrained one stands in; answers mean nothing"
        return SpokenWords(dict(NANO_LANGUAGE), tokenizer, (), note)
    source = sources[speaker]
    if source.config is None:
        raise ValueError(
            f"{speaker}: expected config.json beside {source.located.where}, got none; "
            "give the model's whole folder"
        )
    fields = blaming(speaker, words.words_config, source.config)
    home = source.located.path if source.located.path.is_dir() else source.located.path.parent
    tokenizer = blaming(speaker, words.load_words_tokenizer, tokenizer_folder or home, fields)
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
    return SpokenWords(fields, tokenizer, added, note)


def match_language(
    sources: Mapping[str, Source],
    option: str,
    speaker: str | None,
    places: Mapping[str, Shape],
    language: Mapping[str, Any],
) -> KeyReport:
    """Match the tensors of a language model or a LLaVA."""
    source = sources[option]
    from_projector = first_of(
        sources, ("llava_3d", "llava"), lambda s: has_target(s, words.projector_target)
    )
    from_position = first_of(
        sources, ("llava_3d",), lambda s: has_target(s, words.position_target)
    )
    bare = {n[len(words.OUR_WORDS) :]: s for n, s in places.items() if n.startswith("language.")}
    meta, targets = source.files.meta(), {}
    base, tables = word_tables(language)
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
    return blaming(option, assemble, meta, targets, places)


def word_tables(language: Mapping[str, Any]) -> tuple[str, set[str]]:
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
