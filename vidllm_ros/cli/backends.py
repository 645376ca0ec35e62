# SPDX-License-Identifier: Apache-2.0
"""Which network answers: the bundled model, a folder of weights, or the stand-in for trying wires.

Importing torch and the network is put off until a command asks for it. Next: infer.py.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import vidllm_ros
from vidllm_ros.cli.command import UserError

if TYPE_CHECKING:
    from vidllm_ros.streaming.backend import Backend

BUNDLED_MODEL = Path("models") / "vidllm-nano"


class BackendName(str, Enum):
    """Who computes."""

    VIDLLM = "vidllm"
    STANDIN = "standin"


def bundled_model() -> Path:
    """Return the folder of the weights that come with the package.

    In a checkout they lie beside the package, in an installation under its share folder.

    Raises:
        UserError: there are none.
    """
    roots = [Path(entry).resolve().parent for entry in vidllm_ros.__path__]
    prefixes = [
        Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if entry
    ]
    roots += [prefix / "share" / "vidllm_ros" for prefix in prefixes]
    for root in roots:
        if (root / BUNDLED_MODEL / "config.json").is_file():
            return root / BUNDLED_MODEL
    raise UserError(
        f"--model: expected weights in {BUNDLED_MODEL} beside the package, found none; "
        "name a folder of weights with --model"
    )


def load_backend(name: BackendName, model: Path | None, device: str) -> Backend:
    """Load the network of the folder `model` (the bundled one if None) onto `device`."""
    if name is BackendName.STANDIN:
        from vidllm_ros.streaming.backend import StandInBackend

        return StandInBackend()
    folder = bundled_model() if model is None else model
    place = choose_device(device)
    from transformers.utils.logging import disable_progress_bar

    from vidllm_ros.network.checkpoint import load_vidllm

    disable_progress_bar()
    return load_vidllm(folder, place)


def choose_device(device: str) -> str:
    """Return where to compute; "auto" takes a GPU if there is one.

    Raises:
        UserError: the name means nothing to torch or the machine lacks the device.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device: expected one this machine has, got {device!r}; use cpu"
        ) from error
    return device
