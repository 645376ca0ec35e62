# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders: config, sharded safetensors and tokenizer, checked before they are believed.

`load_vidllm` is the door for every user of weights (node, command line, evaluation): whatever is
wrong with a folder is said in one sentence before a network is built. Next: vidllm.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vidllm_ros.network.configuration import VidLLMConfig

if TYPE_CHECKING:
    from vidllm_ros.network.vidllm import VidLLM

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_SIZE = "14MB"


def load_vidllm(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> VidLLM:
    """Load a checkpoint for use: on `device`, in evaluation mode, tokenizer attached.

    Args:
        path: folder written by `VidLLM.save_pretrained`.
        device: where to run.
        dtype: of the weights; None takes float32 on a CPU (whatever they are stored in) and
            bfloat16 elsewhere, where the camera head stays in float32.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file is damaged or belongs to another model.
    """
    from vidllm_ros.network.vidllm import VidLLM  # it imports this module

    folder = Path(path)
    check_folder(folder)
    where = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
    try:
        model, report = VidLLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"model: expected {folder} to load, got: {first}") from error
    lacking, foreign = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if lacking or foreign:
        raise ValueError(
            f"model: expected the weights that {folder / CONFIG} describes, got {len(lacking)} "
            f"missing {lacking[:3]} and {len(foreign)} unknown {foreign[:3]}, of another model or "
            "version; name a folder that was written in one go"
        )
    return model.to(where).eval()


def check_folder(folder: Path) -> None:
    """Look at every file of a checkpoint folder without building anything.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ValueError: a file is damaged or belongs to another model.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"model: expected a folder with a Vid-LLM checkpoint, got {folder}, which is not one"
        )
    for name in (CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"model: expected {name} in {folder}, got none; name a folder that "
                "save_pretrained wrote"
            )
    kind = _read_json(folder / CONFIG).get("model_type")
    if kind != VidLLMConfig.model_type:
        raise ValueError(
            f"model: expected model_type 'vidllm' in {folder / CONFIG}, got {kind!r}; "
            "give a folder that `vidllm train` wrote"
        )
    _check_config(folder)
    _read_json(folder / TOKENIZER)
    for file in _weight_files(folder):
        _check_weights(file)


def _check_config(folder: Path) -> None:
    try:
        VidLLMConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its fields are what the file says, of any type whatever
        raise ValueError(
            f"model: expected the fields of a Vid-LLM config in {folder / CONFIG}, got: {error}; "
            "copy the file again, or take one that this version wrote"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(
                f"model: expected weight_map as an object in {folder / INDEX}, got "
                f"{type(weight_map).__name__}; copy it again"
            )
        names = sorted(set(map(str, weight_map.values())))
    else:
        names = [WEIGHTS]
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"model: expected weights {name} in {folder}, got none; copy the whole folder"
            )
    return [folder / name for name in names]


def _check_weights(file: Path) -> None:
    try:
        with safe_open(str(file), framework="pt"):  # type: ignore[no-untyped-call]
            pass
    except SafetensorError as error:
        raise ValueError(
            f"model: expected complete weights in {file}, got a truncated or damaged file "
            f"({error}); copy it again"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"model: expected JSON in {file}, got {error}; copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"model: expected an object in {file}, got {type(content).__name__}")
    return content


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a checkpoint folder; None where the folder has none."""
    if not (Path(folder) / TOKENIZER).is_file():
        return None
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        folder, local_files_only=True
    )
    return tokenizer
