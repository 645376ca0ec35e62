# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a folder people can use: its weights in bfloat16, and a card.

The point head is left out (depth and poses give the points), as are the heads that only taught.
The card's numbers are filled in from report.json by code, never by hand. Next: model_card.py.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from vidllm_ros.network.checkpoint import MAX_SHARD_SIZE
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training.checkpoint import CHECKPOINT
from vidllm_ros.training.run_folder import MODEL_FOLDER, model_part

MAX_BUNDLED_BYTES = 24_000_000
"""What the repository carries at most."""
LARGE_SHARD = "5GB"
EXPORT_FACTS = "training.json"
HISTORY = "history.txt"
"""In a run's folder: what a person changed on the way, in words, for the card."""


def export_model(
    run: str | Path, out: str | Path, is_averaged: bool = True, max_bytes: int | None = None
) -> Path:
    """Write the weights of a run's newest checkpoint as a model folder.

    The checkpoint is mapped, not read, and the network is built without memory of its own: what is
    held is one copy of the weights in bfloat16. One process does it, however many trained.

    Args:
        run: folder of the run.
        out: folder to fill; files in it that are not the model's (a card) stay.
        is_averaged: the averaged weights rather than the last ones. An average lags behind: where
            a loss falls late in a short run, the last ones are better.
        max_bytes: refuse to write more; None writes whatever there is.

    Returns:
        the folder.

    Raises:
        FileNotFoundError: the run has no checkpoint.
        ValueError: there is more to write than `max_bytes`; the folder stays as it was.
    """
    home, target = Path(run), Path(out)
    source = home / CHECKPOINT
    if not source.is_file():
        raise FileNotFoundError(
            f"out: expected a run's folder with {CHECKPOINT}, got {home}; has it saved one yet?"
        )
    saved = torch.load(source, map_location="cpu", weights_only=False, mmap=True)
    config = VidLLMConfig.from_pretrained(home / MODEL_FOLDER)
    config.point_head = False
    with torch.device("meta"):
        model = VidLLM(config)
    average = saved["average"] if is_averaged else None
    weights = average["weights"] if average else model_part(saved["stage"])
    kept = {name: value for name, value in weights.items() if not name.startswith("point_head.")}
    model.load_state_dict(kept, assign=True)
    model.language.attach_tokenizer(PreTrainedTokenizerFast.from_pretrained(home / MODEL_FOLDER))
    target.parent.mkdir(parents=True, exist_ok=True)
    values = sum(parameter.numel() for parameter in model.parameters())
    # Two bytes a value; tied tables are counted twice here, so twice the bundled size is small.
    shard = MAX_SHARD_SIZE if values <= MAX_BUNDLED_BYTES else LARGE_SHARD
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        model.save_pretrained(beside, dtype=torch.bfloat16, max_shard_size=shard)
        known = {**facts(home, saved), "weights": "averaged" if average else "last"}
        described = json.dumps(known, indent=1) + "\n"
        (Path(beside) / EXPORT_FACTS).write_text(described)
        if max_bytes is not None and (size := folder_bytes(beside)) > max_bytes:
            raise ValueError(
                f"export: expected at most {max_bytes} bytes for {target}, got {size}; shrink the "
                "network, or export to a folder of another name"
            )
        replace_files(Path(beside), target)
    return target


def facts(home: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Return what the card says of the run: recipe, how far it came, how long it took, on what."""
    state, recipe = saved["state"], saved["recipe"]
    commands, history = home / "commands.json", home / HISTORY
    folder = recipe["data"]["folder"]
    named = {**recipe["data"], "folder": Path(folder).name}  # a path says nothing elsewhere
    return {
        "recipe": {**recipe, "data": named, "init": Path(recipe["init"]).name},
        "history": history.read_text().strip() if history.is_file() else "",
        "steps": state["step"],
        "scenes": state["scenes"],
        "minutes": round(state["seconds"] / 60.0, 1),
        "rooms": len(list(Path(folder).glob("*.npz"))) if folder else recipe["data"]["rooms"],
        "hardware": hardware(),
        "losses": {name: round(value, 4) for name, value in sorted(state["smooth"].items())},
        "commands": json.loads(commands.read_text()) if commands.is_file() else {},
    }


def hardware() -> str:
    """Return the machine in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = {
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.is_file() else [])
        if line.startswith("model name")
    }
    model = ", ".join(sorted(names)) or platform.processor() or platform.machine()
    return f"{os.cpu_count()} CPU cores ({model}), no GPU"


def replace_files(source: Path, target: Path) -> None:
    """Move the files of `source` into `target`, each in one step, and drop shards of before."""
    target.mkdir(parents=True, exist_ok=True)
    fresh = {file.name for file in source.iterdir()}
    for file in sorted(source.iterdir()):
        file.chmod(0o644)
        os.replace(file, target / file.name)
    for old in target.glob("model*.safetensors*"):
        if old.name not in fresh:
            old.unlink()


def folder_bytes(folder: str | Path) -> int:
    """Return how many bytes a folder's files have."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
