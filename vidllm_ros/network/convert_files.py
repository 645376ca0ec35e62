# SPDX-License-Identifier: Apache-2.0
"""Public checkpoints on disk, looked at by name and shape and read a tensor at a time.

A file or folder of safetensors shards or of torch's .bin, .pt and .pth files is one dictionary
here; nothing is read before it is asked for, and what was read is owned by the caller, so that
`release` gives the mapped memory back. torch files are read with `weights_only`. Next:
convert_plan.py, which says what goes where.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

TORCH_ENDINGS = (".bin", ".pt", ".pth")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
WRAPPERS = ("model", "state_dict")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor on disk.

    Attributes:
        file: where it is.
        shape, dtype: as stored.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorFiles:
    """All tensors of a checkpoint, lazily.

    Args:
        path: a file, or a folder with one checkpoint.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: a file is damaged, or holds more than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.touched_bytes = 0
        self._open: dict[Path, Any] = {}
        self.tensors: dict[str, StoredTensor] = {}
        for file in weight_files(path):
            self.tensors.update(self._look(file))
        self.release()
        if not self.tensors:
            raise ValueError(f"weights: expected tensors in {path}, got none")

    def meta(self) -> dict[str, Tensor]:
        """Return every tensor without its values."""
        return {
            name: torch.empty(stored.shape, dtype=stored.dtype, device="meta")
            for name, stored in self.tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """Return a copy of one tensor."""
        stored = self.tensors[name]
        handle = self._handle(stored.file)
        found: Tensor = handle[name] if isinstance(handle, Mapping) else handle.get_tensor(name)
        self.touched_bytes += found.numel() * found.element_size()
        return found.detach().clone(memory_format=torch.contiguous_format)

    def release(self) -> None:
        """Close all files, and with them the memory they are mapped to."""
        self._open.clear()
        self.touched_bytes = 0

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            is_torch = file.suffix in TORCH_ENDINGS
            self._open[file] = _load_torch(file) if is_torch else _open_safetensors(file)
        return self._open[file]

    def _look(self, file: Path) -> dict[str, StoredTensor]:
        handle = self._handle(file)
        found: dict[str, StoredTensor] = {}
        if isinstance(handle, Mapping):
            for name, value in handle.items():
                found[name] = StoredTensor(file, tuple(value.shape), value.dtype)
            return found
        for name in list(handle.keys()):
            part = handle.get_slice(name)
            if part.get_dtype() not in DTYPES:
                raise ValueError(
                    f"weights: expected numbers of {sorted(DTYPES)} in {file}, got "
                    f"{part.get_dtype()} at {name}; give weights that are not quantised"
                )
            found[name] = StoredTensor(file, tuple(part.get_shape()), DTYPES[part.get_dtype()])
        return found


def weight_files(path: Path) -> list[Path]:
    """Return the files of the one checkpoint at `path`: those of an index, else safetensors, else
    torch's.
    """
    if path.is_file():
        return [path]
    for index in INDEXES:
        if (path / index).is_file():
            names = sorted(set(_read_index(path / index).values()))
            lacking = [name for name in names if not (path / name).is_file()]
            if lacking:
                raise FileNotFoundError(
                    f"weights: expected {lacking[0]} in {path}, as {index} says, got none; "
                    "copy the whole folder"
                )
            return [path / name for name in names]
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = sorted(path.glob(pattern))
        if files:
            return files
    files = sorted(f for f in path.glob("*") if f.suffix in TORCH_ENDINGS)
    files = [file for file in files if file.name not in NOT_WEIGHTS]
    if not files:
        raise FileNotFoundError(
            f"weights: expected *.safetensors, *.bin, *.pt or *.pth in {path}, got none"
        )
    return files


def read_config(path: Path) -> dict[str, Any] | None:
    """Return config.json of a folder, or beside a file; None where there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"config: expected JSON in {file}, got {error}; copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"config: expected an object in {file}, got {type(content).__name__}")
    return content


def _read_index(file: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"weights: expected a weight_map in {file}, got {error!r}") from error
    return found


def _open_safetensors(file: Path) -> Any:
    try:
        return safe_open(str(file), framework="pt")  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ValueError(
            f"weights: expected a complete safetensors file, got {file} ({error}); copy it again"
        ) from error


def _load_torch(file: Path) -> dict[str, Tensor]:
    """Map a torch file; one of before torch 1.6 cannot be mapped and is read whole."""
    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"weights: expected a torch file of tensors alone, got {file} ({first})"
        ) from error
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"weights: expected tensors by name in {file}, got {type(content)}")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}
