# SPDX-License-Identifier: Apache-2.0
"""A tiny network and tiny rooms that all tests of training share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.data.samples import Caption, Question, Reference, SceneObject, SceneSample
from vidllm_ros.data.scene_batch import LoaderSettings, SceneBatch, batch_samples
from vidllm_ros.data.synthrooms import LABELS
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.structures import Frames, GroundedBox
from vidllm_ros.training import build, optimizer, recipe
from vidllm_ros.training.checkpoint import CHECKPOINT
from vidllm_ros.training.stage_output import StageOutput

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


def build_sample(seed: int, frames: int = 4) -> SceneSample:
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


def build_recipe(**changes: object) -> recipe.Recipe:
    base = recipe.Recipe(
        model=TINY,
        precision="no",
        total_steps=100,
        own_geometry=(0.5, 0.5),
        own_geometry_share=1.0,
        data=recipe.DataRecipe(
            height=28,
            width=42,
            min_frames=3,
            max_frames=3,
            frames_per_batch=6,
            segments=12,
            noise=0.0,
            workers=0,
        ),
    )
    return replace(base, **changes)


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., SceneSample]:
    return build_sample


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., recipe.Recipe]:
    return build_recipe


@pytest.fixture
def tiny_fields() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture
def tiny_settings() -> LoaderSettings:
    return replace(build.loader_settings(build_recipe(), 14), colors=COLORS)


@pytest.fixture
def tiny_model(tiny_settings) -> VidLLM:
    torch.manual_seed(0)
    network = VidLLM(VidLLMConfig(**TINY))
    texts = build.training_texts([build_sample(0)], tiny_settings)
    network.language.attach_tokenizer(build.build_tokenizer(texts, 300))
    build.prepare_for_scratch(network)
    return network.train()


@pytest.fixture
def saved_run(tiny_model) -> Callable[..., Path]:
    """Write a run's folder with the tiny network, and heads beside it, as a stage leaves it."""

    def save(home: Path, **heads: torch.Tensor) -> Path:
        tiny_model.config.save_pretrained(home / "model")
        tiny_model.language.tokenizer.save_pretrained(home / "model")
        stage = {f"model.{name}": value for name, value in tiny_model.state_dict().items()}
        torch.save({"stage": {**stage, **heads}}, home / CHECKPOINT)
        return home

    return save


@pytest.fixture(scope="session")
def learn() -> Callable[..., list[StageOutput]]:
    """Take some steps on one batch, and return what each gave."""

    def take(
        stage: torch.nn.Module, batch: SceneBatch, steps: int, lr: float = 3e-3
    ) -> list[StageOutput]:
        made = recipe.OptimizerRecipe(lr=lr, schedule="constant", warmup=0.01)
        mover, outputs = optimizer.Optimizer(stage, made), []
        for _ in range(steps):
            outputs.append(stage(batch, 0.0))
            outputs[-1].loss.backward()
            mover.step(0.5)
        return outputs

    return take


@pytest.fixture
def batch(make_sample, tiny_settings) -> SceneBatch:
    rngs = [np.random.default_rng(i) for i in range(2)]
    return batch_samples([make_sample(0), make_sample(1)], tiny_settings, 0, rngs)
