# SPDX-License-Identifier: Apache-2.0
"""The file that names a concatenation's parts: read as written, faults in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vidllm_ros.network import convert_hub
from vidllm_ros.network.concat_manifest import (
    MANIFEST,
    Manifest,
    PartPlace,
    has_manifest,
    read_manifest,
    write_manifest,
)

PLAIN: dict[str, Any] = {
    "backend": "vggt_llava3d",
    "geometry": "vggt",
    "metric_depth": "depth",
    "language": "llava",
}


def by_hand(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    content = {name: value for name, value in {**PLAIN, **changes}.items() if value is not None}
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = Manifest(
        "vggt_vlm",
        PartPlace("facebook/VGGT-1B", "/cache/vggt", "cc-by-nc-4.0"),
        PartPlace("vlm"),
        scale="none",
        frames=6,
        labels=("chair", "table"),
    )
    assert write_manifest(tmp_path / "new", manifest) == tmp_path / "new" / MANIFEST
    assert read_manifest(tmp_path / "new") == manifest
    assert has_manifest(tmp_path / "new")
    assert not has_manifest(tmp_path)


def test_paths_alone_will_do_and_start_at_the_folder(tmp_path: Path) -> None:
    (tmp_path / "vggt").mkdir()
    manifest = read_manifest(by_hand(tmp_path))
    assert manifest.geometry == PartPlace("vggt")
    assert manifest.geometry.locate(tmp_path, "geometry") == tmp_path / "vggt"
    assert manifest.scale == "least_squares"


def test_a_fetched_part_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(where: str) -> Path:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(convert_hub, "_fetch", fetch)
    here = tmp_path / "cache"
    here.mkdir()
    assert PartPlace("facebook/VGGT-1B", str(here)).locate(tmp_path, "geometry") == here


def test_unknown_places_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"geometry: expected a file.*concatenation\.json"):
        PartPlace("./nowhere").locate(tmp_path, "geometry")

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(convert_hub, "snapshot_download", offline)
    monkeypatch.setattr(convert_hub.HfApi, "model_info", offline)
    with pytest.raises(FileNotFoundError, match=r"metric_depth: .*the hub cannot be reached"):
        PartPlace("somebody/Depth").locate(tmp_path, "metric_depth")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backend": "vidllm"}, "backend: expected one of"),
        ({"geometry": None}, "missing"),
        ({"geometri": "x"}, "geometri.*unknown"),
        ({"geometry": ""}, "geometry: expected a path"),
        ({"geometry": {"path": "x"}}, "geometry: expected a path"),
        ({"geometry": {"where": 3}}, "geometry: expected a path"),
        ({"metric_depth": None}, "metric_depth: expected a metric-depth model for scale"),
        ({"scale": "twice"}, "scale: expected one of"),
        ({"depth_from": "lidar"}, "depth_from: expected one of"),
        ({"frames": -1}, "frames: expected a number from 0"),
        ({"scale_frames": "16"}, "scale_frames: expected a number from 1"),
        ({"voxel_size_m": 0}, "voxel_size_m: expected above 0"),
        ({"labels": "chair"}, "labels: expected a list"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        read_manifest(by_hand(tmp_path, **changes))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vidllm concatenate"):
        read_manifest(tmp_path)
    for text, words in (("{", "expected JSON"), ("[]", "expected an object")):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=words):
            read_manifest(tmp_path)


def test_names_of_reports_and_licences(tmp_path: Path) -> None:
    (tmp_path / "vggt").mkdir()
    (tmp_path / "vggt" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    manifest = read_manifest(by_hand(tmp_path, language={"where": "a/b", "licence": "mine"}))
    assert manifest.title == "VGGT+LLaVA-3D (scaled)"
    assert manifest.licence_lines(tmp_path) == [
        "VGGT: vggt, licence cc-by-nc-4.0",
        "metric depth: depth, licence unknown (nothing beside the weights names one)",
        "language: a/b, licence mine",
    ]
    plain = read_manifest(by_hand(tmp_path, backend="vggt_vlm", scale="none", language="org/Chat"))
    assert plain.title == "VGGT+Chat (unscaled)"
