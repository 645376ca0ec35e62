# SPDX-License-Identifier: Apache-2.0
"""The joint and the distilling stage on a tiny network; export; the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation
from torch import nn
from torch.nn import functional

from vidllm_ros.cli import train as train_command
from vidllm_ros.data.samples import Caption, Question, Reference, SceneObject, SceneSample
from vidllm_ros.data.scene_batch import LoaderSettings, SceneBatch, batch_samples
from vidllm_ros.data.synthrooms import LABELS
from vidllm_ros.data.synthrooms.storage import save_sample
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.structures import Frames, GroundedBox
from vidllm_ros.training import build, model_card, optimizer, recipe, stages, words, words_stage

COLORS = ("red", "blue")
TINY = {
    "encoder": {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3},
    "encoder_layers": [0, 1, 2, 3],
    "language": {
        "model_type": "llama",
        "vocab_size": 400,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "image_size": 42,
    "dense_features": 16,
    "dense_channels": [8, 8, 16, 16],
    "metric_features": 16,
    "metric_channels": [8, 8, 16, 16],
    "metric_bins": 16,
    "metric_embedding": 16,
    "adapter_heads": 3,
    "bridge_tokens": 4,
    "aggregator_heads": 3,
    "camera_heads": 6,
    "grounding_dim": 32,
    "grounding_heads": 4,
    "grounding_queries": 12,
    "max_scene_tokens": 64,
}


def make_sample(seed: int, frames: int = 4) -> SceneSample:
    """Two boxes of flat colour before a wall; the camera slides."""
    rng = np.random.default_rng(seed)
    H, W = 28, 42
    poses = np.repeat(np.eye(4)[None], frames, axis=0)
    level = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    poses[:, :3, :3] = level @ Rotation.from_euler("y", 5 * seed, degrees=True).as_matrix()
    poses[:, 0, 3] = 0.1 * np.arange(frames)
    depth = np.full((frames, H, W), 3.0, np.float32)
    images = rng.integers(90, 120, (frames, H, W, 3)).astype(np.uint8)
    instance = np.full((frames, H, W), -1, np.int32)
    label = np.zeros((frames, H, W), np.int16)
    objects = []
    for number, (word, color, column) in enumerate((("chair", "red", 0), ("table", "blue", 28))):
        part = np.s_[:, 4:24, column : column + 14]
        depth[part] = 1.5 + number
        instance[part] = number
        label[part] = LABELS.index(word)
        images[part] = (220, 20, 20) if color == "red" else (20, 20, 220)
        center = np.array([column / 40 - 0.3, 1.5 + number, 0.0])
        box = GroundedBox(word, 1.0, center, np.array([0.6, 0.5, 0.8]))
        objects.append(SceneObject(number, word, box, color))
    return SceneSample(
        scene_id=f"room{seed}",
        frames=Frames(
            images,
            tuple(range(frames)),
            K=np.repeat(np.array([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]])[None], frames, 0),
        ),
        depth=depth,
        instance_ids=instance,
        label_ids=label,
        T_world_camera=poses,
        objects=tuple(objects),
        labels=LABELS,
        questions=(
            Question("a", "What color is the chair?", ("red",), (0,), "color"),
            Question("b", "What color is the table?", ("blue",), (1,), "color"),
        ),
        references=(
            Reference("the red chair", (0,), "unique"),
            Reference("the blue table", (1,), "unique"),
            Reference("the bed", (), "none"),
        ),
        captions=(Caption(0, "a red chair"), Caption(1, "a blue table")),
    )


def make_recipe(**changes: object) -> recipe.Recipe:
    base = recipe.Recipe(
        model=TINY,
        precision="no",
        total_steps=100,
        own_geometry=(0.5, 0.5),
        own_geometry_share=1.0,
        data=recipe.DataRecipe(
            min_frames=3, max_frames=3, frames_per_batch=6, segments=12, noise=0.0, workers=0
        ),
    )
    return replace(base, **changes)


def settings() -> LoaderSettings:
    return replace(build.loader_settings(make_recipe(), 14), colors=COLORS)


@pytest.fixture
def model() -> VidLLM:
    torch.manual_seed(0)
    network = VidLLM(VidLLMConfig(**TINY))
    texts = build.training_texts([make_sample(0)], settings())
    network.language.attach_tokenizer(build.build_tokenizer(texts, 300))
    build.prepare_for_scratch(network)
    return network.train()


@pytest.fixture
def batch() -> SceneBatch:
    rngs = [np.random.default_rng(i) for i in range(2)]
    return batch_samples([make_sample(0), make_sample(1)], settings(), 0, rngs)


def joint(model: VidLLM, **changes: object) -> stages.JointStage:
    return stages.JointStage(model, make_recipe(**changes), len(LABELS), len(COLORS))


def test_one_batch_is_learnt_by_heart(model, batch):
    stage = joint(model)
    mover = optimizer.Optimizer(
        stage, recipe.OptimizerRecipe(name="muon", lr=3e-3, schedule="constant", warmup=0.01)
    )
    first = last = None
    for _ in range(60):
        output = stage(batch, 0.0)
        output.loss.backward()
        mover.step(0.5)
        first = first or output
        last = output
    assert last.scenes == 2
    for term in ("language", "camera", "metric", "oracle_label", "match", "boxes_1"):
        assert last.terms[term] < 0.6 * first.terms[term], term
    assert last.terms["given_match_top1"] > 0.9


def test_words_and_boxes_do_not_move_the_reconstruction(model, batch):
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


def test_reconstruction_does_not_move_words_and_boxes(model, batch):
    only_geometry = recipe.LossRecipe(language=0, grounding=0, oracle_label=0, oracle_color=0)
    joint(model, losses=only_geometry)(batch, 0.0).loss.backward()
    for part in ("language", "grounding", "box_features", "projector", "patches"):
        assert all(p.grad is None for p in getattr(model, part).parameters()), part
    assert all(p.grad is not None for p in model.camera_head.trunk.parameters())


def test_share_of_own_geometry_rises():
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
    targets = words.box_targets(batch)
    boxes = words.box_batch(targets, [(1, 0, 1), ()])
    assert boxes.center.shape == (2, 3, 3)
    assert torch.equal(boxes.center[0], targets[0].center[[1, 0, 1]])
    assert torch.equal(boxes.size[1], torch.ones(3, 3))


class Teacher(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, width, 14, 14)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.net(images.flatten(0, 1)).flatten(2).transpose(1, 2)
        return patches.unflatten(0, images.shape[:2])


def test_distilling_moves_encoder_and_adapter_only(model, batch):
    teachers = (Teacher(20), Teacher(30))
    stage = stages.DistilStage(model, teachers, make_recipe(), (20, 30))
    mover = optimizer.Optimizer(stage, recipe.OptimizerRecipe(lr=3e-3, schedule="constant"))
    totals = []
    for _ in range(25):
        output = stage(batch, 0.0)
        output.loss.backward()
        assert all(p.grad is None for teacher in teachers for p in teacher.parameters())
        assert all(p.grad is None for p in model.aggregator.parameters())
        mover.step(0.5)
        totals.append(output.loss.item())
    assert set(output.terms) == {"distil_geometry", "distil_semantic", "distil_structure"}
    assert totals[-1] < 0.5 * totals[0]


def test_the_command_trains_goes_on_exports_and_writes_the_card(tmp_path, monkeypatch, capsys):
    rooms, run, shipped = tmp_path / "rooms", tmp_path / "run", tmp_path / "model"
    for seed in range(3):
        save_sample(rooms / f"room{seed}.npz", make_sample(seed))
    values = make_recipe().as_dict()
    values["data"]["folder"] = str(rooms)
    values["total_steps"], values["log_every"] = 4, 1
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    monkeypatch.setattr(build, "annotate_frames", lambda room, frames, seed: room.select(frames))
    monkeypatch.setattr(build, "TOKENIZER_ROOMS", 3)
    arguments = ["--config", str(config), "--out", str(run)]
    assert train_command.main([*arguments, "--steps", "2"]) == 0
    assert train_command.main([*arguments, "--export", str(shipped)]) == 0
    assert "goes on from step 2" in capsys.readouterr().err
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


def test_words_learn_from_frozen_geometry_and_look_at_the_evidence(model, batch):
    made = make_recipe(
        losses=recipe.LossRecipe(guide_evidence=1.0), evidence_layer=1, replay_scenes=3
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = words_stage.WordsStage(model, made)
    mover = optimizer.Optimizer(
        stage, recipe.OptimizerRecipe(lr=3e-3, schedule="constant", warmup=0.01)
    )
    outputs = []
    for _ in range(25):
        outputs.append(stage(batch, 0.0))
        outputs[-1].loss.backward()
        mover.step(0.5)
    assert [o.scenes for o in outputs[:2]] == [2, 3]
    for term in ("language", "guide_evidence", "given_match"):
        assert outputs[-1].terms[term] < 0.7 * outputs[0].terms[term], term
    for name, value in model.state_dict().items():
        is_learning = name.split(".")[0] in words_stage.LEARNING
        assert is_learning or torch.equal(value, before[name]), name


def test_evidence_is_the_share_of_patches(model, batch):
    stage = words_stage.WordsStage(model, make_recipe())
    scene = stage.look(batch)[0]
    assert scene.evidence.shape == (len(scene.tokens), 2)
    assert float(scene.evidence.min()) >= 0.0
    assert float(scene.evidence.sum(1).max()) <= 1.0 + 1e-5
    assert float(scene.evidence.max()) > 0.3
