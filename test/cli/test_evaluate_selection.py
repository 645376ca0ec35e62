# SPDX-License-Identifier: Apache-2.0
"""What of a benchmark is asked for and scored: part of the scenes, objects that have no box."""

import json

import hand_made
import pytest

from vidllm_ros.cli import evaluate, score
from vidllm_ros.evaluation import caption_metrics

SCENE = "scene0000_00"


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(caption_metrics, "find_java", lambda: None)


@pytest.fixture
def root(tmp_path):
    root = hand_made.write_everything(tmp_path / "data")
    for scene_id in hand_made.SCENES:
        hand_made.write_frames(root, scene_id)
    return root


def evaluated(name, root, out, *more):
    arguments = [name, "--data", str(root), "--out", str(out), "--no-pages", *more]
    assert evaluate.main([*arguments, "--predictor", "blind_models:Blind"]) == 0
    return json.loads(out.read_text())


def scored(name, root, out, predictions, *more):
    arguments = [name, "--data", str(root), "--out", str(out), "--no-pages", *more]
    return score.main([*arguments, "--predictions", str(predictions)])


@pytest.mark.parametrize(
    ("name", "measure", "cases", "elsewhere"),
    [
        ("scanqa", "questions", 2, 1),
        ("scan2cap", "objects", 4, 2),
        ("scanrefer", "descriptions", 5, 2),
    ],
)
def test_fewer_scenes_than_were_predicted(name, measure, cases, elsewhere, root, tmp_path, capsys):
    whole = evaluated(name, root, tmp_path / "r.json")
    assert whole[measure] == cases + elsewhere
    assert "predictions_not_scored" not in whole
    capsys.readouterr()
    part = evaluated(name, root, tmp_path / "r.json", "--scenes", "1")
    assert (part[measure], part["predictions_not_scored"]) == (cases, elsewhere)
    assert f"{elsewhere} of {cases + elsewhere} predictions are of no case" in (
        capsys.readouterr().err
    )
    folder, out = tmp_path / "r.predictions", tmp_path / "s.json"
    assert scored(name, root, out, folder, "--scenes", "1") == 0
    again = json.loads(out.read_text())
    assert (again[measure], again["predictions_not_scored"]) == (cases, elsewhere)
    assert f"not scored: {elsewhere}." in out.with_suffix(".md").read_text()


def test_captions_of_objects_nobody_described_are_still_refused(root, tmp_path, capsys):
    caption = {"caption": "a chair", "box": hand_made.box_of(SCENE, 0)}
    for key in (f"{SCENE}|7|sofa", "scene0707_00|0|chair"):
        (tmp_path / "p.json").write_text(json.dumps({key: caption}))
        arguments = ("scan2cap", root, tmp_path / "s.json", tmp_path / "p.json", "--scenes", "1")
        assert scored(*arguments) == 1
        assert f"got 1 others ('{key}'" in capsys.readouterr().err


def test_an_object_without_vertices_is_named_and_the_rest_goes_on(root, tmp_path):
    """The last group to claim a segment has it: the lamp loses both of its own to the table."""
    path = root / "scans" / SCENE / f"{SCENE}.aggregation.json"
    lamp = {"id": 9, "objectId": 9, "label": "shelf", "segments": [80, 90]}
    hand_made.change_json(path, lambda value: value["segGroups"].append(lamp))
    report = evaluated("nr3d", root, tmp_path / "r.json")
    assert report["utterances"] == 2
    assert report["boxes"] == (
        "chosen among the true ones; no candidates, being without vertices: "
        f"{SCENE} object 4 (lamp)"
    )
    assert "no candidates" in (tmp_path / "r.md").read_text()


def test_an_utterance_about_an_object_without_vertices_is_refused(root, tmp_path, capsys):
    path = root / "scans" / SCENE / f"{SCENE}.aggregation.json"
    thief = {"id": 9, "objectId": 9, "label": "shelf", "segments": [0, 10]}
    hand_made.change_json(path, lambda value: value["segGroups"].append(thief))
    run = ["nr3d", "--data", str(root), "--out", str(tmp_path / "r.json"), "--no-pages"]
    assert evaluate.main([*run, "--predictor", "blind_models:Blind"]) == 1
    said = capsys.readouterr().err
    assert "nr3d.csv: row 2" in said
    assert "object 0 ('chair')" in said
    assert "no vertices" in said


def test_a_report_says_what_the_model_was_given(root, tmp_path):
    report = evaluated("scanqa", root, tmp_path / "r.json")
    assert report["given"].startswith("32 frames")
    assert "their intrinsics" in report["given"]
    assert f"Given to the model: {report['given']}." in (tmp_path / "r.md").read_text()
    assert scored("scanqa", root, tmp_path / "s.json", tmp_path / "r.predictions") == 0
    assert "given" not in json.loads((tmp_path / "s.json").read_text())  # who knows what they saw
