# SPDX-License-Identifier: Apache-2.0
"""Chat-capable vision-language models of several families, small and seeded, as folders.

`write_family(name, folder)` writes weights, tokenizer, chat template and the processor's files in
the layout of that family's releases; nothing here needs torchvision, as releases do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_public import DIM, SENTENCES, seeded
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from vidllm_ros.network.text_packing import build_tokenizer

WORDS = 420
TEMPLATE = (
    "{{% for m in messages %}}USER: {{% for c in m.content %}}"
    "{{% if c.type == 'image' %}}{image}\n"
    "{{% else %}}{{{{ c.text }}}}\n{{% endif %}}{{% endfor %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}ASSISTANT:{{% endif %}}"
)
MEAN = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": DIM,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SIGLIP: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
HEADLESS = {**SIGLIP, "vision_use_head": False}


@dataclass(frozen=True)
class Family:
    """One family's release.

    Attributes:
        image: what its chat template writes where an image stands.
        processor: `processor_class` and the image processor's settings.
        config: of the model, given the ids of its tokens.
        special: further tokens it has.
        named: of them, those the tokenizer knows by a name.
        videos: settings of its video processor; None where no file holds them.
        more: further keys of processor_config.json.
    """

    image: str
    processor: dict[str, Any]
    config: Callable[[PreTrainedTokenizerFast], dict[str, Any]]
    special: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    videos: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)


def _qwen(vision: dict[str, Any]) -> Callable[[PreTrainedTokenizerFast], dict[str, Any]]:
    def config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        ids = tokenizer.convert_tokens_to_ids
        return {
            "text_config": {
                **TEXT,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [2, 2, 2],
                },
            },
            "vision_config": vision,
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
            "vision_start_token_id": ids("<|vision_start|>"),
            "vision_end_token_id": ids("<|vision_end|>"),
        }

    return config


def _qwen3(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 14,
        "out_hidden_size": DIM,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    fields = _qwen(vision)(tokenizer)
    fields["text_config"]["rope_parameters"]["mrope_interleaved"] = True
    fields["text_config"]["head_dim"] = 12
    return fields


QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_processor(kind: str) -> dict[str, Any]:
    return {
        "processor_class": kind,
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 28 * 28,
        "max_pixels": 28 * 28 * 4,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **MEAN,
    }


def _siglip_square(kind: str, **more: Any) -> dict[str, Any]:
    side = {"height": 28, "width": 28}
    return {"processor_class": kind, "size": side, "do_resize": True, **MEAN, **more}


def _idefics(name: str, videos: dict[str, Any] | None = None) -> Family:
    """Idefics 3 and SmolVLM, which differ in their names and in whether they take videos."""
    return Family(
        "<image>",
        {
            "processor_class": f"{name}Processor",
            "image_processor_type": f"{name}ImageProcessor",
            "size": {"longest_edge": 56},
            "max_image_size": {"longest_edge": 28},
            "do_image_splitting": False,
            **MEAN,
        },
        lambda t: {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": {**SIGLIP, "patch_size": 7},
            "image_token_id": t.convert_tokens_to_ids("<image>"),
            "scale_factor": 2,
        },
        ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
        videos=videos,
        more={"image_seq_len": 4},
    )


FAMILIES = {
    "qwen2_vl": Family(
        QWEN_IMAGE,
        _qwen_processor("Qwen2VLProcessor"),
        _qwen(
            {"depth": 2, "embed_dim": 32, "hidden_size": DIM, "num_heads": 4, "patch_size": 14},
        ),
        QWEN_TOKENS,
        videos={"video_processor_type": "Qwen2VLVideoProcessor", "merge_size": 2},
    ),
    "qwen2_5_vl": Family(
        QWEN_IMAGE,
        _qwen_processor("Qwen2_5_VLProcessor"),
        _qwen(
            {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 4,
                "patch_size": 14,
                "out_hidden_size": DIM,
                "window_size": 56,
                "fullatt_block_indexes": [1],
            },
        ),
        QWEN_TOKENS,
    ),
    "qwen3_vl": Family(
        QWEN_IMAGE,
        _qwen_processor("Qwen3VLProcessor"),
        _qwen3,
        QWEN_TOKENS,
        videos={"video_processor_type": "Qwen3VLVideoProcessor"},
    ),
    "llava_onevision": Family(
        "<image>",
        _siglip_square(
            "LlavaOnevisionProcessor",
            image_processor_type="LlavaOnevisionImageProcessor",
            image_grid_pinpoints=[[28, 28], [28, 56], [56, 28], [56, 56]],
        ),
        lambda t: {
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {"model_type": "siglip_vision_model", **HEADLESS},
            "image_token_index": t.convert_tokens_to_ids("<image>"),
            "video_token_index": t.convert_tokens_to_ids("<video>"),
            "image_grid_pinpoints": [[28, 28], [28, 56], [56, 28], [56, 56]],
        },
        ("<image>", "<video>"),
        videos={"video_processor_type": "LlavaOnevisionVideoProcessor"},
        more={"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
    ),
    "internvl": Family(
        "<IMG_CONTEXT>",
        _siglip_square(
            "InternVLProcessor",
            image_processor_type="GotOcr2ImageProcessor",
            crop_to_patches=False,
            min_patches=1,
            max_patches=2,
        ),
        lambda t: {
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": [28, 28],
                "patch_size": [7, 7],
            },
            "image_token_id": t.convert_tokens_to_ids("<IMG_CONTEXT>"),
            "downsample_ratio": 0.5,
        },
        ("<IMG_CONTEXT>", "<img>", "</img>", "<video>"),
        {
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
        videos={"video_processor_type": "InternVLVideoProcessor"},
        more={"image_seq_length": 4},
    ),
    "smolvlm": _idefics("SmolVLM", {"video_processor_type": "SmolVLMVideoProcessor"}),
    "idefics3": _idefics("Idefics3"),
    "llava_next": Family(
        "<image>",
        {
            "processor_class": "LlavaNextProcessor",
            "image_processor_type": "LlavaNextImageProcessor",
            "size": {"shortest_edge": 28},
            "crop_size": {"height": 28, "width": 28},
            "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
            **MEAN,
        },
        lambda t: {
            "text_config": {"model_type": "mistral", **TEXT},
            "vision_config": {"model_type": "clip_vision_model", **SIGLIP},
            "image_token_index": t.convert_tokens_to_ids("<image>"),
            "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
        },
        ("<image>",),
        more={
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    ),
    "gemma3": Family(
        "<start_of_image>",
        _siglip_square("Gemma3Processor", image_processor_type="Gemma3ImageProcessor"),
        lambda t: {
            "text_config": {
                **TEXT,
                "head_dim": 16,
                "sliding_window": 64,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {"model_type": "siglip_vision_model", **HEADLESS},
            "mm_tokens_per_image": 4,
            "boi_token_index": t.convert_tokens_to_ids("<start_of_image>"),
            "eoi_token_index": t.convert_tokens_to_ids("<end_of_image>"),
            "image_token_index": t.convert_tokens_to_ids("<image_soft_token>"),
        },
        ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        more={"image_seq_length": 4},
    ),
}


def write_family(name: str, folder: Path) -> Path:
    """Write a family's model into a folder."""
    family = FAMILIES[name]
    trained = build_tokenizer(SENTENCES, 300)
    trained.add_tokens(list(family.special), special_tokens=True)
    tokenizer = trained
    if family.named:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=trained.backend_tokenizer,
            pad_token=trained.pad_token,
            bos_token=trained.bos_token,
            eos_token=trained.eos_token,
            extra_special_tokens=family.named,
        )
    config = AutoConfig.for_model(name, **family.config(tokenizer), tie_word_embeddings=False)
    seeded(AutoModelForImageTextToText.from_config(config), 9).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE.format(image=family.image))
    (folder / "preprocessor_config.json").write_text(json.dumps(family.processor))
    kind = {"processor_class": family.processor["processor_class"]}
    (folder / "processor_config.json").write_text(json.dumps({**kind, **family.more}))
    if family.videos is not None:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(family.videos))
    return folder
