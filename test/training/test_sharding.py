# SPDX-License-Identifier: Apache-2.0
"""Two processes with half of every weight each learn what one process with all of them learns."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from vidllm_ros.data.synthrooms.storage import save_sample
from vidllm_ros.training import build, sharding
from vidllm_ros.training.build import plain
from vidllm_ros.training.recipe import LossRecipe, OptimizerRecipe, Recipe, recipe_from_dict

ROOT = Path(__file__).parents[2]
NOT_COMPARED = {"seconds", "data_s", "step_s", "scenes"}
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from accelerate.state import AcceleratorState
from torch.distributed.tensor import DTensor
from vidllm_ros.training import build
from vidllm_ros.training.recipe import load_recipe, ValidationRecipe
from vidllm_ros.training.run_log import Validated

build.annotate_frames = lambda room, frames, seed, rounds: room.select(frames)
build.TOKENIZER_ROOMS = 3
made, home = load_recipe(sys.argv[1]), Path(sys.argv[2])

def look(stage, folder, step):  # whole, in one process while the other waits
    assert not any(isinstance(p, DTensor) for p in stage.parameters())
    with torch.inference_mode():
        depth = stage.model.geometry(torch.full((1, 2, 3, 28, 42), 0.5)).depth_rel
    return Validated({"depth": float(depth.sum())})

looking = replace(made, validation=ValidationRecipe(rooms=1, every_steps=1))
first = build.build_trainer(looking, home / "sharded", look)
weights = list(first.plain_stage.parameters())
held = sum(p.to_local().numel() for p in weights)
assert held < 0.6 * sum(p.numel() for p in weights), held
first.run(2)
assert all(isinstance(p, DTensor) for p in first.plain_stage.parameters())
moments = first.optimizer.parts[0].state.values()
assert all(isinstance(m["exp_avg"], DTensor) for m in moments)
later = build.build_trainer(made, home / "sharded_later")
assert later.load(home / "two_steps.pt")
later.run()
AcceleratorState._reset_state()
build.build_trainer(replace(made, precision="bf16", recompute=True), home / "half").run(1)
"""


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(one: dict[str, float], two: dict[str, float], rel: float = 2e-3) -> None:
    assert set(one) == set(two)
    for name in set(one) - NOT_COMPARED:
        assert two[name] == pytest.approx(one[name], rel=rel, abs=2e-4), name


@pytest.mark.slow
def test_shards_learn_what_the_whole_learns(tmp_path, monkeypatch, make_recipe, make_sample):
    monkeypatch.setattr(
        build, "annotate_frames", lambda room, frames, seed, rounds: room.select(frames)
    )
    monkeypatch.setattr(build, "TOKENIZER_ROOMS", 3)
    for seed in range(4):
        save_sample(tmp_path / "rooms" / f"room{seed}.npz", make_sample(seed))
    values = plain(make_recipe().as_dict())
    values["data"] |= {"folder": str(tmp_path / "rooms"), "min_frames": 2, "max_frames": 2}
    values |= {"total_steps": 3, "log_every": 1, "own_geometry": [0.0, 0.0], "threads": 1}
    values["optimizer"] |= {"warmup": 0.5, "ema": 0.9}
    config, script = tmp_path / "tiny.yaml", tmp_path / "run.py"
    whole = recipe_from_dict(values)
    single = build.build_trainer(whole, tmp_path / "single")
    single.run(2)
    (tmp_path / "single" / "checkpoint.pt").rename(tmp_path / "two_steps.pt")
    single.run()
    config.write_text(yaml.safe_dump({**values, "shard": True}))
    script.write_text(SCRIPT)
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *run, str(script), str(config), str(tmp_path)]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=280)
    expected = rows(tmp_path / "single")
    for one, two in zip(expected, rows(tmp_path / "sharded"), strict=False):
        same(one, two)
    # What shards wrote is whole, and one process goes on from it; and the other way round.
    saved = torch.load(tmp_path / "sharded" / "checkpoint.pt", weights_only=False)
    assert {n: v.shape for n, v in saved["stage"].items()} == {
        n: v.shape for n, v in single.plain_stage.state_dict().items()
    }
    assert all(type(v) is torch.Tensor for v in saved["average"]["weights"].values())
    again = build.build_trainer(whole, tmp_path / "again")
    assert again.load(tmp_path / "sharded" / "checkpoint.pt")
    again.run()
    same(expected[2], rows(tmp_path / "again")[0])
    same(expected[2], rows(tmp_path / "sharded_later")[0])
    looks = [json.loads(line) for line in (tmp_path / "sharded/curve.jsonl").open()]
    assert [look["step"] for look in looks] == [1, 2]
    # bfloat16 with layers computed again, against float32: the same up to bfloat16's rounding.
    assert rows(tmp_path / "half")[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.05)


def test_a_launch_with_fsdp_shards_and_loads_whole_teachers(monkeypatch):
    made = Recipe()
    assert not sharding.is_wanted(made, 2)
    monkeypatch.setenv(sharding.LAUNCHED, "true")
    monkeypatch.setenv(sharding.OWN_LAYERS, "true")
    assert sharding.is_wanted(made, 2)
    assert os.environ[sharding.OWN_LAYERS] == "false"


@pytest.mark.parametrize("name", sorted(sharding.REFUSED))
def test_what_does_not_go_with_shards_is_refused(monkeypatch, name):
    monkeypatch.setenv(sharding.OWN_LAYERS, "false")
    guided = replace(Recipe(shard=True), losses=LossRecipe(guide_attention=0.1))
    with pytest.raises(ValueError, match="guide_attention: expected 0 in a sharded run"):
        sharding.is_wanted(guided, 2)
    monkeypatch.setenv(name, "true")
    with pytest.raises(ValueError, match=f"{name}: expected false"):
        sharding.is_wanted(Recipe(shard=True), 2)


def test_muon_is_refused_where_shards_would_be_and_alone_nothing_is(monkeypatch):
    monkeypatch.setenv(sharding.OWN_LAYERS, "false")
    muon = replace(Recipe(shard=True), optimizer=OptimizerRecipe(name="muon"))
    with pytest.raises(ValueError, match=r"optimizer\.name: expected adamw in a sharded run"):
        sharding.is_wanted(muon, 2)
    monkeypatch.setenv(sharding.LAUNCHED, "true")
    with pytest.raises(ValueError, match=r"optimizer\.name: expected adamw in a sharded run"):
        sharding.is_wanted(replace(muon, shard=False), 2)
    guided = replace(muon, losses=LossRecipe(guide_attention=0.1))
    assert not sharding.is_wanted(guided, 1)


def test_layers_are_those_the_networks_declare(tiny_model):
    stage = nn.Module()
    stage.model = tiny_model
    names = sharding.layer_names(stage)
    assert {"Block", "LlamaDecoderLayer", "Dinov2WithRegistersLayer"} <= set(names)


def test_layers_computed_again_give_the_same_gradient(tiny_model):
    stage = nn.Module()
    stage.model = tiny_model
    images = torch.rand(1, 2, 3, 28, 42, generator=torch.Generator().manual_seed(1))

    def gradient() -> tuple[torch.Tensor, int]:
        kept = 0

        def note(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        tiny_model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = tiny_model.geometry(images).depth_rel.square().mean()
        loss.backward()
        return tiny_model.encoder.backbone.embeddings.cls_token.grad.clone(), kept

    before, much = gradient()
    sharding.recompute_layers(stage)
    after, little = gradient()
    torch.testing.assert_close(after, before)
    assert little < 0.7 * much
