# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a name lie: a path, or a folder that comes with the package.

Next: loading.py, which loads them.
"""

from __future__ import annotations

import os
from pathlib import Path

import vidllm_ros

BUNDLED_MODEL = "vidllm-nano"


class LoadingError(ValueError):
    """What computes cannot be loaded; the message says why and what to do."""


def find_model(model: str | Path) -> Path:
    """Find the folder of a model: a path, or the name of one that is bundled.

    Raises:
        LoadingError: there is none.
    """
    given = Path(os.path.expanduser(model))  # of nobody known stays as it is
    beside = bundled_folders() if len(given.parts) == 1 else []
    for folder in (given.absolute(), *(folder / given for folder in beside)):
        if folder.is_dir():
            return folder
    raise LoadingError(
        f"model: expected a folder of weights or a bundled name, got {str(model)!r}, "
        f"{_why_no_model(given, beside)}"
    )


def _why_no_model(given: Path, beside: list[Path]) -> str:
    """Say what is wrong with the name of a model, and what to do."""
    if given.is_file():
        return "which is a file; name the folder it is in"
    if str(given) == BUNDLED_MODEL:
        return "which the package lacks; check out models/ again, or copy it whole"
    if len(given.parts) > 1:
        where = "" if given.is_absolute() else f" in {Path.cwd()}"
        return f"which does not exist{where}; name a folder that save_pretrained wrote"
    bundled = sorted({entry.name for folder in beside for entry in folder.iterdir()})
    kind = f"neither bundled ({', '.join(bundled)}) nor a" if bundled else "no"
    return f"which is {kind} folder in {Path.cwd()}; name a folder that save_pretrained wrote"


def bundled_folders() -> list[Path]:
    """Name the folders models/ that come with the package, installed ones first.

    An installation has them in its share folder, which ROS finds by AMENT_PREFIX_PATH; a checkout
    beside the package.
    """
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    folders = [Path(prefix) / "share" / "vidllm_ros" / "models" for prefix in prefixes]
    folders += [Path(entry).resolve().parent / "models" for entry in vidllm_ros.__path__]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
