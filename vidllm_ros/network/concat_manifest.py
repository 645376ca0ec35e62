# SPDX-License-Identifier: Apache-2.0
"""`concatenation.json`: which public checkpoints a concatenation is made of, and how.

A folder with this file is what `backend: vggt_llava3d` or `vggt_vlm` takes as its model. It holds
no weights: each part is a path (from this folder, or absolute) or a hub id, written by hand or by
`vidllm concatenate`, which also notes where a hub id was fetched to, so that a robot needs no
network later. Next: concatenation.py, which loads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vidllm_ros.network.concat_geometry import DEPTH_SOURCES
from vidllm_ros.network.convert_hub import HUB_ID, UNKNOWN_LICENCE, licence_of, locate

MANIFEST = "concatenation.json"
BACKENDS = ("vggt_llava3d", "vggt_vlm")
SCALES = ("least_squares", "log_median", "none")
PARTS = ("geometry", "metric_depth", "language", "clip", "tokenizer")
PART_WORDS = {
    "geometry": "VGGT",
    "metric_depth": "metric depth",
    "language": "language",
    "clip": "CLIP vision tower",
    "tokenizer": "tokenizer",
}


@dataclass(frozen=True)
class PartPlace:
    """Where a part is.

    Attributes:
        where: as its user wrote it: a path or a hub id.
        path: where that was fetched to; "" where nobody fetched it yet.
        licence: as given beside the weights when it was written down; "" where unknown.
    """

    where: str
    path: str = ""
    licence: str = ""

    def locate(self, home: Path, part: str) -> Path:
        """Return the file or folder, fetched where it is a hub id that is not here.

        Raises:
            FileNotFoundError: it is neither here nor to be had.
        """
        for text in filter(None, (self.path, self.where)):
            for candidate in (home / Path(text).expanduser(), Path(text).expanduser()):
                if candidate.exists():
                    return candidate
        try:
            return locate(self.where).path
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{part}: {error} ({home / MANIFEST})") from error


@dataclass(frozen=True)
class Manifest:
    """The parts of a concatenation and its few choices.

    Attributes:
        backend: "vggt_llava3d" or "vggt_vlm".
        geometry: VGGT's checkpoint.
        language: LLaVA-3D's, or a vision-language model of transformers.
        metric_depth: of `AutoModelForDepthEstimation`; None with scale "none" alone.
        clip: vision tower, where LLaVA-3D's checkpoint has none.
        tokenizer: folder, where the language model's own cannot be read.
        scale: how VGGT's unit becomes metres: "least_squares" (the paper's), "log_median", or
            "none" (Table 5's row without scale).
        scale_frames: frames of a window the scale is fitted to.
        depth_from: which of VGGT's heads gives depth, "depth_head" or "point_head".
        frames: of a window the language model sees; 0 takes its own number (20 for LLaVA-3D, 8 for
            others).
        voxel_size_m, max_scene_tokens: LLaVA-3D's pooling.
        labels: names looked for in every window; each costs an answer of the language model, so
            none are unless somebody names them.

    Raises:
        ValueError: a value is none of those it may have.
    """

    backend: str
    geometry: PartPlace
    language: PartPlace
    metric_depth: PartPlace | None = None
    clip: PartPlace | None = None
    tokenizer: PartPlace | None = None
    scale: str = "least_squares"
    scale_frames: int = 16
    depth_from: str = "depth_head"
    frames: int = 0
    voxel_size_m: float = 0.2
    max_scene_tokens: int = 2560
    labels: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name, choices in (
            ("backend", BACKENDS),
            ("scale", SCALES),
            ("depth_from", DEPTH_SOURCES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {choices}, got {getattr(self, name)!r}")
        for name, least in (("scale_frames", 1), ("frames", 0), ("max_scene_tokens", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected a number from {least} on, got {value!r}")
        if not isinstance(self.voxel_size_m, int | float) or not self.voxel_size_m > 0:
            raise ValueError(f"voxel_size_m: expected above 0 m, got {self.voxel_size_m!r}")
        if self.metric_depth is None and self.scale != "none":
            raise ValueError(
                f"metric_depth: expected a metric-depth model for scale {self.scale!r}, got none; "
                "name one, or set scale to none for VGGT's own unit"
            )

    @property
    def title(self) -> str:
        """What the paper's Table 5 would call it, for reports."""
        words = "LLaVA-3D" if self.backend == "vggt_llava3d" else Path(self.language.where).name
        return f"VGGT+{words} ({'unscaled' if self.scale == 'none' else 'scaled'})"

    def parts(self) -> dict[str, PartPlace]:
        """Return the parts that are named, in order."""
        return {name: place for name in PARTS if (place := getattr(self, name)) is not None}

    def licence_lines(self, home: Path) -> list[str]:
        """Say of every part where it is from and what its owners allow."""
        lines = []
        for name, place in self.parts().items():
            licence = place.licence
            if not licence:
                near = [p for p in (home / place.where, Path(place.where)) if p.exists()]
                licence = licence_of(near[0]) if near else UNKNOWN_LICENCE
            lines.append(f"{PART_WORDS[name]}: {place.where}, licence {licence}")
        return lines


def has_manifest(folder: Path) -> bool:
    """Whether a folder is a concatenation's."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it is damaged, or a name or a value is not known.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"model: expected {MANIFEST} in {folder}, got none; `vidllm concatenate` writes one"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"model: expected JSON in {file}, got {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"model: expected an object in {file}, got {type(content).__name__}")
    known = {entry.name for entry in fields(Manifest)}
    foreign, lacking = (
        sorted(set(content) - known),
        {"backend", "geometry", "language"} - {*content},
    )
    if foreign or lacking:
        raise ValueError(
            f"model: expected names of {sorted(known)} in {file}, got {foreign} unknown and "
            f"{sorted(lacking)} missing"
        )
    try:
        return Manifest(**{name: _value(name, value) for name, value in content.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write a manifest into a folder, made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in asdict(manifest).items() if value is not None}
    file = folder / MANIFEST
    file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return file


def _value(name: str, value: Any) -> Any:
    """Read a part, which may be a path alone; other values as they are."""
    if name == "labels":
        if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
            raise ValueError(f"labels: expected a list of words, got {value!r}")
        return tuple(value)
    if name not in PARTS:
        return value
    if isinstance(value, str) and value.strip():
        return PartPlace(value)
    allowed = {entry.name for entry in fields(PartPlace)}
    is_part = isinstance(value, Mapping) and {"where"} <= {*value} <= allowed
    if is_part and all(isinstance(text, str) for text in value.values()) and value["where"]:
        return PartPlace(**value)
    raise ValueError(
        f"{name}: expected a path, a hub id or an object with where, path and licence, got "
        f"{value!r}"
    )


def is_hub_id(where: str) -> bool:
    """Whether a place is a name on the hub rather than something here."""
    return not Path(where).expanduser().exists() and bool(HUB_ID.fullmatch(where))
