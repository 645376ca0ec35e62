# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint is, and what its owners allow: a path here, or an id of the Hugging Face hub.

The licence is repeated as the model card beside the weights gives it; where none is given that is
what is said. Next: convert_files.py, which reads what was found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_TIMEOUT_S = 10.0
BESIDE = ("*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*")
UNKNOWN_LICENCE = "unknown (nothing beside the weights names one)"


@dataclass(frozen=True)
class Located:
    """A checkpoint on this machine.

    Attributes:
        path: file or folder.
        where: what the user wrote.
        licence: as given beside the weights.
    """

    path: Path
    where: str
    licence: str


def locate(where: str) -> Located:
    """Find a checkpoint by path, or fetch it by hub id.

    Raises:
        FileNotFoundError: it is neither here nor to be had.
    """
    path = Path(where).expanduser()
    if path.exists():
        return Located(path, where, licence_of(path))
    if not HUB_ID.fullmatch(where):
        raise FileNotFoundError(
            f"expected a file, a folder or a hub id like facebook/VGGT-1B, got {where}, "
            "which is not there"
        )
    folder = _fetch(where)
    return Located(folder, where, licence_of(folder))


def licence_of(path: Path) -> str:
    """Return the licence that the card beside the weights names, or its licence file's title."""
    folder = path if path.is_dir() else path.parent
    card = folder / "README.md"
    if card.is_file():
        parts = card.read_text(encoding="utf-8", errors="replace").split("---")
        if len(parts) > 2 and not parts[0].strip():
            try:
                fields = yaml.safe_load(parts[1])
            except yaml.YAMLError:
                fields = None
            if isinstance(fields, dict) and fields.get("license"):
                more = [str(fields[k]) for k in ("license_name", "license_link") if fields.get(k)]
                return " ".join([str(fields["license"]), *(f"({word})" for word in more)])
    for file in sorted(folder.glob("LICENSE*")):
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        title = next((line.strip() for line in lines if line.strip()), "")
        if title:
            return f"{file.name}: {title[:80]}"
    return UNKNOWN_LICENCE


def _fetch(where: str) -> Path:
    """Download what is needed of a hub repository, or take it from the cache."""
    status: int | None = None
    try:
        found = HfApi().model_info(where, timeout=HUB_TIMEOUT_S).siblings or []
        is_safe = any(entry.rfilename.endswith(".safetensors") for entry in found)
        weights = ["*.safetensors"] if is_safe else ["*.bin", "*.pt", "*.pth"]
        return Path(snapshot_download(where, allow_patterns=[*BESIDE, *weights]))
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = f"the hub answers {status}"
        advice = "check the name, and log in where its owners ask for consent"
    except Exception:  # no network: each version of the library has its own class for that
        reason = "it is not in the cache and the hub cannot be reached from here"
        advice = "download it where there is a network and give its folder"
    if status is None:
        try:
            return Path(snapshot_download(where, local_files_only=True))
        except OSError:
            pass
    raise FileNotFoundError(
        f"expected a file, a folder or a known hub id, got {where}: {reason}; {advice}"
    )
