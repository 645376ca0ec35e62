# SPDX-License-Identifier: Apache-2.0
"""What several sources together become: tables of words, teachers, choices, errors, the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from public_models import convert, dinov2_model, save_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_public import DIM, WIDTH, clip_model, llama_config, seeded
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vidllm_ros import prompts
from vidllm_ros.network.convert_card import card_text, report_of
from vidllm_ros.network.convert_plan import Choices
from vidllm_ros.network.text_packing import build_tokenizer, special_ids
from vidllm_ros.training.recipe import TeacherRecipe
from vidllm_ros.training.teachers import load_teacher


@torch.no_grad()
def test_any_language_model_with_tied_tables_and_a_short_table(vggt: Path, tmp_path: Path) -> None:
    """The tokenizer's new words make the table longer; old words keep their logits."""
    config = Qwen2Config(
        vocab_size=268,
        hidden_size=DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    theirs = seeded(Qwen2ForCausalLM(config), 10)
    folder = tmp_path / "qwen"
    theirs.save_pretrained(folder)
    tokenizer = build_tokenizer((), 261)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in vocabulary["added_tokens"]:
        if token["content"] in (prompts.LOC, prompts.BOX):
            token["content"] = token["content"].upper()
    for token in (prompts.LOC, prompts.BOX):
        vocabulary["model"]["vocab"][token.upper()] = vocabulary["model"]["vocab"].pop(token)
    folder.joinpath("tokenizer.json").write_text(json.dumps(vocabulary))
    folder.joinpath("tokenizer_config.json").write_text(
        json.dumps({"eos_token": prompts.EOS, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "bos_token_id": None}))
    model, plan, _ = convert(tmp_path / "out", {"vggt": vggt, "language_model": folder})
    special = special_ids(model.language.tokenizer)
    assert (special.bos, special.eos) == (2, 2)
    assert special.loc != special.box
    assert plan.new_words == (261, 262)
    assert {special.loc, special.box} == set(plan.new_words)
    ids = torch.tensor([[2, 100, 7]])
    expected = theirs(input_ids=ids).logits
    found = model.language.model(input_ids=ids).logits
    torch.testing.assert_close(found[..., :261], expected[..., :261])
    table = model.language.model.get_input_embeddings().weight
    old = theirs.get_input_embeddings().weight
    trained = [row for row in range(268) if row not in plan.new_words]
    torch.testing.assert_close(table[special.loc], old[trained].mean(0))
    assert model.language.model.get_output_embeddings().weight is table


def test_a_table_shorter_than_the_tokenizer_grows(vggt: Path, tmp_path: Path) -> None:
    theirs = seeded(LlamaForCausalLM(llama_config(vocabulary=259)), 11)
    folder = tmp_path / "short"
    theirs.save_pretrained(folder)
    save_tokenizer(folder)
    model, _, _ = convert(tmp_path / "out", {"vggt": vggt, "language_model": folder})
    assert model.config.language["vocab_size"] == 320
    table = model.language.model.get_input_embeddings().weight
    old = theirs.get_input_embeddings().weight
    assert torch.equal(table[:259], old)
    torch.testing.assert_close(table[259:], old.mean(0).expand(61, -1))


@torch.no_grad()
def test_clip_and_vggt_become_the_teachers(vggt: Path, tmp_path: Path) -> None:
    theirs = clip_model()
    theirs.save_pretrained(tmp_path / "clip")
    model, _, _ = convert(tmp_path / "out", {"vggt": vggt, "clip": tmp_path / "clip"})
    teachers = tmp_path / "out" / "teachers"
    semantic = CLIPVisionModel.from_pretrained(teachers / "semantic")
    pixels = torch.rand(2, 3, 28, 28)
    for mine, public in zip(
        semantic(pixels, output_hidden_states=True).hidden_states,
        theirs(pixels, output_hidden_states=True).hidden_states,
        strict=True,
    ):
        torch.testing.assert_close(mine, public)
    geometry = load_teacher(TeacherRecipe(kind="vggt", folder=str(teachers / "geometry")))
    assert geometry is not None
    # Heads of DINOv2 have 64 channels; this small one has 8, so only the weights are compared.
    for name, value in geometry.encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name]), name


def test_shapes_that_do_not_fit_name_both_sides(
    vggt: Path, llava_3d: Path, tmp_path: Path
) -> None:
    weights = load_file(llava_3d / "model.safetensors")
    weights["model.mm_projector.0.weight"] = torch.zeros(DIM, 99)
    save_file(weights, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llava_3d / name).read_bytes())
    with pytest.raises(ValueError, match="llava_3d") as error:
        convert(tmp_path / "out", {"vggt": vggt, "llava_3d": tmp_path})
    assert f"projector.fc1.weight ({DIM}, {WIDTH})" in str(error.value)
    assert f"model.mm_projector.0.weight ({DIM}, 99)" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_half_a_part_is_refused(vggt: Path, tmp_path: Path) -> None:
    weights = load_file(vggt / "model.safetensors")
    del weights["camera_head.pose_branch.fc2.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"camera_head\.pose_branch\.fc2\.bias \(9,\)"):
        convert(tmp_path / "out", {"vggt": tmp_path})


def test_dinov2_encoder_beside_vggt_is_a_choice(vggt: Path, tmp_path: Path) -> None:
    theirs = dinov2_model()
    theirs.save_pretrained(tmp_path / "dinov2")
    wanted = {"vggt": vggt, "dinov2": tmp_path / "dinov2"}
    _, plan, sources = convert(tmp_path / "auto", wanted)
    assert "dinov2 was given and not used" in card_text("x", plan, sources, "command")
    model, plan, sources = convert(tmp_path / "dino", wanted, Choices(encoder="dinov2"))
    assert torch.equal(model.encoder.backbone.layernorm.weight, theirs.layernorm.weight)
    assert "need stage 1 first" in card_text("x", plan, sources, "command")
    kept = {piece.option for name, piece in plan.pieces.items() if name.startswith("aggregator")}
    assert kept == {"vggt"}


def test_report_accounts_for_every_tensor_of_both_sides(
    vggt: Path, llava_3d: Path, tmp_path: Path
) -> None:
    _, plan, sources = convert(tmp_path / "out", {"vggt": vggt, "llava_3d": llava_3d})
    report = report_of(plan, sources)
    for option, source in sources.items():
        entry = report["sources"][option]
        listed = [t["name"] for kind in ("used", "left_over") for t in entry[kind]]
        assert sorted(listed) == sorted(source.files.tensors)
    reached = {
        t["name"] for s in report["sources"].values() for u in s["used"] for t in u["targets"]
    }
    assert {m["name"] for m in report["missing"]} == set(plan.places) - reached
    card = card_text("vidllm-paper", plan, sources, "vidllm convert")
    for row in report["parts"]:
        assert f"`{row['part']}`" in card
    assert "**untrained**" in card
    written = set()
    for shard in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            written |= set(file.keys())
    assert written == set(plan.places)
