# SPDX-License-Identifier: Apache-2.0
"""Fill a module built without memory from public checkpoints, a tensor at a time.

The converter's reports say what goes where; here the tensors are read, cast and put on the device
straight away, so that a 7B model needs its own memory and one tensor more. Next: the loaders in
concat_geometry.py and concat_llava3d_files.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from vidllm_ros.network.convert import UsedKey
from vidllm_ros.network.convert_files import TensorFiles

MAPPED_BYTES = 10**9
"""How much of a file may stay mapped before it is closed and opened anew."""


def read_places(
    files: TensorFiles,
    used: Iterable[UsedKey],
    device: torch.device | str,
    dtype_of: Callable[[str], torch.dtype],
) -> dict[str, Tensor]:
    """Read the tensors a report names, by their new names.

    Args:
        files: the checkpoint.
        used: which stored tensor goes to which names; several names share equal pieces of one.
        device: where they go.
        dtype_of: of a floating-point tensor, by its new name.
    """
    places: dict[str, Tensor] = {}
    for entry in used:
        stored = files.read(entry.source.name)
        names = [target.name for target in entry.targets]
        for name, part in zip(names, stored.chunk(len(names)), strict=True):
            dtype = dtype_of(name) if part.is_floating_point() else part.dtype
            places[name] = part.to(device, dtype)
        if files.touched_bytes > MAPPED_BYTES:
            files.release()
    files.release()
    return places


def put_places(module: nn.Module, places: dict[str, Tensor], option: str, path: Path) -> None:
    """Make these tensors a module's own, and see that none of it is left without values.

    Args:
        module: its parameters may be on the meta device; buffers that no checkpoint holds are not.
        places: by the module's names.
        option: the part, for the message.
        path: likewise.

    Raises:
        ValueError: a tensor has none.
    """
    module.load_state_dict(places, strict=False, assign=True)
    for part in module.modules():
        if callable(tie := getattr(part, "tie_weights", None)):
            tie()
    empty = [n for n, t in (*module.named_parameters(), *module.named_buffers()) if t.is_meta]
    if empty:
        raise ValueError(
            f"{option}: expected all tensors of the model in {path}, got none for {empty[0]} and "
            f"{len(empty) - 1} more; is the checkpoint whole?"
        )
