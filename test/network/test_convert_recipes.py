# SPDX-License-Identifier: Apache-2.0
"""The paper-size recipes start from converted weights: two steps of each stage at small sizes.

In one process, and as they are launched: in two with half of every weight each, through the
command, stage 2 from what stage 1 wrote, exported by one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
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
from vidllm_ros.training.build import build_trainer, plain
from vidllm_ros.training.recipe import Recipe, recipe_from_dict
from vidllm_ros.training.run_folder import run_weights

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "config" / "train"
NOT_COMPARED = {"seconds", "data_s", "step_s"}
SMALL_DATA = {
    "height": 42,
    "width": 56,
    "rooms": 2,
    "frames_per_batch": 4,
    "max_scenes": 2,
    "min_frames": 2,
    "max_frames": 2,
    "dense_frames": 2,
    "segments": 4,
    "captions": 1,
    "phrases": 1,
    "text_tokens": 300,
    "workers": 0,
}
SCRIPT = """
import sys
from pathlib import Path
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch.distributed.tensor import DTensor
from vidllm_ros.cli import train
from vidllm_ros.training import export
from vidllm_ros.training.trainer import Trainer

home = Path(sys.argv[1])
rank = PartialState(cpu=True).process_index
run, export_model = Trainer.run, export.export_model

def look(trainer, *limits):
    assert all(isinstance(p, DTensor) for p in trainer.plain_stage.model.parameters())
    return run(trainer, *limits)

def note(*arguments):
    (home / f"exported_by_{rank}").touch()
    return export_model(*arguments)

Trainer.run, export.export_model, export.MAX_BUNDLED_BYTES = look, note, 1000
one, two = [f"--config {home}/stage{n}.yaml --out {home}/stage{n}".split() for n in (1, 2)]
assert train.main(one) == 0
AcceleratorState._reset_state()
assert train.main([*two, "--export", str(home / "model")]) == 0
"""


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


@pytest.fixture(scope="module")
def first(public: Path) -> Recipe:
    """Stage 1 from the converted checkpoint."""
    return small_recipe(
        1,
        init=str(public / "paper"),
        geometry_teacher={"kind": "vggt", "folder": str(public / "geometry")},
        semantic_teacher={
            "kind": "clip",
            "folder": str(public / "paper/teachers/semantic"),
            "image_size": 28,
        },
    )


@pytest.fixture(scope="module")
def alone(first: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both stages' runs in one process."""
    home = tmp_path_factory.mktemp("alone")
    assert build_trainer(first, home / "stage1").run().step == 2
    second = small_recipe(2, init=str(home / "stage1"))
    trainer = build_trainer(second, home / "stage2")
    torch.save(trainer.model.state_dict(), home / "start.pt")
    assert trainer.model.config.scale_alignment == "least_squares"
    assert trainer.run().step == 2
    return home


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_steps_of_stage_one_and_two(public: Path, alone: Path) -> None:
    before = load_vidllm(public / "paper").state_dict()
    assert {"distil_geometry", "distil_semantic", "distil_structure"} <= set(
        rows(alone / "stage1")[-1]
    )
    assert {"camera", "depth", "metric", "language"} <= set(rows(alone / "stage2")[-1])
    start, end = torch.load(alone / "start.pt"), run_weights(alone / "stage2")

    def moved(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
        return {
            name.partition(".")[0] for name in new if not torch.equal(old[name].cpu(), new[name])
        }

    assert moved(before, start) == {"encoder", "adapter"}
    assert {"aggregator", "camera_head", "metric_depth", "language", "grounding"} <= moved(
        start, end
    )


@pytest.mark.slow
def test_the_stages_as_launched_with_shards(first: Recipe, alone: Path, tmp_path: Path) -> None:
    second = replace(small_recipe(2, init=str(tmp_path / "stage1")), shard=True)
    for number, made in ((1, first), (2, second)):
        values = yaml.safe_dump(plain(made.as_dict()))
        (tmp_path / f"stage{number}.yaml").write_text(values)
    (tmp_path / "run.py").write_text(SCRIPT)
    launch = "-m accelerate.commands.launch --use_fsdp --fsdp_version 2 --num_processes 2"
    rest = "--num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    command = [sys.executable, *launch.split(), *rest.split(), "run.py", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, timeout=280)
    for stage in ("stage1", "stage2"):
        for one, two in zip(rows(alone / stage), rows(tmp_path / stage), strict=True):
            assert set(one) == set(two)
            for name in set(one) - NOT_COMPARED:
                assert two[name] == pytest.approx(one[name], rel=2e-3, abs=2e-4), (stage, name)
    assert [file.name for file in tmp_path.glob("exported_by_*")] == ["exported_by_0"]
    shipped, learnt = (
        load_vidllm(tmp_path / "model").state_dict(),
        run_weights(tmp_path / "stage2"),
    )
    for name, value in shipped.items():
        assert torch.equal(value, learnt[name].bfloat16().float()), name


def test_recipes_are_the_papers_optimizer() -> None:
    for stage in (1, 2):
        optimizer = small_recipe(stage).optimizer
        assert (optimizer.name, optimizer.betas, optimizer.weight_decay, optimizer.clip) == (
            "adamw",
            (0.9, 0.999),
            0.05,
            1.0,
        )
