# SPDX-License-Identifier: Apache-2.0
"""A stopped run goes on as if it had not stopped: teachers, stage 1 and stage 2 from recipes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vidllm_ros.data.synthrooms.storage import save_sample
from vidllm_ros.training import build, recipe
from vidllm_ros.training.run_log import Validated

TIMES = {"seconds", "data_s", "step_s", "progress"}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
CLIP = {
    "projection_dim": 24,
    "vision_config": {**SMALL, "num_attention_heads": 2, "image_size": 42, "patch_size": 14},
    "text_config": {
        **SMALL,
        "num_attention_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 48,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
}


def draw(stage: torch.nn.Module, folder: Path, step: int) -> Validated:
    """Use up chances, as a look at rooms does."""
    return Validated({"chance": float(torch.rand(7).sum() + np.random.rand())})


def rows(folder: Path) -> list[dict[str, float]]:
    read = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read]


def same_curve(tmp_path: Path, made: recipe.Recipe) -> Path:
    """Train at once and in two parts with looks between; return the second's folder."""
    name = made.name
    whole, parts = tmp_path / f"{name}_whole", tmp_path / f"{name}_parts"
    build.build_trainer(made, whole).run()
    looking = replace(made, validation=recipe.ValidationRecipe(rooms=1, every_steps=1))
    build.build_trainer(looking, parts, draw).run(2)
    torch.rand(50)
    second = build.build_trainer(looking, parts, draw)
    assert second.load()
    second.run()
    assert rows(parts) == rows(whole), name
    assert len(rows(parts)) == made.total_steps
    curve = [json.loads(line) for line in (parts / "curve.jsonl").read_text().splitlines()]
    assert {row["step"] for row in curve} == {1, 2, 3}
    ended = (parts / "log.jsonl").read_bytes()
    third = build.build_trainer(looking, parts, draw)
    assert third.load()
    third.run()
    assert (parts / "log.jsonl").read_bytes() == ended
    return parts


def test_every_stage_continues_its_curve(tmp_path, monkeypatch, make_recipe, make_sample):
    for seed in range(3):
        save_sample(tmp_path / "rooms" / f"room{seed}.npz", make_sample(seed))
    monkeypatch.setattr(
        build, "annotate_frames", lambda room, frames, seed, rounds: room.select(frames)
    )
    monkeypatch.setattr(build, "TOKENIZER_ROOMS", 3)
    base = make_recipe(total_steps=3, log_every=1)
    base = replace(base, data=replace(base.data, folder=str(tmp_path / "rooms")))
    silent = replace(base.losses, language=0, grounding=0, oracle_label=0, oracle_color=0)
    geometry = same_curve(tmp_path, replace(base, name="geometry", losses=silent))
    words = replace(base, name="semantic", stage="image_text", model=CLIP)
    semantic = same_curve(tmp_path, words)
    teachers = {
        "geometry_teacher": recipe.TeacherRecipe("encoder", str(geometry)),
        "semantic_teacher": recipe.TeacherRecipe("clip", str(semantic)),
    }
    first = same_curve(tmp_path, replace(base, name="stage1", stage="distil", **teachers))
    saved = torch.load(first / "checkpoint.pt", weights_only=False)["stage"]
    assert all(name.startswith(("model.", "heads.")) for name in saved)  # no teacher is kept
    second = same_curve(tmp_path, replace(base, name="stage2", model={}, init=str(first)))
    words = replace(base, name="words", stage="words", model={}, init=str(second))
    last = same_curve(
        tmp_path,  # two of the scenes remembered
        replace(words, replay_scenes=4, replay_variety=0.4, true_looks=0.5, seed=4),
    )
    old = torch.load(last / "checkpoint.pt", weights_only=False)
    assert len(old["stage"].pop("_extra_state")) == 6
    torch.save(old, last / "checkpoint.pt")
    assert build.build_trainer(words, last).load()  # a checkpoint from before memory was kept
