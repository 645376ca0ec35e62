# SPDX-License-Identifier: Apache-2.0
"""Language models and LLaVA's parts: key layouts, config.json and tokenizers of public releases.

Knows the original LLaVA-1.5 and LLaVA-3D v1 layout (`model.mm_projector.*`,
`model.vision_tower.*`, `model.video_tower.*`), transformers' two layouts of LLaVA, and any
`AutoModelForCausalLM` saved by itself. Next: convert_plan.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    CLIPVisionConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from vidllm_ros import prompts
from vidllm_ros.network.convert_sizes import HEAD_CHANNELS, Shapes, count, shape_of

OUR_WORDS = "language.model."
ROWS_MULTIPLE = 64
LLAVA_WORDS = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_qwen": "qwen2",
    "llava_mistral": "mistral",
}
NOT_SIZES = ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path")
_PROJECTOR = re.compile(
    r"(?:model\.)?(?:mm_projector\.([02])|multi_modal_projector\.linear_([12]))\.(weight|bias)"
)
_PROJECTOR_LAYER = {"0": "fc1", "2": "fc2", "linear_1": "fc1", "linear_2": "fc2"}
_POSITION = re.compile(
    r"(?:model\.)?video_tower\.(?:.+\.)?positional_embedding\."
    r"position_embedding_head\.([013])\.(weight|bias)"
)
_POSITION_LAYER = {"0": "first", "1": "norm", "3": "second"}
_TOWER = re.compile(
    r"(?:(?:model\.)?vision_tower\.(?:vision_tower\.)?)?(?:vision_model\.)?"
    r"((?:embeddings|pre_layrnorm|encoder|post_layernorm)\..+)"
)
_TOWER_PREFIX = re.compile(r"(?:model\.)?vision_tower\.")


def projector_target(name: str) -> str | None:
    """Return our name for a tensor of LLaVA's two-layer projector."""
    match = _PROJECTOR.fullmatch(name)
    if match is None:
        return None
    original, ported, kind = match.groups()
    return f"projector.{_PROJECTOR_LAYER[original or 'linear_' + ported]}.{kind}"


def position_target(name: str) -> str | None:
    """Return our name for a tensor of LLaVA-3D's position embedding."""
    match = _POSITION.fullmatch(name)
    return None if match is None else f"patches.position.{_POSITION_LAYER[match[1]]}.{match[2]}"


def words_target(name: str, places: Shapes, base: str) -> str | None:
    """Return our name for a tensor of the language model.

    Args:
        name: in one of the layouts of the module's docstring.
        places: names of the language model by itself.
        base: its class's prefix of the body, "model" for most.
    """
    candidates = [name, f"{base}.{name}"]
    for pattern, new in (
        (r"language_model\.(.+)", r"\1"),
        (r"model\.language_model\.(.+)", rf"{base}.\1"),
    ):
        match = re.fullmatch(pattern, name)
        if match:
            candidates.append(match.expand(new))
    return next((OUR_WORDS + c for c in candidates if c in places), None)


def tower_target(name: str, places: Shapes) -> str | None:
    """Return the name a CLIP vision tower has in the installed transformers' `CLIPVisionModel`."""
    match = _TOWER.fullmatch(name)
    if match is None:
        return None
    return next((c for c in (match[1], f"vision_model.{match[1]}") if c in places), None)


def has_tower(shapes: Shapes, only_inside: bool) -> bool:
    """Whether there is a CLIP vision tower; inside another model, where asked."""
    return any(
        _TOWER.fullmatch(name) and (_TOWER_PREFIX.match(name) or not only_inside)
        for name in shapes
    )


def tower_config(shapes: Shapes, config: Mapping[str, Any] | None) -> CLIPVisionConfig:
    """Return the vision tower's sizes: its config.json's, else told by its tensors."""
    fields = dict((config or {}).get("vision_config") or {})
    if not fields and (config or {}).get("model_type") == "clip_vision_model":
        fields = dict(config or {})
    if fields.get("hidden_size"):
        known = set(CLIPVisionConfig().to_dict()) - set(NOT_SIZES) - {"model_type"}
        return CLIPVisionConfig(**{k: v for k, v in fields.items() if k in known})
    bare = {match[1]: shape for n, shape in shapes.items() if (match := _TOWER.fullmatch(n))}
    kernel = shape_of(bare, "embeddings.patch_embedding.weight")
    positions = shape_of(bare, "embeddings.position_embedding.weight")[0]
    return CLIPVisionConfig(
        hidden_size=kernel[0],
        intermediate_size=shape_of(bare, "encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=count(bare, r"encoder\.layers\.(\d+)\."),
        num_attention_heads=max(1, kernel[0] // HEAD_CHANNELS),
        patch_size=kernel[-1],
        image_size=kernel[-1] * math.isqrt(positions - 1),
    )


def words_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the language model's fields, with their `model_type`, from a model's config.json.

    Raises:
        ValueError: this transformers does not know the model's type.
    """
    inner = config.get("text_config")
    fields = dict(inner if isinstance(inner, Mapping) else config)
    kind = str(fields.get("model_type", "llama"))
    kind = LLAVA_WORDS.get(kind, kind)
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"config: expected the model_type of a causal language model, got {kind!r}; "
            "a newer transformers may know it"
        )
    known = {*CONFIG_MAPPING[kind]().to_dict(), "rope_theta", "rope_scaling"}
    kept = {
        name: value
        for name, value in fields.items()
        if name in known - {"model_type", *NOT_SIZES} and value is not None
    }
    made = AutoConfig.for_model(kind, **kept).to_diff_dict()
    return {**{n: v for n, v in made.items() if n not in NOT_SIZES}, "model_type": kind}


def load_words_tokenizer(folder: Path, config: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Load a public tokenizer that knows its <bos> and <eos>.

    Args:
        folder: with tokenizer.json, or what transformers can make one of.
        config: fields of the language model, for the ids of <bos> and <eos>.

    Raises:
        ValueError: there is no tokenizer that can be read.
    """
    try:
        tokenizer: Any = (
            PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            if (folder / "tokenizer.json").is_file()
            else AutoTokenizer.from_pretrained(folder, local_files_only=True)
        )
    except Exception as error:  # the library raises nearly anything here
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"tokenizer: expected one in {folder}, got: {first}; give --tokenizer, a folder with "
            "the model's tokenizer.json (a tokenizer.model alone needs the package sentencepiece)"
        ) from error
    for name in ("eos", "bos"):
        if getattr(tokenizer, f"{name}_token") is None:
            index = config.get(f"{name}_token_id")
            index = index[0] if isinstance(index, (list, tuple)) else index
            token = None if index is None else tokenizer.convert_ids_to_tokens(int(index))
            token = token or tokenizer.eos_token
            if token is None:
                raise ValueError(f"tokenizer: expected an {name} token in {folder}, got none")
            setattr(tokenizer, f"{name}_token", token)
    return tokenizer  # type: ignore[no-any-return]


def add_our_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Add <loc>, <box> and, where it has none, <pad>; return the ids that are new."""
    known = set(tokenizer.get_vocab())
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": prompts.PAD})
    tokenizer.add_tokens(
        [token for token in (prompts.LOC, prompts.BOX) if token not in known], special_tokens=True
    )
    return tuple(sorted(i for token, i in tokenizer.get_vocab().items() if token not in known))


def table_rows(tokenizer: PreTrainedTokenizerBase, stored: int) -> int:
    """Return rows of the word table: as stored where the tokenizer fits, else a multiple of 64."""
    needed = max(tokenizer.get_vocab().values()) + 1
    return stored if needed <= stored else -(-needed // ROWS_MULTIPLE) * ROWS_MULTIPLE
