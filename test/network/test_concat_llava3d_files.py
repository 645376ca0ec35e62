# SPDX-License-Identifier: Apache-2.0
"""LLaVA-3D's v1 layout: every tensor has a place, what is lacking is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_public
import torch
from accelerate import init_empty_weights
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from vidllm_ros.network.concat_llava3d import Llava3D
from vidllm_ros.network.concat_llava3d_files import load_llava3d
from vidllm_ros.network.convert_language import tower_config
from vidllm_ros.network.presets import paper_config


def test_language_model_is_llamas_and_new_words_are_the_mean(public_parts: Path) -> None:
    model = load_llava3d(public_parts / "llava_3d", dtype=torch.float32)
    theirs = tiny_public.llama_model().state_dict()
    ours = model.language.model.state_dict()
    assert {n for n in ours if "rotary" not in n} == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name][: len(value)], value, msg=name)
    assert model.language.has_tokenizer


def test_a_table_too_short_for_its_tokenizer_grows(tmp_path: Path) -> None:
    tensors = tiny_public.llava_3d_tensors()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:265].clone()  # its tokenizer has more words
    tiny_public.write_llava_3d(tmp_path / "short", tensors)
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps({**config, "vocab_size": 265}))
    model = load_llava3d(tmp_path / "short")
    table = model.language.model.get_input_embeddings().weight
    assert len(table) >= len(model.language.tokenizer) > 265
    torch.testing.assert_close(table[:265], tensors["model.embed_tokens.weight"])
    torch.testing.assert_close(table[266], tensors["model.embed_tokens.weight"].mean(0))


def test_tower_comes_from_clip_where_the_release_has_none(
    public_parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    tiny_public.write_llava_3d(folder, tiny_public.llava_3d_tensors(with_tower=False))
    with pytest.raises(ValueError, match=r"clip: .* as openai/clip-vit-large-patch14-336"):
        load_llava3d(folder)
    whole = load_llava3d(public_parts / "llava_3d")
    joined = load_llava3d(folder, clip=public_parts / "clip")
    for name, value in whole.tower.state_dict().items():
        torch.testing.assert_close(joined.tower.state_dict()[name], value, msg=name)
    with pytest.raises(ValueError, match="expected a CLIP vision tower"):
        load_llava3d(folder, clip=public_parts / "depth")


def test_half_precision(public_parts: Path) -> None:
    model = load_llava3d(public_parts / "llava_3d", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ("video_tower.video_tower", "position embedding.*vggt_vlm"),
        ("prompt_encoder", "none for box_position"),
        ("model.layers.1.mlp", "none for language"),
        ("mm_projector.2", "none for projector"),
        ("model.layers.", "language model"),
    ],
)
def test_what_is_lacking_is_named(dropped: str, words: str, tmp_path: Path) -> None:
    tensors = {n: t for n, t in tiny_public.llava_3d_tensors().items() if dropped not in n}
    tiny_public.write_llava_3d(tmp_path / "torn", tensors)
    with pytest.raises(ValueError, match=words):
        load_llava3d(tmp_path / "torn")


def test_another_shape_is_named_with_its_place(tmp_path: Path) -> None:
    tensors = tiny_public.llava_3d_tensors()
    tensors["model.mm_projector.0.weight"] = torch.zeros(7, 7)
    tiny_public.write_llava_3d(tmp_path / "other", tensors)
    with pytest.raises(ValueError, match=r"projector\.fc1\.weight \(48, 32\), got .*\(7, 7\)"):
        load_llava3d(tmp_path / "other")


def test_a_tied_table_counts_as_given(tmp_path: Path) -> None:
    tensors = tiny_public.llava_3d_tensors()
    del tensors["lm_head.weight"]
    tiny_public.write_llava_3d(tmp_path / "tied", tensors)
    file = tmp_path / "tied" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tie_word_embeddings": True}))
    model = load_llava3d(tmp_path / "tied").language.model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert isinstance(model, LlamaForCausalLM)
    assert isinstance(model.config, LlamaConfig)


def test_sizes_of_the_release_are_read_off_its_tensors() -> None:
    """LLaVA-3D's own config.json says nothing of its tower but where it came from."""
    wanted = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    with torch.device("meta"):
        state = CLIPVisionModel(wanted).state_dict()
    prefix = "model.vision_tower.vision_tower.vision_model."
    shapes = {prefix + n.removeprefix("vision_model."): tuple(t.shape) for n, t in state.items()}
    found = tower_config(shapes, {"model_type": "llava_llama", "hidden_size": 4096})
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert (found.image_size, found.patch_size) == (336, 14)
    assert (found.hidden_act, found.layer_norm_eps) == ("quick_gelu", 1e-5)
    with init_empty_weights():
        model = Llava3D(found, paper_config())
    model.cut_tower(-2)
    parts = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    assert parts["projector"] == 1024 * 4096 + 4096 + 4096**2 + 4096
    assert parts["position"] == 3 * 1024 + 1024 + 2 * 1024 + 1024**2 + 1024
    assert parts["language"] == pytest.approx(6.739e9, rel=1e-3)
    assert parts["tower"] == pytest.approx(303.5e6 - 12.6e6, rel=1e-3)
