# SPDX-License-Identifier: Apache-2.0
"""Same seed, same bytes; what is stored comes back; a folder is filled once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms import SPLITS, iter_scenes, make_scene
from vidllm_ros.data.synthrooms.prerender import RenderSettings, main, prerender, sample_path
from vidllm_ros.data.synthrooms.storage import load_sample, save_sample, words_of


def fingerprint(sample: SceneSample) -> str:
    digest = hashlib.sha256()
    for array in (
        sample.frames.images,
        sample.depth,
        sample.instance_ids,
        sample.label_ids,
        sample.T_world_camera,
        sample.K,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr(words_of(sample)).encode())
    return digest.hexdigest()


def test_same_seed_same_bytes() -> None:
    first = fingerprint(make_scene(21, frames=4, height=24, width=32))
    other = fingerprint(make_scene(22, frames=4, height=24, width=32))
    again = fingerprint(make_scene(21, frames=4, height=24, width=32))
    assert first == again
    assert first != other


def test_splits_start_at_their_seed() -> None:
    [sample] = iter_scenes("test", start=7, count=1, frames=2, height=12, width=16)
    assert sample.scene_id == f"synthroom{SPLITS['test'] + 7}"
    with pytest.raises(ValueError, match="split"):
        next(iter_scenes("training"))
    with pytest.raises(ValueError, match="frames"):
        make_scene(0, frames=0)


def test_stored_samples_come_back(tmp_path: Path, samples: list[SceneSample]) -> None:
    sample = samples[0]
    save_sample(tmp_path / "deep" / "room.npz", sample)
    back = load_sample(tmp_path / "deep" / "room.npz")
    assert words_of(back) == words_of(sample)
    assert back.questions == sample.questions
    np.testing.assert_array_equal(back.frames.images, sample.frames.images)
    np.testing.assert_array_equal(back.instance_ids, sample.instance_ids)
    np.testing.assert_array_equal(back.label_ids, sample.label_ids)
    np.testing.assert_array_equal(back.T_world_camera, sample.T_world_camera)
    np.testing.assert_allclose(back.depth, sample.depth, rtol=1e-3)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["room.npz"]


def test_broken_files_are_named(tmp_path: Path, samples: list[SceneSample]) -> None:
    whole = tmp_path / "whole.npz"
    save_sample(whole, samples[0])
    torn = tmp_path / "torn.npz"
    torn.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"torn\.npz"):
        load_sample(torn)
    (tmp_path / "text.npz").write_text("not a room")
    with pytest.raises(ValueError, match=r"text\.npz"):
        load_sample(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        load_sample(tmp_path / "none.npz")


def test_a_folder_is_filled_and_then_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    sizes = ["--frames", "2", "--height", "12", "--width", "16"]
    assert main(["--out", str(out), "--start", "30", "--count", "2", *sizes]) == 0
    stamp = sample_path(out, 30).stat().st_mtime_ns
    sample_path(out, 31).unlink()
    settings = RenderSettings(frames=2, height=12, width=16)
    assert prerender(out, 30, 3, settings) == 2  # 31 again and 32
    assert sample_path(out, 30).stat().st_mtime_ns == stamp
    assert load_sample(sample_path(out, 32)).scene_id == "synthroom0000032"
    with pytest.raises(ValueError, match="use another"):
        prerender(out, 30, 1, RenderSettings(frames=3, height=12, width=16))
