# SPDX-License-Identifier: Apache-2.0
"""The joint and the distilling stage on a tiny network; export; the command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional

from vidllm_ros.cli import train as train_command
from vidllm_ros.data.synthrooms import LABELS
from vidllm_ros.data.synthrooms.storage import save_sample
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training import (
    build,
    distillation,
    export,
    model_card,
    optimizer,
    recipe,
    stages,
    words,
    words_stage,
)

COLORS = ("red", "blue")


@pytest.fixture
def model(tiny_model: VidLLM) -> VidLLM:
    return tiny_model


@pytest.fixture
def joint(make_recipe) -> Callable[..., stages.JointStage]:
    def build_joint(model: VidLLM, **changes: object) -> stages.JointStage:
        return stages.JointStage(model, make_recipe(**changes), len(LABELS), len(COLORS))

    return build_joint


def test_a_mirrored_batch_keeps_patch_and_label_together(batch):
    turned = stages.mirrored(batch, 14)
    back = stages.mirrored(turned, 14)
    assert torch.equal(back.images, batch.images)
    assert torch.equal(back.patch_labels, batch.patch_labels)
    columns = batch.images.shape[-1] // 14
    for name in ("patch_labels", "patch_colors", "patch_objects"):
        rows = getattr(batch, name).unflatten(-1, (-1, columns))
        assert torch.equal(getattr(turned, name).unflatten(-1, (-1, columns)), rows.flip(-1))
    assert torch.equal(turned.images[..., 0], batch.images[..., -1])
    assert not torch.equal(turned.patch_labels, batch.patch_labels)


def test_only_what_is_told_by_patch_is_mirrored(make_recipe):
    with pytest.raises(ValueError, match="left from right"):
        make_recipe(data=recipe.DataRecipe(mirror=0.5))
    with pytest.raises(ValueError, match="mirror: expected a share"):
        recipe.DataRecipe(mirror=1.5)
    with pytest.raises(ValueError, match="oracle_balance"):
        recipe.LossRecipe(oracle_balance=2.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_stage_one_mirrors_while_it_learns(model, batch, make_recipe, share):
    made = make_recipe(
        stage="distil",
        semantic_teacher=recipe.TeacherRecipe("oracle"),
        data=recipe.DataRecipe(mirror=share),
    )
    oracle = distillation.OracleTeacher(model.config.width, len(LABELS), len(COLORS))
    stage = stages.DistilStage(model, None, None, made, oracle)
    seen = []
    stage.model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    stage(batch, 0.0)
    stage.eval()
    stage(batch, 0.0)
    assert torch.equal(seen[0], batch.images.flip(-1) if share else batch.images)
    assert torch.equal(seen[1], batch.images)


def test_one_batch_is_learnt_by_heart(model, batch, joint):
    stage = joint(model)
    mover = optimizer.Optimizer(
        stage, recipe.OptimizerRecipe(name="muon", lr=3e-3, schedule="constant", warmup=0.01)
    )
    first = last = None
    right = []
    for _ in range(60):
        output = stage(batch, 0.0)
        output.loss.backward()
        mover.step(0.5)
        first = first or output
        last = output
        right.append(float(output.terms["given_match_top1"]))
    assert last.scenes == 2
    for term in ("language", "camera", "metric", "oracle_label", "match", "boxes_1"):
        assert last.terms[term] < 0.6 * first.terms[term], term
    assert sorted(right[-20:])[10] > 0.9  # of 11 phrases, one or two waver at this rate


def test_words_and_boxes_do_not_move_the_reconstruction(model, batch, joint):
    only_words = recipe.LossRecipe(
        camera=0, depth=0, points=0, metric=0, oracle_label=0, oracle_color=0
    )
    for progress in (0.0, 1.0):  # true geometry, then the network's own
        model.zero_grad(set_to_none=True)
        joint(model, losses=only_words)(batch, progress).loss.backward()
        for part in ("aggregator", "camera_head", "depth_head", "point_head", "metric_depth"):
            for parameter in getattr(model, part).parameters():
                assert parameter.grad is None or not parameter.grad.any(), part
        for part in ("encoder", "adapter", "language", "grounding", "box_features", "projector"):
            moved = [
                p.grad.abs().sum() for p in getattr(model, part).parameters() if p.grad is not None
            ]
            assert sum(moved) > 0, part


def test_reconstruction_does_not_move_words_and_boxes(model, batch, joint):
    only_geometry = recipe.LossRecipe(language=0, grounding=0, oracle_label=0, oracle_color=0)
    joint(model, losses=only_geometry)(batch, 0.0).loss.backward()
    for part in ("language", "grounding", "box_features", "projector", "patches"):
        assert all(p.grad is None for p in getattr(model, part).parameters()), part
    assert all(p.grad is not None for p in model.camera_head.trunk.parameters())


def test_share_of_own_geometry_rises(make_recipe):
    made = make_recipe(own_geometry=(0.2, 0.6), own_geometry_share=0.8)
    shares = [stages.own_geometry_share(p, made) for p in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert shares == pytest.approx([0.0, 0.0, 0.4, 0.8, 0.8])


def test_language_loss_is_the_mean_over_learnt_tokens():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 3, -100, 2, -100], [1, -100, -100, -100, -100]])
    plain = [
        functional.cross_entropy(logits[b, t], labels[b, t]) for b, t in ((0, 1), (0, 3), (1, 0))
    ]
    assert words.language_loss(logits, labels) == pytest.approx(sum(plain).item() / 3, rel=1e-5)
    nothing = torch.full_like(labels, -100)
    assert words.language_loss(logits, nothing).item() == 0.0


def test_box_batch_keeps_order_and_repeats(batch):
    targets = words.box_targets(batch, torch.eye(4).repeat(len(batch.boxes), 1, 1))
    boxes = words.box_batch(targets, [(1, 0, 1), ()])
    assert boxes.center.shape == (2, 3, 3)
    assert torch.equal(boxes.center[0], targets[0].center[[1, 0, 1]])
    assert torch.equal(boxes.size[1], torch.ones(3, 3))


def test_the_command_trains_goes_on_exports_and_writes_the_card(
    tmp_path, monkeypatch, capsys, make_recipe, make_sample
):
    rooms, run, shipped = tmp_path / "rooms", tmp_path / "run", tmp_path / "model"
    for seed in range(3):
        save_sample(rooms / f"room{seed}.npz", make_sample(seed))
    values = make_recipe().as_dict()
    values["data"]["folder"] = str(rooms)
    values["data"]["question_rounds"] = 3
    values["total_steps"], values["log_every"] = 4, 1
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    rounds_asked = set()
    monkeypatch.setattr(
        build,
        "annotate_frames",
        lambda room, frames, seed, rounds: rounds_asked.add(rounds) or room.select(frames),
    )
    monkeypatch.setattr(build, "TOKENIZER_ROOMS", 3)
    arguments = ["--config", str(config), "--out", str(run)]
    assert train_command.main([*arguments, "--steps", "2"]) == 0
    assert train_command.main([*arguments, "--export", str(shipped)]) == 0
    assert "goes on from step 2" in capsys.readouterr().err
    assert rounds_asked == {3}
    steps = [json.loads(row)["step"] for row in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    loaded = VidLLM.from_pretrained(shipped)
    assert loaded.point_head is None
    stored = load_file(next(shipped.glob("*.safetensors")))
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    averaged = torch.load(run / "checkpoint.pt", weights_only=False)["average"]["weights"]
    for name, value in loaded.state_dict().items():
        shipped_value = averaged[name].bfloat16().to(value.dtype)
        assert torch.equal(value, shipped_value), name
    # The repository's limit is the bundled model's alone; what is refused leaves the folder.
    monkeypatch.setattr(export, "MAX_BUNDLED_BYTES", 1000)
    assert train_command.main([*arguments, "--export", str(shipped), "--export-only"]) == 0
    bundled = shipped.rename(tmp_path / "vidllm-nano")
    before = {file.name: file.stat().st_mtime_ns for file in bundled.iterdir()}
    assert train_command.main([*arguments, "--export", str(bundled), "--export-only"]) == 1
    assert "export: expected at most 1000 bytes" in capsys.readouterr().err
    assert before == {file.name: file.stat().st_mtime_ns for file in bundled.iterdir()}
    shipped = bundled.rename(shipped)
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"depth_absrel": 0.1, "baseline_constant_depth_absrel": 0.3}))
    again = [*arguments, "--export", str(shipped), "--export-only", "--report", str(report)]
    assert train_command.main(again) == 0
    card = (shipped / "README.md").read_text()
    assert "| depth AbsRel | 0.100 | 0.300 | constant depth |" in card
    assert "pose mAA" not in card
    assert "3 rooms, 8 windows" in card


def test_a_card_says_what_is_not_beaten():
    report = {"pose_maa30": 0.1, "baseline_still_pose_maa30": 0.2, "qa_em": 0.5}
    text = model_card.table(report)
    assert "still camera (not beaten)" in text
    assert "text-only" not in text


def test_recipes_of_the_repository_are_whole():
    for path in sorted((Path(__file__).parents[2] / "config" / "train").glob("*.yaml")):
        made = recipe.load_recipe(path)
        assert VidLLMConfig(**dict(made.model)).patch_size == 14


def test_the_joint_stage_refuses_votes_before_it_writes(tmp_path, tiny_fields, make_recipe):
    made = make_recipe(model={**tiny_fields, "grounding_votes": True})
    folder = tmp_path / "run" / "model"
    with pytest.raises(ValueError, match="grounding_votes: expected false in the joint stage"):
        build.build_stage(made, folder, build.loader_settings(made, 14))
    assert not folder.exists()


def test_metric_depth_is_taught_for_the_canonical_camera(model, batch, joint):
    """Scaling lens and depth alike leaves what is to be learnt as it was."""
    only_metric = recipe.LossRecipe(
        camera=0, depth=0, points=0, language=0, grounding=0, oracle_label=0, oracle_color=0
    )
    longer = replace(batch, K=batch.K * torch.tensor([[2.0], [2.0], [1.0]]), depth=2 * batch.depth)
    found = {}
    for focal in (0.0, 0.8):
        model.config.metric_focal = focal
        stage = joint(model, losses=only_metric)
        found[focal] = [stage(b, 0.0).terms["metric"].item() for b in (batch, longer)]
    assert found[0.8][1] == pytest.approx(found[0.8][0], rel=1e-3)
    assert abs(found[0.0][1] - found[0.0][0]) > 0.1 * found[0.0][0]


def test_places_and_boxes_keep_float32_under_autocast(model, batch, make_recipe, monkeypatch):
    """Only the network's own sums may be rounded: what it predicts is the same in both runs."""
    stage = words_stage.WordsStage(model, make_recipe())
    with torch.no_grad():
        output = model.geometry(batch.images)
    monkeypatch.setattr(model, "geometry", lambda images: output)
    plain = stage.look(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = stage.look(batch)
    for one, other in zip(plain, half, strict=True):
        torch.testing.assert_close(other.positions, one.positions)
        torch.testing.assert_close(other.targets.center, one.targets.center)
        torch.testing.assert_close(other.targets.rotation, one.targets.rotation)
        torch.testing.assert_close(other.evidence, one.evidence)
