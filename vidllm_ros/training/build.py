# SPDX-License-Identifier: Apache-2.0
"""From a recipe to what is trained: rooms, tokenizer, network, stage, trainer.

Everything is a function of the recipe; a network that starts from scratch gets initial values that
suit a short run (`prepare_for_scratch`). Next: trainer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedTokenizerFast

from vidllm_ros.data.loader import RoomFolder, SceneBatches
from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.scene_batch import LoaderSettings, build_sentences
from vidllm_ros.data.synthrooms import (
    COLORS,
    LABELS,
    OBJECT_LABELS,
    annotate_frames,
    make_scene,
)
from vidllm_ros.data.synthrooms.storage import load_sample
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.layers import LayerScale
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training.recipe import Recipe
from vidllm_ros.training.stages import JointStage
from vidllm_ros.training.trainer import Trainer, seed_everything
from vidllm_ros.training.words_stage import WordsStage

TOKENIZER_ROOMS = 200
MODEL_FOLDER = "model"
ROOM_PATTERN = "*.npz"


def loader_settings(recipe: Recipe, patch_size: int) -> LoaderSettings:
    """Return the loader's settings named by the recipe."""
    data = recipe.data
    return LoaderSettings(
        seed=recipe.seed,
        frames_per_batch=data.frames_per_batch,
        max_scenes=data.max_scenes,
        total_batches=recipe.total_steps,
        min_frames=data.min_frames,
        max_frames=data.max_frames,
        long_from=data.long_from,
        long_share=data.long_share,
        long_min_frames=data.long_min_frames,
        long_max_frames=data.long_max_frames,
        dense_frames=data.dense_frames,
        segments=data.segments,
        captions=data.captions,
        phrases=data.phrases,
        noise=data.noise,
        patch_size=patch_size,
        colors=COLORS,
    )


def prepare_for_scratch(model: nn.Module) -> None:
    """Undo initial values that suit pretrained weights only.

    LayerScale of 0.01 makes every block nearly the identity, which costs a short run most of its
    steps; the poses of all frames start at no rotation and a field of view near 1 rad, where the
    field of view's ReLU lets a gradient through. Source: ours (docs/deviations.md).
    """
    for module in model.modules():
        if isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, 0.5)
    for name, parameter in model.named_parameters():
        if name.endswith(("camera_token", "register_token")):
            nn.init.normal_(parameter, std=0.02)
        if name.endswith("camera_head.pose_branch.fc2.bias"):
            with torch.no_grad():
                parameter.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.3]))
        if name.endswith("camera_head.pose_branch.fc2.weight"):
            with torch.no_grad():
                parameter.mul_(0.1)
        if name.startswith("grounding.layers") and name.endswith("box.fc2.bias"):
            with torch.no_grad():  # axes right, forward, up: level furniture before a level camera
                parameter[6:12] = torch.tensor([1.0, 0, 0, 0, 0, 1.0])


def training_texts(samples: Iterable[SceneSample], settings: LoaderSettings) -> list[str]:
    """Everything that is said about these scenes, prompts and answers, for the tokenizer."""
    wide = replace(settings, segments=10_000, captions=10_000, phrases=10_000)
    rng = np.random.default_rng(settings.seed)
    texts = []
    for sample in samples:
        for sentence in build_sentences(sample, wide, rng):
            texts += [sentence.prompt, sentence.answer]
    return texts


def build_source(recipe: Recipe) -> Callable[[np.random.Generator], SceneSample]:
    """Rooms of the recipe: files of a folder, or rendered as they are needed."""
    data = recipe.data
    if data.folder:
        return RoomFolder(data.folder, ROOM_PATTERN, load_sample)
    return partial(render_room, data.first_seed, data.rooms, data.height, data.width)


def render_room(
    first: int, count: int, height: int, width: int, rng: np.random.Generator
) -> SceneSample:
    """Render one room of a range of seeds."""
    return make_scene(first + int(rng.integers(count)), height=height, width=width)


def build_model(recipe: Recipe, folder: Path, settings: LoaderSettings) -> VidLLM:
    """Load the run's network and tokenizer, or make them and keep them in `folder`.

    Args:
        recipe: names sizes and, in `init`, weights to start from.
        folder: holds configuration and tokenizer of the run.
        settings: of the loader, for the tokenizer's texts.
    """
    if recipe.init:
        model = VidLLM.from_pretrained(recipe.init)
        if not isinstance(model, VidLLM):
            raise TypeError(
                f"init: expected a VidLLM in {recipe.init}, got {type(model).__name__}"
            )
        model = model.float()
        tokenizer = model.language.tokenizer
        config = model.config
    elif (folder / "config.json").is_file():
        config = VidLLMConfig.from_pretrained(folder)
        model = VidLLM(config)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        prepare_for_scratch(model)
    else:
        fields = dict(recipe.model)
        fields.setdefault("label_vocabulary", OBJECT_LABELS)
        config = VidLLMConfig(**fields)
        source, rng = build_source(recipe), np.random.default_rng((recipe.seed, 1))
        texts = training_texts((source(rng) for _ in range(TOKENIZER_ROOMS)), settings)
        tokenizer = build_tokenizer(texts, int(config.language["vocab_size"]))
        model = VidLLM(config)
        prepare_for_scratch(model)
    model.language.attach_tokenizer(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return model


def build_trainer(recipe: Recipe, folder: str | Path) -> Trainer:
    """Make everything a run needs; the run's folder keeps recipe, configuration and tokenizer."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    state = PartialState(cpu=not torch.cuda.is_available())
    seed_everything(recipe.seed)
    patch = int(VidLLMConfig(**dict(recipe.model)).patch_size)
    settings = loader_settings(recipe, patch)
    with state.main_process_first():
        model = build_model(recipe, home / MODEL_FOLDER, settings)
    if state.is_main_process:
        (home / "recipe.yaml").write_text(yaml.safe_dump(recipe.as_dict(), sort_keys=False))
    if recipe.stage == "distil":
        raise ValueError(
            "stage: expected 'joint' or 'words' for a run from a file, got 'distil'; it takes its "
            "teachers from code: build a DistilStage and hand it to Trainer"
        )
    stage: nn.Module
    if recipe.stage == "words":
        stage = WordsStage(model, recipe)
    else:
        stage = JointStage(model, recipe, len(LABELS), len(COLORS))
    batches = SceneBatches(
        build_source(recipe),
        annotate_frames,
        settings,
        state.process_index,
        state.num_processes,
    )
    return Trainer(recipe, stage, batches, home)
