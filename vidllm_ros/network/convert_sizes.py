# SPDX-License-Identifier: Apache-2.0
"""Sizes of the network, told by the shapes of the tensors it is to hold.

Shapes say everything but the number of attention heads (64 channels each in every public member of
these families, unless q_norm or a config.json says otherwise) and which layers the dense heads
read: four, spread as VGGT-1B spreads them over its 24. Next: convert_plan.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers import Dinov2WithRegistersConfig

from vidllm_ros.network.presets import paper_config

Shapes = Mapping[str, tuple[int, ...]]
HEAD_CHANNELS = 64
PAPER_WIDTH = 1024
DINOV2_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "image_size",
    "patch_size",
    "num_register_tokens",
    "layer_norm_eps",
    "hidden_act",
    "qkv_bias",
    "use_swiglu_ffn",
    "layerscale_value",
)
FOUR_OF_24 = (4, 11, 17, 23)


def count(names: Shapes, pattern: str) -> int:
    """Return how many different numbers stand at the group of a pattern at a name's start."""
    found = (re.match(pattern, name) for name in names)
    return len({match.group(1) for match in found if match})


def spread_layers(depth: int) -> tuple[int, ...]:
    """Return four layers of `depth`, ascending, the last included."""
    if depth == 24:
        return FOUR_OF_24
    if depth < 4:
        raise ValueError(f"depth: expected at least four blocks for the dense heads, got {depth}")
    return tuple(round((step + 1) * depth / 4) - 1 for step in range(4))


def vggt_encoder_sizes(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    """Return the encoder's sizes from DINOv2's original names, which VGGT keeps.

    Raises:
        ValueError: a tensor that tells them is missing.
    """
    kernel = shape_of(shapes, prefix + "patch_embed.proj.weight")
    positions = shape_of(shapes, prefix + "pos_embed")
    hidden = shape_of(shapes, prefix + "blocks.0.mlp.fc1.weight")[0]
    registers = shapes.get(prefix + "register_tokens", (1, 0, 0))[1]
    width, patch = kernel[0], kernel[-1]
    return {
        "hidden_size": width,
        "num_hidden_layers": count(shapes, re.escape(prefix) + r"blocks\.(\d+)\."),
        "num_attention_heads": max(1, width // HEAD_CHANNELS),
        "mlp_ratio": hidden // width,
        "num_register_tokens": registers,
        "image_size": patch * math.isqrt(positions[1] - 1),
        "patch_size": patch,
    }


def dinov2_sizes(shapes: Shapes, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the encoder's sizes from a DINOv2 checkpoint, its config.json first."""
    if config is not None and "hidden_size" in config:
        full = Dinov2WithRegistersConfig(
            **{name: config[name] for name in DINOV2_FIELDS if name in config}
        )
        return {name: getattr(full, name) for name in DINOV2_FIELDS}
    if "pos_embed" in shapes:
        return vggt_encoder_sizes(shapes)
    end = "embeddings.cls_token"
    prefix = next((n[: -len(end)] for n in shapes if n.endswith(end)), "")
    kernel = shape_of(shapes, f"{prefix}embeddings.patch_embeddings.projection.weight")
    positions = shape_of(shapes, f"{prefix}embeddings.position_embeddings")
    hidden = shape_of(shapes, f"{prefix}encoder.layer.0.mlp.fc1.weight")[0]
    return {
        "hidden_size": kernel[0],
        "num_hidden_layers": count(shapes, re.escape(prefix) + r"encoder\.layer\.(\d+)\."),
        "num_attention_heads": max(1, kernel[0] // HEAD_CHANNELS),
        "mlp_ratio": hidden // kernel[0],
        "num_register_tokens": shape_of(shapes, f"{prefix}embeddings.register_tokens")[1],
        "image_size": kernel[-1] * math.isqrt(positions[1] - 1),
        "patch_size": kernel[-1],
    }


def vggt_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return fields of `VidLLMConfig` for the reconstruction half, from VGGT's names.

    Raises:
        ValueError: a tensor that tells them is missing.
    """
    width = shape_of(shapes, "aggregator.camera_token")[-1]
    per_head = shape_of(shapes, "aggregator.frame_blocks.0.attn.q_norm.weight")[0]
    depth = count(shapes, r"aggregator\.frame_blocks\.(\d+)\.")
    trunk = shape_of(shapes, "camera_head.trunk.0.mlp.fc1.weight")
    heads = max(1, width // per_head)
    channels = tuple(shape_of(shapes, f"depth_head.projects.{i}.weight")[0] for i in range(4))
    features = shape_of(shapes, "depth_head.scratch.layer1_rn.weight")[0]
    encoder = vggt_encoder_sizes(shapes, "aggregator.patch_embed.")
    return {
        "encoder": {**encoder, "num_attention_heads": heads},
        "image_size": encoder["image_size"],
        "encoder_layers": spread_layers(encoder["num_hidden_layers"]),
        "aggregator_depth": depth,
        "aggregator_heads": heads,
        "aggregator_registers": shape_of(shapes, "aggregator.register_token")[2],
        "aggregator_layers": spread_layers(depth),
        "camera_trunk_depth": count(shapes, r"camera_head\.trunk\.(\d+)\."),
        "camera_heads": heads,
        "camera_mlp_ratio": trunk[0] // trunk[1],
        "dense_features": features,
        "dense_channels": channels,
        "metric_features": features,
        "metric_channels": channels,
        "point_head": any(name.startswith("point_head.") for name in shapes),
    }


def preset_fields(size: str, width: int) -> dict[str, Any]:
    """Return what no public checkpoint decides: adapter, bins, grounding, words.

    Args:
        size: "paper", "nano" (defaults of the configuration), or "auto": by the width.
        width: of the encoder.
    """
    if size == "paper" or (size == "auto" and width >= PAPER_WIDTH):
        full = paper_config().to_dict()
        drop = ("model_type", "transformers_version", "architectures", "dtype", "language")
        return {name: value for name, value in full.items() if name not in drop}
    return {}


def shape_of(shapes: Shapes, name: str) -> tuple[int, ...]:
    """Return a shape that must be there.

    Raises:
        ValueError: it is not.
    """
    if name not in shapes:
        raise ValueError(f"weights: expected a tensor {name} among {len(shapes)}, got none")
    return shapes[name]
