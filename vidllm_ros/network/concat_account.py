# SPDX-License-Identifier: Apache-2.0
"""What a window of a concatenation takes beside the weights, reckoned from its parts' own sizes.

Three stages are never full at once: the metric depth of single frames, VGGT over the window, and
the language model's prompt. Each is an estimate that a measured window corrects
(streaming/memory_probe.py); towers of vision-language models are left to that measurement. Weights
are counted on disk, and what of them can be quantised on networks without memory. Next:
memory_plan.py, which chooses by both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidllm_ros.network.account import Account, Workload
from vidllm_ros.network.concat_geometry import look_at_vggt, usual_size
from vidllm_ros.network.concat_llava3d_files import look_at_llava3d
from vidllm_ros.network.concat_manifest import Manifest, read_manifest
from vidllm_ros.network.concat_vlm import look_at_vlm, prompt_tokens, vlm_without_memory
from vidllm_ros.network.concatenation import frames_shown, locate_parts, weight_bytes
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.memory_plan import Rung, Weights, shrunk_size

METRIC_CHANNELS, METRIC_MAPS = 128, 6
"""Maps of a metric-depth decoder at the frame's size; float32, one frame at a time."""
BLOCK_WIDTHS, MLP_WIDTHS = 12, 3
"""Values of a token in flight: of the model's width in a block, of its inner width behind it."""


@dataclass(frozen=True)
class WordSizes:
    """Sizes of a language model: layers, width, inner width, width of keys."""

    layers: int
    width: int
    inner: int
    keys: int

    @staticmethod
    def of_config(config: Any) -> WordSizes:
        """Read them off a causal model's config of transformers."""
        fields = config.to_dict()
        width, heads = int(fields["hidden_size"]), int(fields["num_attention_heads"])
        head = fields.get("head_dim") or width // heads
        keys = int(fields.get("num_key_value_heads") or heads) * int(head)
        inner = int(fields.get("intermediate_size") or 4 * width)
        return WordSizes(int(fields["num_hidden_layers"]), width, inner, keys)

    def prompt_values(self, tokens: int) -> int:
        """Values held at most while a prompt of so many tokens is read: cache, and a layer."""
        passing = max(BLOCK_WIDTHS * self.width, MLP_WIDTHS * self.inner)
        return tokens * (2 * self.layers * self.keys + passing)


@dataclass(frozen=True)
class ConcatenationAccount:
    """The account of a concatenation's windows: "metric_depth", "geometry" and "words".

    Attributes:
        geometry: VGGT's sizes.
        words: the language model's.
        manifest: the choices.
        tokens_of: length of a prompt that shows so many frames of (H, W).
        bytes_per_value: of activations; metric depth is float32.
    """

    geometry: VidLLMConfig
    words: WordSizes
    manifest: Manifest
    tokens_of: Callable[[int, tuple[int, int]], int]
    bytes_per_value: int = 2

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) at VGGT of a 4:3 camera, px."""
        return usual_size(self.geometry)

    def stage_bytes(self, rung: Rung) -> dict[str, float]:
        """See `WindowAccount` in memory_plan.py."""
        size = shrunk_size(self.size, rung.shrink, self.geometry.patch_size)
        load = Workload(rung.frames, size, 0, bytes_per_value=self.bytes_per_value)
        kept = Account(self.geometry, load).kept_bytes()
        encoded = kept["encoder_levels"] / 5  # VGGT reads the encoder's last layer alone
        pixels = size[0] * size[1]
        is_scaled = self.manifest.scale != "none"
        sampled = min(rung.frames, self.manifest.scale_frames) if is_scaled else 0
        remembered = encoded + sampled * pixels * (4 + 3)
        passing = max(kept["block"], kept["dense_maps"])
        shown = min(rung.frames, frames_shown(self.manifest))
        prompt = self.words.prompt_values(self.tokens_of(shown, size)) * self.bytes_per_value
        stages = {
            "geometry": remembered + kept["aggregator_levels"] + passing + kept["outputs"],
            "words": remembered + kept["outputs"] + prompt,
        }
        if is_scaled:  # the model brings every frame to its own size, however small it comes
            full = self.size[0] * self.size[1]
            stages["metric_depth"] = remembered + METRIC_MAPS * METRIC_CHANNELS * full * 4
        return stages


def look_at_concatenation(
    folder: Path, dtype: torch.dtype
) -> tuple[ConcatenationAccount, Weights]:
    """Return the account of a folder's windows and its weights, without reading tensors.

    Args:
        folder: with concatenation.json.
        dtype: as for `load_concatenation`.

    Raises:
        FileNotFoundError, ValueError: as `load_concatenation`.
    """
    manifest = read_manifest(folder)
    found = locate_parts(folder, manifest)
    config = look_at_vggt(found["geometry"])[1]
    tokens_of: Callable[[int, tuple[int, int]], int]
    if manifest.backend == "vggt_llava3d":
        plan = look_at_llava3d(found["language"], found.get("clip"), found.get("tokenizer"))
        decoder: nn.Module = plan.model.language.model
        sizes = WordSizes.of_config(plan.model.language.model.config)
        tower = plan.model.tower.config
        patches = (int(tower.image_size) // int(tower.patch_size)) ** 2

        def tokens_of(frames: int, size: tuple[int, int]) -> int:
            return min(frames * patches, manifest.max_scene_tokens)
    else:
        processor = look_at_vlm(found["language"])
        decoder, text = vlm_without_memory(found["language"])
        sizes = WordSizes.of_config(text)

        def tokens_of(frames: int, size: tuple[int, int]) -> int:
            return frames * prompt_tokens(processor, size)

    account = ConcatenationAccount(config, sizes, manifest, tokens_of, dtype.itemsize)
    total = weight_bytes(folder, dtype)
    language = min(total, _numbers(decoder.parameters()) * dtype.itemsize)
    linear = _numbers(
        part.weight
        for name, part in decoder.named_modules()
        if isinstance(part, nn.Linear) and "lm_head" not in name
    )
    tables = max(0, language - linear * dtype.itemsize)
    return account, Weights(total - language, language, tables, dtype.itemsize)


def _numbers(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
