# SPDX-License-Identifier: Apache-2.0
"""Files a command leaves behind: whole or not at all, and only where they can be written.

Where a file may go is checked before minutes of work are spent; its bytes go to a temporary name
beside the target and are renamed (`write_atomically`). Next: infer.py and demo.py use it.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from vidllm_ros.cli.command import UserError
from vidllm_ros.geometry.point_cloud import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_picture(path: Path, figure: Figure) -> None:
    """Write a matplotlib figure as PNG."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    write_atomically(path, drawn.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; numpy becomes numbers and lists, NaN becomes null."""
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def plain(value: Any) -> Any:
    """Return `value` with everything in it a JSON type; not-finite numbers become None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def check_file_target(option: str, path: Path, suffix: str) -> None:
    """Raise unless a file of this kind can be written at `path`.

    Raises:
        UserError: `path` is a folder, has another ending, or its folder cannot be written.
    """
    if path.suffix.lower() != suffix:
        raise UserError(f"{option}: expected a file ending in {suffix}, got {path}; rename it")
    if path.is_dir():
        raise UserError(f"{option}: expected a file, got the folder {path}; name a file in it")
    _check_writable(option, path.parent)


def check_folder_target(option: str, path: Path) -> None:
    """Raise unless files can be written into the folder `path`, which need not exist yet.

    Raises:
        UserError: `path` is a file or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{option}: expected a folder, got the file {path}; name a folder")
    _check_writable(option, path)


def _check_writable(option: str, folder: Path) -> None:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    refused = UserError(f"{option}: expected a writable place, got {folder}; choose another")
    if not existing.is_dir():
        raise refused
    try:  # permissions alone say nothing to root, nor of a read-only disk
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise refused from error
