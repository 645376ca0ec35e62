# SPDX-License-Identifier: Apache-2.0
"""LLaVA-3D's checkpoint into its parts: the v1 layout, key by key.

The layout is LLaVA-1.5's with two small networks more: `video_tower.positional_embedding` embeds
places for patches, `prompt_encoder.pos_emb3d` embeds them for words. CLIP's tower is in the
checkpoint; where a release left it out, a CLIP checkpoint gives it. Next: concat_llava3d.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor

from vidllm_ros.network import convert_language as words
from vidllm_ros.network.concat_llava3d import Llava3D
from vidllm_ros.network.concat_parts import put_places, read_places
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import Shape, UsedKey, assemble
from vidllm_ros.network.convert_hub import Located
from vidllm_ros.network.convert_sources import Source, open_source, speaks
from vidllm_ros.network.convert_words import SpokenWords, choose_words, word_tables

OPTION = "llava_3d"
TOWER = "tower."
DEFAULT_LAYER = -2
_POSITION_LAYER = {"0": "first", "1": "norm", "3": "second"}
_BOX_POSITION = re.compile(
    r"(?:model\.)?video_tower\.(?:.+\.)?pos_emb3d\.position_embedding_head\.([013])\.(weight|bias)"
)


def load_llava3d(
    path: Path,
    clip: Path | None = None,
    tokenizer: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Llava3D:
    """Load LLaVA-3D, its tokenizer attached.

    Args:
        path: folder of the checkpoint, with config.json.
        clip: CLIP checkpoint whose vision tower stands in where LLaVA-3D's has none.
        tokenizer: folder, where LLaVA-3D's own cannot be read.
        device: where to run.
        dtype: of the weights.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: the checkpoint is not LLaVA-3D's, or not whole.
    """
    plan = look_at_llava3d(path, clip, tokenizer)
    places: dict[str, Tensor] = {}
    for source, used in plan.used:
        places |= read_places(source.files, used, device, lambda name: dtype)
    filled = {name: plan.rows.filled(name, value) for name, value in places.items()}
    put_places(plan.model, filled, "language", path)
    plan.model.to(device)  # the buffers
    plan.model.cut_tower(plan.layer)
    plan.model.language.attach_tokenizer(plan.rows.spoken.tokenizer)
    return plan.model.eval().requires_grad_(False)


@dataclass(frozen=True)
class LlavaPlan:
    """A network without memory, and what fills it.

    Attributes:
        model: on the meta device but for its buffers.
        used: each source with its tensors and their places.
        rows: of the word tables.
        layer: hidden state of the tower that is read.
    """

    model: Llava3D
    used: list[tuple[Source, tuple[UsedKey, ...]]]
    rows: _WordRows
    layer: int


def look_at_llava3d(
    path: Path, clip: Path | None = None, tokenizer: Path | None = None
) -> LlavaPlan:
    """Decide where everything goes, without reading a tensor; arguments of `load_llava3d`.

    Raises:
        FileNotFoundError, ValueError: as `load_llava3d`.
    """
    source = open_source(OPTION, Located(path, str(path), ""))
    if not speaks(source):
        raise ValueError(
            f"language: expected LLaVA-3D with its language model in {path}, got none"
        )
    if not any(words.position_target(name) for name in source.shapes):
        raise ValueError(
            f"language: expected LLaVA-3D's position embedding in {path}, got none; LLaVA and "
            "other models without one run as backend vggt_vlm"
        )
    has_tower = words.has_tower(source.shapes, only_inside=True)
    tower_source = source if has_tower else _clip(clip, source)
    spoken = choose_words({OPTION: source}, OPTION, tokenizer)
    tower = words.tower_config(tower_source.shapes, tower_source.config)
    with init_empty_weights():  # buffers are real: no checkpoint holds them
        model = Llava3D(tower, VidLLMConfig(language=spoken.fields, prompt_template="vicuna"))
    rows = _WordRows(spoken, word_tables(spoken.fields)[1])
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    used = [(source, _used(source, shapes, rows))]
    if tower_source is not source:
        used.append((tower_source, _used(tower_source, shapes, rows)))
    given = {target.name for _, keys in used for key in keys for target in key.targets}
    tied = spoken.fields.get("tie_word_embeddings", False)
    lacking = [n for n in shapes if n not in given and not (tied and rows.is_table(n))]
    if lacking:
        raise ValueError(
            f"language: expected all tensors of LLaVA-3D in {path}, got none for {lacking[0]} and "
            f"{len(lacking) - 1} more; is the checkpoint whole?"
        )
    layer = int((source.config or {}).get("mm_vision_select_layer", DEFAULT_LAYER))
    return LlavaPlan(model, used, rows, layer)


@dataclass(frozen=True)
class _WordRows:
    """Tables with a row a word, which may have to grow for words the release does not know."""

    spoken: SpokenWords
    tables: set[str]

    @property
    def count(self) -> int:
        return int(self.spoken.fields["vocab_size"])

    def is_table(self, name: str) -> bool:
        return name.removeprefix(words.OUR_WORDS) in self.tables

    def filled(self, name: str, table: Tensor) -> Tensor:
        """Add rows, each the mean of the others; they are never generated (language.py)."""
        if not self.is_table(name) or len(table) >= self.count:
            return table
        mean = table.float().mean(0, keepdim=True).to(table.dtype)
        return torch.cat([table, mean.expand(self.count - len(table), -1)])


def _used(source: Source, shapes: Mapping[str, Shape], rows: _WordRows) -> tuple[UsedKey, ...]:
    """Say which stored tensor goes where in `Llava3D`.

    Raises:
        ValueError: one has another shape than its place.
    """
    meta, targets = source.files.meta(), {}
    own = {
        n[len(words.OUR_WORDS) :]: s for n, s in shapes.items() if n.startswith(words.OUR_WORDS)
    }
    tower = {n[len(TOWER) :]: s for n, s in shapes.items() if n.startswith(TOWER)}
    base = word_tables(rows.spoken.fields)[0]
    for name, value in meta.items():
        target = _target(name, own, tower, base, source.option)
        targets[name] = () if target is None else (target,)
        if target is not None and rows.is_table(target) and len(value) < rows.count:
            size = (rows.count, *value.shape[1:])
            meta[name] = torch.empty(size, dtype=value.dtype, device="meta")
    try:
        return assemble(meta, targets, shapes)[1].used
    except ValueError as error:
        raise ValueError(f"{source.option}: {error}") from error


def _target(
    name: str, own: Mapping[str, Shape], tower: Mapping[str, Shape], base: str, option: str
) -> str | None:
    """Return the name of a stored tensor in `Llava3D`; None where it has none there."""
    seen = words.tower_target(name, tower) if is_tower(name, option) else None
    if seen is not None:
        return TOWER + seen
    if option != OPTION:
        return None
    match = _BOX_POSITION.fullmatch(name)
    if match is not None:
        return f"box_position.{_POSITION_LAYER[match[1]]}.{match[2]}"
    placed = words.position_target(name)
    if placed is not None:
        return placed.removeprefix("patches.")
    return words.projector_target(name) or words.words_target(name, own, base)


def is_tower(name: str, option: str) -> bool:
    """Whether a tensor belongs to a vision tower, inside LLaVA-3D or by itself."""
    return option != OPTION or "vision_tower." in name


def _clip(clip: Path | None, source: Source) -> Source:
    """Open the CLIP checkpoint that gives the tower LLaVA-3D's checkpoint lacks."""
    if clip is None:
        named = (source.config or {}).get("mm_vision_tower", "openai/clip-vit-large-patch14-336")
        raise ValueError(
            f"clip: expected CLIP's vision tower among the tensors of {source.files.path}, got "
            f"none; name it beside the others, as {named}"
        )
    found = open_source("clip", Located(clip, str(clip), ""))
    if not words.has_tower(found.shapes, only_inside=False):
        raise ValueError(f"clip: expected a CLIP vision tower in {clip}, got none")
    return found
