# SPDX-License-Identifier: Apache-2.0
"""The paper-size recipes start from converted weights: two steps of each stage at small sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from vidllm_ros.cli.convert import main
from vidllm_ros.network.checkpoint import load_vidllm
from vidllm_ros.training.build import build_trainer
from vidllm_ros.training.recipe import Recipe, recipe_from_dict

RECIPES = Path(__file__).resolve().parents[2] / "config" / "train"
SMALL_DATA = {
    "height": 42,
    "width": 56,
    "rooms": 2,
    "frames_per_batch": 4,
    "max_scenes": 1,
    "min_frames": 2,
    "max_frames": 2,
    "dense_frames": 2,
    "segments": 4,
    "captions": 1,
    "phrases": 1,
    "text_tokens": 300,
    "workers": 0,
}


def small_recipe(stage: int, **changes: Any) -> Recipe:
    """The published recipe with other folders, small frames and two steps."""
    values = yaml.safe_load((RECIPES / f"paper_stage{stage}.yaml").read_text())
    values["data"] = {**values["data"], **SMALL_DATA}
    return recipe_from_dict(
        {**values, "total_steps": 2, "precision": "no", "threads": 1, "log_every": 1, **changes}
    )


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint with both teachers, two times eight channels wide."""
    home = tmp_path_factory.mktemp("public")
    torch.manual_seed(0)
    backbone = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        )
    )
    backbone.save_pretrained(home / "dinov2")
    tower = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    CLIPVisionModel(tower).save_pretrained(home / "clip")
    line = f"--dinov2 {home / 'dinov2'} --clip {home / 'clip'} --out {home / 'paper'} --size nano"
    settings = (
        "dense_features=8 dense_channels=[8,8,8,8] metric_features=8 metric_channels=[8,8,8,8] "
        "metric_embedding=8 grounding_dim=16 grounding_queries=8"
    )
    arguments = [part for text in settings.split() for part in ("--set", text)]
    assert main([*line.split(), *arguments]) == 0
    # A geometry teacher in VGGT's layout: DINOv2's original names under VGGT's prefix.
    source = backbone.state_dict()
    teacher = {}
    for name, value in source.items():
        target = name.replace("embeddings.position_embeddings", "pos_embed")
        target = target.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        target = target.replace("embeddings.", "").replace("layernorm.", "norm.")
        target = target.replace("encoder.layer.", "blocks.")
        target = target.replace("layer_scale1.lambda1", "ls1.gamma")
        target = target.replace("layer_scale2.lambda1", "ls2.gamma")
        target = target.replace("attention.o_proj", "attn.proj")
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            value = torch.cat([source[name.replace("q_proj", f"{p}_proj")] for p in "qkv"])
            target = target.replace("attention.q_proj", "attn.qkv")
        teacher[f"aggregator.patch_embed.{target}"] = value.clone()
    (home / "geometry").mkdir()
    save_file(teacher, home / "geometry" / "model.safetensors")
    return home


def test_two_steps_of_stage_one_and_two(public: Path, tmp_path: Path) -> None:
    before = load_vidllm(public / "paper").state_dict()
    first = small_recipe(
        1,
        init=str(public / "paper"),
        geometry_teacher={"kind": "vggt", "folder": str(public / "geometry")},
        semantic_teacher={
            "kind": "clip",
            "folder": str(public / "paper/teachers/semantic"),
            "image_size": 28,
        },
    )
    state = build_trainer(first, tmp_path / "stage1").run()
    assert state.step == 2
    assert {"distil_geometry", "distil_semantic", "distil_structure"} <= set(state.smooth)
    second = small_recipe(2, init=str(tmp_path / "stage1"))
    trainer = build_trainer(second, tmp_path / "stage2")
    assert trainer.model.config.scale_alignment == "least_squares"
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.run().step == 2
    assert {"camera", "depth", "metric", "language"} <= set(trainer.state.smooth)

    def moved(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
        return {
            name.partition(".")[0] for name in new if not torch.equal(old[name].cpu(), new[name])
        }

    assert moved(before, start) == {"encoder", "adapter"}
    assert {"aggregator", "camera_head", "metric_depth", "language", "grounding"} <= moved(
        start, trainer.model.state_dict()
    )


def test_recipes_are_the_papers_optimizer() -> None:
    for stage in (1, 2):
        optimizer = small_recipe(stage).optimizer
        assert (optimizer.name, optimizer.betas, optimizer.weight_decay, optimizer.clip) == (
            "adamw",
            (0.9, 0.999),
            0.05,
            1.0,
        )
