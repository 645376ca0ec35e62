# SPDX-License-Identifier: Apache-2.0
"""A short walk through a room whose truth is spoiled: registration beats chaining, ids last."""

import json

import numpy as np
import pytest

from vidllm_ros.cli import bench_walk
from vidllm_ros.cli.spoiled_truth import SpoiledTruth, Spoiling
from vidllm_ros.data.synthrooms import make_scene

SEED = 2_000_003


@pytest.fixture(scope="module")
def sample():
    return make_scene(SEED, frames=64, height=42, width=56)


def test_exact_truth_gives_an_exact_walk(sample):
    exact = Spoiling(**dict.fromkeys(Spoiling.__dataclass_fields__, 0.0))
    run = bench_walk.lead(sample, SpoiledTruth(sample, exact))
    entry = bench_walk.entry_of(run)
    assert entry["registered"]["error_m"] < 1e-6
    assert entry["chained"]["error_m"] < 1e-6
    assert entry["worlds"] == 1
    assert entry["map_error_m"] < 0.02
    assert (entry["id_switches"], entry["objects"]) == (0, len(sample.objects))


def test_registration_drifts_less_than_chaining(sample):
    runs = [bench_walk.lead(sample, SpoiledTruth(sample, seed=seed)) for seed in range(2)]
    report = bench_walk.report_of(runs, bench_walk.Source.SPOILED)
    assert report["error_m"] < 0.7 * report["chained_error_m"]
    assert report["id_switches_per_object"] < 0.5
    assert report["spoiling"]["scale"] == 0.03
    assert len(report["rooms"]) == 2


def test_spoiling_is_as_large_as_it_says(sample):
    spoiled = SpoiledTruth(sample, Spoiling(scale=0.0, depth=0.1, missed=0.5), seed=1)
    rec = spoiled.reconstruct(sample.frames.select(range(16)))
    ratio = np.log(rec.depth[rec.valid] / sample.depth[:16][rec.valid])
    assert np.std(ratio) == pytest.approx(0.1, rel=0.05)
    every = len(SpoiledTruth(sample, Spoiling(missed=0.0)).detect(rec.scene))
    found = [len(spoiled.detect(rec.scene)) for _ in range(100)]
    assert max(found) <= every
    assert 0.35 * every < np.mean(found) < 0.65 * every


def test_command_writes_report_and_picture(tmp_path, monkeypatch, capsys, sample):
    from vidllm_ros.data import synthrooms

    short = sample.select(range(24))
    monkeypatch.setattr(synthrooms, "make_scene", lambda seed, frames, **size: short)
    out, picture = tmp_path / "walk.json", tmp_path / "walk.png"
    arguments = ["--frames", "24", "--room", str(SEED), "--out", str(out)]
    assert bench_walk.main([*arguments, "--picture", str(picture)]) == 0
    report = json.loads(out.read_text())
    assert report["rooms"][0]["room"] == sample.scene_id
    assert report["error_m"] == report["rooms"][0]["registered"]["error_m"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    said = capsys.readouterr()
    assert "drift" in said.out + said.err
    assert bench_walk.main([*arguments[:-1], str(tmp_path / "walk.txt")]) == 1
