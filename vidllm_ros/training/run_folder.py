# SPDX-License-Identifier: Apache-2.0
"""Read weights back: from a folder of saved weights, or straight from a run's newest checkpoint.

A stage that starts where another ended, and a teacher that a run made, are named by their folder;
either kind will do. From a run the last weights are taken. Next: build.py and teachers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training.checkpoint import CHECKPOINT

MODEL_FOLDER = "model"
MODEL_PREFIX = "model."


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run's: has a checkpoint."""
    return (Path(folder) / CHECKPOINT).is_file()


def model_part(stage: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the network among those of its stage."""
    return {
        name[len(MODEL_PREFIX) :]: value
        for name, value in stage.items()
        if name.startswith(MODEL_PREFIX)
    }


def run_stage(folder: str | Path) -> dict[str, Tensor]:
    """Last weights of a run's stage, network and discarded heads, on the CPU."""
    file = Path(folder) / CHECKPOINT  # mapped: processes that read the same file share it
    saved = torch.load(file, map_location="cpu", weights_only=False, mmap=True)
    stage: dict[str, Tensor] = saved["stage"]
    return stage


def run_weights(folder: str | Path) -> dict[str, Tensor]:
    """Last weights of a run's network, on the CPU."""
    return model_part(run_stage(folder))


def run_heads(folder: str | Path) -> dict[str, Tensor]:
    """Last weights of what a run throws away, on the CPU, by their names in its stage."""
    return {
        name: value
        for name, value in run_stage(folder).items()
        if not name.startswith(MODEL_PREFIX) and isinstance(value, Tensor)
    }


def require_folder(name: str, folder: str | Path) -> Path:
    """Return the folder.

    Raises:
        FileNotFoundError: it is not there, or holds neither a run nor a model.
    """
    home = Path(folder)
    if not is_run(home) and not (home / "config.json").is_file():
        raise FileNotFoundError(
            f"{name}: expected a folder with a run's {CHECKPOINT} or a model's config.json, got "
            f"{home}; run the stage before it first"
        )
    return home


def saved_config(folder: str | Path, changes: Mapping[str, Any] | None = None) -> VidLLMConfig:
    """Read the configuration that `load_network` gives a network, without its weights.

    Raises:
        FileNotFoundError: there is neither run nor model in the folder.
        ValueError: as in `load_network`.
    """
    home = require_folder("init", folder)
    saved = VidLLMConfig.from_pretrained(home / MODEL_FOLDER if is_run(home) else home)
    return changed_config(saved, changes or {}, home)


def changed_config(saved: VidLLMConfig, changes: Mapping[str, Any], home: Path) -> VidLLMConfig:
    """Return the configuration with some fields set otherwise; `home` is where it was saved."""
    if not changes:
        return saved
    config = VidLLMConfig.from_dict({**saved.to_dict(), **changes})
    if saved.adapter not in ("none", config.adapter):
        raise ValueError(
            f"model.adapter: expected {saved.adapter!r} as in {home}, got {config.adapter!r}; "
            "a trained adapter cannot become another: begin with a network without one"
        )
    return config


def load_network(folder: str | Path, changes: Mapping[str, Any] | None = None) -> VidLLM:
    """Load a `VidLLM` in float32 with its tokenizer.

    Args:
        folder: of a run or a saved model.
        changes: fields of its configuration to set otherwise; parts that the changed network has
            and the saved one had not start from scratch.

    Raises:
        FileNotFoundError: there is neither in the folder.
        ValueError: a change gives a tensor of another shape, or asks for another adapter.
    """
    home = require_folder("init", folder)
    if is_run(home):
        config = saved_config(home, changes)
        weights = run_weights(home)
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(home / MODEL_FOLDER)
    else:
        saved = VidLLM.from_pretrained(home)
        if not isinstance(saved, VidLLM):
            raise TypeError(f"init: expected a VidLLM in {home}, got {type(saved).__name__}")
        saved = saved.float()
        if not changes:
            return saved
        config, weights = changed_config(saved.config, changes, home), saved.state_dict()
        tokenizer = saved.language.tokenizer
    model = VidLLM(config)
    model.load_state_dict({**model.state_dict(), **fitting(model, weights, home)})
    model.language.attach_tokenizer(tokenizer)
    return model


def fitting(model: VidLLM, weights: Mapping[str, Tensor], home: Path) -> dict[str, Tensor]:
    """Return the saved weights this network has a place for; all must fit that place."""
    places = model.state_dict()
    for name, value in weights.items():
        if name in places and places[name].shape != value.shape:
            raise ValueError(
                f"model: expected {name} {tuple(value.shape)} as in {home}, got "
                f"{tuple(places[name].shape)}; change only settings that keep shapes"
            )
    return {name: value for name, value in weights.items() if name in places}


def load_image_text(folder: str | Path) -> CLIPModel:
    """Load a CLIP in float32, ours from its run's folder or a public one from its saved folder."""
    home = require_folder("semantic_teacher.folder", folder)
    if not is_run(home):
        return CLIPModel.from_pretrained(home).float()
    model = CLIPModel(CLIPConfig.from_pretrained(home / MODEL_FOLDER))
    model.load_state_dict(run_weights(home))
    return model
