# SPDX-License-Identifier: Apache-2.0
"""From a recipe to what is trained: rooms, tokenizer, network, stage, trainer.

Everything is a function of the recipe; a network that starts from scratch gets initial values that
suit a short run (`prepare_for_scratch`). Next: trainer.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from torch import nn
from transformers import CLIPConfig, CLIPModel, PretrainedConfig, PreTrainedTokenizerFast

from vidllm_ros.data.loader import SceneBatches
from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.scene_batch import LoaderSettings, build_sentences
from vidllm_ros.data.synthrooms import COLORS, LABELS, OBJECT_LABELS, annotate_frames
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.layers import LayerScale
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training import sharding
from vidllm_ros.training.distillation import OracleTeacher
from vidllm_ros.training.image_text import ImageTextStage
from vidllm_ros.training.recipe import Recipe
from vidllm_ros.training.room_source import build_source
from vidllm_ros.training.run_folder import (
    MODEL_FOLDER,
    is_run,
    load_network,
    run_heads,
    saved_config,
)
from vidllm_ros.training.stage_output import Validator
from vidllm_ros.training.stages import DistilStage, JointStage
from vidllm_ros.training.teachers import load_teacher
from vidllm_ros.training.trainer import Trainer, seed_everything
from vidllm_ros.training.words_stage import WordsStage

RECIPE = "recipe.yaml"
TOKENIZER_ROOMS = 200
CARRIED = ("oracle.", "probes.")  # heads that ask for the truth, whoever the teachers are


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


def build_model(recipe: Recipe, folder: Path, settings: LoaderSettings) -> VidLLM:
    """Load the run's network and tokenizer, or make them and keep them in `folder`.

    Args:
        recipe: names sizes and, in `init`, weights to start from.
        folder: holds configuration and tokenizer of the run.
        settings: of the loader, for the tokenizer's texts.
    """
    has_begun = (folder / "config.json").is_file()
    if has_begun:
        kept = VidLLMConfig.from_pretrained(folder)
        refuse_other_settings(kept, network_config(recipe), recipe.model, folder)
    if recipe.init:
        model = load_network(recipe.init, recipe.model)
        tokenizer, config = model.language.tokenizer, model.config
    elif has_begun:
        config = kept
        model = VidLLM(config)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        prepare_for_scratch(model)
    else:
        fields = dict(recipe.model)
        fields.setdefault("label_vocabulary", OBJECT_LABELS)
        config = VidLLMConfig(**fields)
        tokenizer = train_tokenizer(recipe, settings, int(config.language["vocab_size"]))
        model = VidLLM(config)
        prepare_for_scratch(model)
    model.language.attach_tokenizer(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return model


def refuse_other_settings(
    kept: PretrainedConfig, wanted: PretrainedConfig, names: Iterable[str], folder: Path
) -> None:
    """Refuse to go on with a network the recipe no longer describes.

    Args:
        kept: configuration the run began with.
        wanted: what the recipe asks for.
        names: of the fields to compare, those of `recipe.model`.
        folder: where `kept` lies.

    Raises:
        ValueError: one of them differs.
    """
    began, asked = kept.to_dict(), wanted.to_dict()
    other = sorted(name for name in names if began.get(name) != asked.get(name))
    if other:
        raise ValueError(
            f"model: expected the settings that the run in {folder.parent} began with, got other "
            f"{', '.join(other)}; take another folder"
        )


def refuse_other_parts(recipe: Recipe, kept: Path) -> None:
    """Refuse to go on with other parts than a run began with: its optimizer remembers those.

    Args:
        recipe: of the run.
        kept: the recipe it began with, if it has begun.

    Raises:
        ValueError: `learn` differs; nothing was written.
    """
    if not kept.is_file():
        return
    began = list((yaml.safe_load(kept.read_text()) or {}).get("learn", ()))
    if began != list(recipe.learn):
        raise ValueError(
            f"learn: expected {began} as the run in {kept.parent} began with, got "
            f"{list(recipe.learn)}; take another folder"
        )


def network_config(recipe: Recipe) -> VidLLMConfig:
    """Return the configuration of the `VidLLM` a recipe trains, without loading weights."""
    if recipe.init:
        return saved_config(recipe.init, recipe.model)
    return VidLLMConfig(**dict(recipe.model))


def train_tokenizer(
    recipe: Recipe, settings: LoaderSettings, vocab_size: int
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on what is said about the recipe's rooms."""
    source = build_source(recipe.data, recipe.seed)
    rng = np.random.default_rng((recipe.seed, 1))
    texts = training_texts((source(rng, 0, draw) for draw in range(TOKENIZER_ROOMS)), settings)
    return build_tokenizer(texts, vocab_size)


def build_image_text(
    recipe: Recipe, folder: Path, settings: LoaderSettings
) -> tuple[CLIPModel, PreTrainedTokenizerFast]:
    """Load the run's CLIP and tokenizer, or make them and keep them in `folder`."""
    if (folder / "config.json").is_file():
        config, wanted = CLIPConfig.from_pretrained(folder), CLIPConfig(**dict(recipe.model))
        refuse_other_settings(config, wanted, recipe.model, folder)
        return CLIPModel(config), PreTrainedTokenizerFast.from_pretrained(folder)
    config = CLIPConfig(**dict(recipe.model))
    words: Any = config.text_config
    tokenizer = train_tokenizer(recipe, settings, int(words.vocab_size))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    return CLIPModel(config), tokenizer


def build_stage(recipe: Recipe, folder: Path, settings: LoaderSettings) -> nn.Module:
    """Make what the recipe's stage trains, with its teachers.

    Args:
        recipe: of the run.
        folder: of the run's configuration and tokenizer.
        settings: of the loader.
    """
    if recipe.stage == "image_text":
        model, tokenizer = build_image_text(recipe, folder, settings)
        return ImageTextStage(model, tokenizer, recipe, LABELS, COLORS)
    has_votes = network_config(recipe).grounding_votes
    if recipe.stage == "joint" and recipe.losses.grounding and has_votes:
        raise ValueError(
            "model.grounding_votes: expected false in the joint stage, which does not teach "
            "votes, got true; set it in the words stage"
        )
    network = build_model(recipe, folder, settings)
    if recipe.stage == "words":
        return WordsStage(network, recipe)
    if recipe.stage == "distil":
        teachers = (load_teacher(recipe.geometry_teacher), load_teacher(recipe.semantic_teacher))
        has_oracle = recipe.semantic_teacher.kind == "oracle"
        balance = recipe.losses.oracle_balance
        sizes = (network.config.width, len(LABELS), len(COLORS), balance)
        stage: nn.Module = DistilStage(
            network, *teachers, recipe, OracleTeacher(*sizes) if has_oracle else None
        )
    else:
        stage = JointStage(network, recipe, len(LABELS), len(COLORS))
    if recipe.init:
        carry_heads(stage, recipe.init)
    return stage


def carry_heads(stage: nn.Module, folder: str | Path) -> None:
    """Give a stage the discarded heads of the run it starts from, where both have them.

    Heads that begin anew send gradients of their own ignorance into weights that have settled.
    Those to a teacher's features belong to that teacher and stay behind; a saved model has none.
    """
    if not is_run(folder):
        return
    places = stage.state_dict()
    kept = {
        name: value
        for name, value in run_heads(folder).items()
        if name.startswith(CARRIED) and name in places and places[name].shape == value.shape
    }
    stage.load_state_dict(kept, strict=False)


def patch_size_of(recipe: Recipe) -> int:
    """Patch size of what the recipe trains, px."""
    if recipe.stage == "image_text":
        vision: Any = CLIPConfig(**dict(recipe.model)).vision_config
        return int(vision.patch_size)
    return int(VidLLMConfig(**dict(recipe.model)).patch_size)


def reads_words(recipe: Recipe) -> bool:
    """Whether the stage needs what is said about the chosen frames, or their objects."""
    losses = recipe.losses
    if recipe.stage == "joint":
        return bool(losses.language or losses.grounding)
    return recipe.stage in ("words", "image_text")


def select_frames(room: SceneSample, frames: Sequence[int], seed: int) -> SceneSample:
    """Choose frames and say nothing anew: geometry needs no words."""
    return room.select(frames)


def build_trainer(
    recipe: Recipe, folder: str | Path, validator: Validator | None = None
) -> Trainer:
    """Make everything a run needs; the run's folder keeps recipe, configuration and tokenizer.

    Args:
        recipe: what to do.
        folder: of the run.
        validator: looks at the stage now and then.

    Raises:
        FileNotFoundError: `data.folder` holds no rooms; nothing was written.
        ValueError: they have another size than the recipe's frames; nothing was written.
    """
    home = Path(folder)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    state = PartialState(cpu=not torch.cuda.is_available())
    sharding.is_wanted(recipe, state.num_processes)  # refuse before anything is loaded
    seed_everything(recipe.seed)
    settings = loader_settings(recipe, patch_size_of(recipe))
    refuse_other_parts(recipe, home / RECIPE)  # before anything is written, as the next
    source = build_source(recipe.data, recipe.seed)
    with state.main_process_first():
        stage = build_stage(recipe, home / MODEL_FOLDER, settings)
    if state.is_main_process:
        (home / RECIPE).write_text(yaml.safe_dump(plain(recipe.as_dict()), sort_keys=False))
    batches = SceneBatches(
        source,
        partial(annotate_frames, rounds=recipe.data.question_rounds)
        if reads_words(recipe)
        else select_frames,
        settings,
        state.process_index,
        state.num_processes,
    )
    return Trainer(recipe, stage, batches, home, validator)


def plain(values: Any) -> Any:
    """Turn tuples into lists, so that the file reads back as it was written."""
    if isinstance(values, Mapping):
        return {name: plain(value) for name, value in values.items()}
    return [plain(value) for value in values] if isinstance(values, (list, tuple)) else values
