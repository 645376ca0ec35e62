# SPDX-License-Identifier: Apache-2.0
"""What a concatenation is reckoned to take, held against what its parts are once loaded."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_vlms
import torch
from torch import nn

from vidllm_ros.network.concat_account import WordSizes, look_at_concatenation
from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.network.concat_vlm import (
    SeenScene,
    chat,
    look_at_vlm,
    prompt_tokens,
    vlm_without_memory,
)
from vidllm_ros.network.concatenation import load_concatenation, weight_bytes
from vidllm_ros.network.memory_plan import Rung, ladder

LANGUAGES = {"vggt_llava3d": "llava_3d", "vggt_vlm": "vlm"}
FAMILIES = sorted(set(tiny_vlms.FAMILIES) - {"smolvlm"})


def manifest(public_parts: Path, kind: str, **choices: object) -> Manifest:
    places = (PartPlace(str(public_parts / n)) for n in ("vggt", LANGUAGES[kind], "depth"))
    return Manifest(kind, *places, **choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(LANGUAGES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_loading_takes_and_quantising_can_have(
    kind: str, dtype: torch.dtype, public_parts: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path, manifest(public_parts, kind))
    account, weights = look_at_concatenation(tmp_path, dtype)
    assert weights.geometry + weights.language == weight_bytes(tmp_path, dtype)
    decoder = load_concatenation(tmp_path, "cpu", dtype).talker.decoder
    held = sum(p.numel() * p.element_size() for p in decoder.parameters())
    assert weights.language == held
    layers = [
        m
        for n, m in decoder.named_modules()
        if isinstance(m, nn.Linear) and not n.endswith("lm_head")
    ]
    linear = sum(m.weight.numel() * m.weight.element_size() for m in layers)
    assert 0 < linear < held
    assert weights.tables == held - linear
    assert account.bytes_per_value == weights.bytes_per_value == dtype.itemsize


@pytest.mark.parametrize("kind", sorted(LANGUAGES))
def test_each_rung_takes_less_and_words_stop_growing_at_the_frames_shown(
    kind: str, public_parts: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path, manifest(public_parts, kind, frames=4))
    account, _ = look_at_concatenation(tmp_path, torch.float32)
    assert account.size == (42, 56)
    stages = [account.stage_bytes(rung) for rung in ladder(32, ())]
    assert set(stages[0]) == {"metric_depth", "geometry", "words"}
    for above, below in pairwise(stages):
        assert all(below[name] < above[name] for name in above)
    few, shown = (account.stage_bytes(Rung("x", "none", n, 1.0))["words"] for n in (2, 4))
    more, most = (account.stage_bytes(Rung("x", "none", n, 1.0))["words"] for n in (8, 12))
    values = account.words.prompt_values
    tokens = [account.tokens_of(n, account.size) for n in (2, 4)]
    kept = (most - more) / 4  # a frame more that is not shown
    assert tokens[0] < tokens[1]
    assert shown - few == pytest.approx(2 * kept + 4 * (values(tokens[1]) - values(tokens[0])))
    assert more - shown == pytest.approx(4 * kept)


def test_without_a_scale_there_is_no_metric_depth(public_parts: Path, tmp_path: Path) -> None:
    unscaled = manifest(public_parts, "vggt_llava3d", scale="none", max_scene_tokens=6)
    write_manifest(tmp_path, unscaled)
    account, weights = look_at_concatenation(tmp_path, torch.float32)
    assert set(account.stage_bytes(ladder(32)[0])) == {"geometry", "words"}
    assert account.tokens_of(1, account.size) == 4  # two by two patches of the tower
    assert account.tokens_of(20, account.size) == 6
    write_manifest(tmp_path, replace(unscaled, scale="least_squares"))
    assert look_at_concatenation(tmp_path, torch.float32)[1].geometry > weights.geometry


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_a_familys_language_model_are_its_layers(family: str, tmp_path: Path) -> None:
    folder = tiny_vlms.write_family(family, tmp_path)
    decoder, config = vlm_without_memory(folder)
    assert all(parameter.is_meta for parameter in decoder.parameters())
    sizes = WordSizes.of_config(config)
    keys = [m for n, m in decoder.named_modules() if n.endswith("k_proj")]
    inner = next(m for n, m in decoder.named_modules() if n.endswith("up_proj"))
    assert len(keys) == sizes.layers
    assert (keys[0].in_features, keys[0].out_features) == (sizes.width, sizes.keys)
    assert inner.out_features == sizes.inner


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next"])
def test_a_prompt_is_counted_by_its_own_processor(family: str, tmp_path: Path) -> None:
    processor = look_at_vlm(tiny_vlms.write_family(family, tmp_path))
    images = (np.zeros((42, 56, 3), np.uint8),) * 3
    place = " ".join(["(1.0, 1.0, 1.0)"] * 12)
    scene = SeenScene(
        torch.zeros(0, 0), torch.zeros(0, 3), (0,), np.eye(4)[None], images=images,
        told=(place,) * 3,
    )  # fmt: skip
    asked = processor.apply_chat_template(
        chat(scene, "what is it?"), tokenize=True, return_dict=True, return_tensors="pt"
    )
    length = asked["input_ids"].shape[1]
    one = prompt_tokens(processor, (42, 56))
    assert length < 3 * one < 2.5 * length
    assert prompt_tokens(processor, (14, 28)) < one
