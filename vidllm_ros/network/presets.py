# SPDX-License-Identifier: Apache-2.0
"""Sizes with a name: `paper_config` is the network public checkpoints fit.

The nano model's sizes are the defaults of `VidLLMConfig`; a config file beside trained weights
overrides both. Next: vidllm.py.
"""

from __future__ import annotations

from typing import Any

from vidllm_ros.network.configuration import VidLLMConfig

PAPER_ENCODER: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 518,
}

VICUNA_7B: dict[str, Any] = {
    "model_type": "llama",
    # 32000 words of Vicuna, then <pad>, <loc> and <box>, padded to a multiple of 64.
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 32000,
}


def paper_config(**overrides: Any) -> VidLLMConfig:
    """Return the paper's network: DINOv2-L, 24 pairs, 16 bridge tokens, a 7B language model.

    Source: Vid-LLM Sec. 3 and 4.1; VGGT-1B's sizes for the reconstruction half, ZoeDepth's for the
    bins, LLaVA-3D's for pooling and grounding (facts A.1, B.3, B.5, D.2).

    Args:
        overrides: fields of `VidLLMConfig` to set otherwise.
    """
    fields: dict[str, Any] = {
        "encoder": PAPER_ENCODER,
        "language": VICUNA_7B,
        "image_size": 518,
        "adapter_heads": 16,
        "adapter_expansion": 4,
        "aggregator_depth": 24,
        "aggregator_heads": 16,
        "aggregator_layers": (4, 11, 17, 23),
        "encoder_layers": (4, 11, 17, 23),
        "camera_trunk_depth": 4,
        "camera_heads": 16,
        "camera_mlp_ratio": 4,
        "dense_features": 256,
        "dense_channels": (256, 512, 1024, 1024),
        "metric_features": 256,
        "metric_channels": (256, 512, 1024, 1024),
        "metric_bins": 64,
        "metric_full_size": True,
        "metric_embedding": 128,
        "max_scene_tokens": 3096,
        "prompt_template": "vicuna",
        "grounding_dim": 512,
        "grounding_heads": 8,
        "grounding_layers": 4,
        "grounding_queries": 512,
    }
    return VidLLMConfig(**{**fields, **overrides})
