# SPDX-License-Identifier: Apache-2.0
"""Each published benchmark from published files to the report, with a model named on the line."""

import json

import geometry_sets as sets
import hand_made
import numpy as np
import pytest
from blind_models import Blind

from vidllm_ros.cli import evaluate, score
from vidllm_ros.evaluation import caption_metrics


def make_nyuv2(folder):
    sets.write_nyuv2(folder, [np.full(sets.NYU_SIZE, 2.0), np.full(sets.NYU_SIZE, 4.0)])


def make_co3d(folder):
    sets.write_co3d(folder, {"apple": {"a": (0.9, sets.random_poses(50, 1))}})


def make_re10k(folder):
    sets.write_re10k(folder, "one", sets.random_poses(12, 1))


def make_scannet(folder):
    sets.write_scannet(folder, "scene0707_00")


EXPECTED = {
    "nyuv2": (make_nyuv2, {"delta1": 0.5, "absrel": 0.25, "rmse_m": 1.0}, ".022 / .989"),
    "co3dv2": (make_co3d, {"rta15": 0.0, "sequences": 1.0}, "89.6"),
    "re10k": (make_re10k, {"rta15": 0.0, "sequences": 1.0}, "85.3"),
    "scannet-reconstruction": (make_scannet, {"precision": 1.0, "scenes": 1.0}, ".582"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_from_files_to_the_report(name, tmp_path):
    make, values, said = EXPECTED[name]
    data, out = tmp_path / "data", tmp_path / "out" / "report.json"
    make(data)
    common = [name, "--data", str(data)]
    run = [*common, "--predictor", "blind_models:Blind", "--out", str(out)]
    assert evaluate.main(run) == 0
    report = json.loads(out.read_text())
    for key, value in values.items():
        assert report[key] == pytest.approx(value), key
    assert (report["benchmark"], report["model"]) == (name, "blind")
    table = out.with_suffix(".md").read_text()
    assert "## Beside published rows" in table
    assert said in table
    assert "Read with care" in table
    page = out.with_suffix(".html").read_text()
    assert page.count("class='case'") == report["cases"]

    again = [*common, "--predictions", str(out.with_name("report.predictions")), "--no-pages"]
    assert score.main([*again, "--out", str(tmp_path / "again.json")]) == 0
    scored = json.loads((tmp_path / "again.json").read_text())
    assert {k: scored[k] for k in values} == {k: report[k] for k in values}


def test_a_model_that_cannot_is_named(tmp_path, capsys, monkeypatch):
    make_nyuv2(tmp_path)
    monkeypatch.delattr(Blind, "depth")
    run = ["nyuv2", "--data", str(tmp_path), "--predictor", "blind_models:Blind"]
    assert evaluate.main([*run, "--out", str(tmp_path / "r.json")]) == 1
    assert "expected 'blind' to have depth()" in capsys.readouterr().err


def test_this_projects_network_gives_depth_of_single_images(tiny_checkpoint, tmp_path):
    sets.write_nyuv2(tmp_path, [np.full(sets.NYU_SIZE, 2.0)])
    run = ["nyuv2", "--data", str(tmp_path), "--model", str(tiny_checkpoint), "--no-pages"]
    assert evaluate.main([*run, "--out", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["not_finite_share"] == 0.0
    assert report["absrel"] > 0.0


LANGUAGE = {  # by hand: nothing is found, the first object is always chosen
    "scanqa": ("questions", None),
    "sqa3d": ("questions", None),
    "scan2cap": ("objects", "mixed: given proposals in 1 of 2 scenes"),
    "scanrefer": ("acc@0.25", "mixed: given proposals in 1 of 2 scenes"),
    "multi3drefer": ("zt_f1@0.5", "chosen among given proposals"),
    "nr3d": ("accuracy", "chosen among the true ones"),
    "sr3d": ("accuracy", "chosen among the true ones"),
}
VALUES = {"objects": 6.0, "acc@0.25": 0.0, "zt_f1@0.5": 100.0, "accuracy": 50.0}


@pytest.mark.parametrize("name", LANGUAGE)
def test_each_language_benchmark_from_files_to_the_report(name, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(caption_metrics, "find_java", lambda: None)
    data, out = hand_made.write_everything(tmp_path), tmp_path / "report.json"
    hand_made.write_referit3d(data, name="sr3d")
    hand_made.write_masks(data, "scene0000_00", [[0, 1], [4, 5]])
    for scene_id in hand_made.SCENES:
        hand_made.write_frames(data, scene_id)
    run = [name, "--data", str(data), "--predictor", "blind_models:Blind", "--out", str(out)]
    assert evaluate.main(run) == 0
    report = json.loads(out.read_text())
    measure, boxes = LANGUAGE[name]
    assert report[measure] == pytest.approx(VALUES.get(measure, report["cases"]))
    assert report.get("boxes", "").startswith(boxes or "")
    assert ("boxes" in report) == (boxes is not None)
    assert out.with_suffix(".html").read_text().count("class='case'") == report["cases"]


def test_every_benchmark_runs_from_the_command_line():
    """SynthRooms does in test_evaluate.py."""
    assert {*EXPECTED, *LANGUAGE, "synthrooms"} == set(evaluate.BENCHMARKS)
