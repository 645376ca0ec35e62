# SPDX-License-Identifier: Apache-2.0
"""The loop with a stage of a few weights: resume, stop, refuse, schedule."""

import json
import os
import signal
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from vidllm_ros.training import build, checkpoint, optimizer, recipe, trainer
from vidllm_ros.training.stage_output import StageOutput


@dataclass(frozen=True)
class Numbers:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device: torch.device) -> "Numbers":
        return Numbers(self.x.to(device), self.y.to(device))


class Lines(Dataset):
    def __init__(self, spoil: int = -1) -> None:
        self.spoil = spoil

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Numbers:
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(8, 16, generator=generator)
        y = x.sum(1, keepdim=True)
        return Numbers(x, y * (float("nan") if index == self.spoil else 1.0))


class Fit(nn.Module):
    def __init__(self, kill_at: int = -1) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 1))
        self.kill_at, self.calls = kill_at, 0

    def forward(self, batch: Numbers, progress: float) -> StageOutput:
        self.calls += 1
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        noise = torch.rand(())  # consumes the generator, as dropout would
        loss = (self.model(batch.x) - batch.y).square().mean() * (1 + 0.1 * noise)
        return StageOutput(loss, {"noise": noise}, len(batch.x))


def tiny(**changes: object) -> recipe.Recipe:
    base = recipe.Recipe(
        total_steps=40,
        precision="no",
        log_every=1,
        data=recipe.DataRecipe(workers=0),
        optimizer=recipe.OptimizerRecipe(lr=1e-2),
    )
    return replace(base, **changes)


def start(folder, made=None, stage=None, spoil=-1) -> trainer.Trainer:
    trainer.seed_everything(0)
    return trainer.Trainer(made or tiny(), stage or Fit(), Lines(spoil), folder)


def curve(folder) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["noise"], row["lr_factor"]) for row in rows]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_resume_continues_the_same_curve(tmp_path, name):
    made = tiny(optimizer=recipe.OptimizerRecipe(name=name, lr=1e-2))
    start(tmp_path / "whole", made).run()
    first = start(tmp_path / "parts", made)
    first.run(17)
    assert first.state.step == 17
    torch.rand(100)  # whatever happens in between
    second = start(tmp_path / "parts", made)
    assert second.load()
    second.run()
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    whole, parts = (
        torch.load(tmp_path / n / "checkpoint.pt", weights_only=False) for n in ("whole", "parts")
    )
    for kind in ("stage", "average"):
        ours, theirs = (
            side[kind] if kind == "stage" else side[kind]["weights"] for side in (whole, parts)
        )
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("stage", ["words", "joint"])
def test_a_run_goes_on_with_the_parts_that_learnt(tmp_path, stage):
    made = tiny(stage=stage, learn=("grounding",))
    kept = tmp_path / build.RECIPE
    build.refuse_other_parts(made, kept)  # a run that begins
    kept.write_text("learn: [grounding]\n")
    build.refuse_other_parts(made, kept)
    for other in ((), ("box_features",)):
        with pytest.raises(ValueError, match=r"learn: expected \['grounding'\] as the run in .*"):
            build.build_trainer(replace(made, learn=other), tmp_path)
    assert kept.read_text() == "learn: [grounding]\n"
    kept.write_text(f"stage: {stage}\n")  # from before there were parts
    build.refuse_other_parts(tiny(stage=stage), kept)


def test_it_learns_and_leaves_logs(tmp_path):
    run = start(tmp_path, tiny(total_steps=150))
    run.run()
    losses = [row[1] for row in curve(tmp_path)]
    assert losses[-1] < 0.3 * losses[0]
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert not run.load(tmp_path / "nowhere.pt")


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(tmp_path):
    run = start(tmp_path, spoil=5)
    with pytest.raises(trainer.NotFiniteError, match="the loss is nan"):
        run.run()
    saved = torch.load(tmp_path / "not_finite_step5.pt", weights_only=False)
    assert saved["batch"].y.isnan().all()
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_sigterm_saves_and_ends(tmp_path):
    run = start(tmp_path, stage=Fit(kill_at=7))
    handler = signal.getsignal(signal.SIGTERM)
    run.run()
    assert run.state.step == 7
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=False)["state"]["step"] == 7
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    run = start(tmp_path)
    run.run(3)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(
        checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        run.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_time_ends_a_run_as_steps_do(tmp_path):
    run = start(tmp_path, tiny(max_minutes=10.0))
    run.state.seconds = 300.0
    assert run.progress == 0.5
    run.state.step = 30
    assert run.progress == 0.75


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_schedules_warm_up_and_end(schedule):
    made = recipe.OptimizerRecipe(schedule=schedule, warmup=0.1, decay=0.3, final=0.02)
    factors = [optimizer.lr_factor(i / 100, made) for i in range(101)]
    assert factors[0] < 0.02
    assert factors[5] == pytest.approx(0.5)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(1.0 if schedule == "constant" else 0.02)
    assert all(b <= a + 1e-9 for a, b in pairwise(factors[10:]))


def test_muon_takes_hidden_matrices_only():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(50, 32)
            self.fc = nn.Linear(32, 32)
            self.register_token = nn.Parameter(torch.zeros(1, 2, 32))
            self.last = nn.Linear(32, 9)

    names = dict(Net().named_parameters())
    matrices, decayed, free = optimizer.split_parameters(names.items(), muon=True)
    assert [p.shape for p in matrices] == [(32, 32)]
    assert {p.shape for p in decayed} == {(9, 32)}
    assert len(free) == 4
    assert len(matrices) + len(decayed) + len(free) == len(names)


def test_average_forgets_the_start_and_then_lags():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = optimizer.WeightAverage(module, 0.9)
    nn.init.ones_(module.weight)
    values = []
    for _ in range(60):
        average.update(module)
        values.append(average.weights["weight"].item())
    assert values[0] > 0.5
    assert values[-1] == pytest.approx(1.0, abs=1e-2)


def test_recipes_say_what_is_wrong(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("optimizer: {lr: 1e-4, name: muon}\nlosses: {boxes: {center: 3}}\n")
    made = recipe.load_recipe(path)
    assert made.optimizer.lr == 1e-4
    assert made.losses.boxes.center == 3.0
    assert recipe.recipe_from_dict(made.as_dict()) == made
    for wrong, fix in (("muon_rl", "did you mean muon_lr[?]$"), ("speed", "there are .*, lr, ")):
        path.write_text(f"optimizer: {{{wrong}: 1}}\n")
        message = rf"optimizer: expected the name of a setting, got {wrong}; {fix}"
        with pytest.raises(ValueError, match=message):
            recipe.load_recipe(path)
    path.write_text("model: {groundig_layers: 3, patch_sise: 14}\n")
    with pytest.raises(ValueError, match="got groundig_layers; did you mean grounding_layers"):
        recipe.load_recipe(path)
    path.write_text("stage: image_text\nmodel: {projection_dimm: 3}\n")
    with pytest.raises(ValueError, match=r"r\.yaml\.model: .*did you mean projection_dim\?"):
        recipe.load_recipe(path)
    for inside, said in (
        ("encoder: {hiden_size: 3}", "encoder: .*got hiden_size; did you mean hidden_size"),
        ("encoder: 3", "encoder: expected fields by name, got 3"),
        ("language: {model_type: llama, vocab: 4}", "language: .*; did you mean vocab_size"),
        ("language: {model_type: lama}", "language.model_type: expected one that .* got 'lama'"),
        ("language: {hidden_size: 8}", "language.model_type: expected one that .* got None"),
        ("language: {model_type: [llama]}", "language.model_type: expected one that .* got "),
    ):
        path.write_text(f"model: {{{inside}}}\n")
        with pytest.raises(ValueError, match=rf"r\.yaml\.model\.{said}"):
            recipe.load_recipe(path)
    for inside in ("model_type: llama, rope_theta: 1e4", "model_type: gpt2, hidden_size: 8"):
        path.write_text(f"model: {{language: {{{inside}}}}}\n")
        recipe.load_recipe(path)  # names transformers takes, though its classes do not list them
    path.write_text("stage: image_text\nmodel: {text_config: {hiden_size: 3}}\n")
    with pytest.raises(ValueError, match=r"model\.text_config: .*did you mean hidden_size\?"):
        recipe.load_recipe(path)
    for wrong in ("model: 3", "model:", "optimizer: 3", "model: [image_size]"):
        path.write_text(wrong + "\n")
        with pytest.raises(ValueError, match=r"expected (settings|fields) by name, got "):
            recipe.load_recipe(path)
    path.write_text("name: [1\n")
    with pytest.raises(ValueError, match=r"expected YAML in .*r\.yaml, got an error: .*line 2"):
        recipe.load_recipe(path)
    for wrong in ("1: 2", "yes: 2", "model: {1: 2}"):
        path.write_text(wrong + "\n")
        with pytest.raises(ValueError, match=r"expected the name of a setting, got (1|True); "):
            recipe.load_recipe(path)
    path.write_text("optimizer: {name: sgd}\n")
    with pytest.raises(ValueError, match=r"optimizer\.name: expected one of"):
        recipe.load_recipe(path)
    with pytest.raises(FileNotFoundError, match="config/train"):
        recipe.load_recipe(tmp_path / "no.yaml")
