# SPDX-License-Identifier: Apache-2.0
"""Predictions for every benchmark torn, repeated, missing, not finite, without volume.

Each is refused with the case named, or scored as the protocol says where it has a rule: a caption
that is missing and a box without volume are 0, depth that is no number is clamped and counted.
"""

import json

import geometry_sets as sets
import hand_made
import numpy as np
import pytest

from vidllm_ros.cli import evaluate, score
from vidllm_ros.evaluation import caption_metrics
from vidllm_ros.evaluation.benchmark_registry import BENCHMARKS, load_benchmark
from vidllm_ros.evaluation.benchmark_run import read_predictions
from vidllm_ros.evaluation.predictor import ScoredAabb

NAN = float("nan")
ROOM = "synthroom1000000"
SMALL_ROOM = ("--seeds", "1000000:1000001", "--frames", "2")
FLAT = [0.0, 0, 0, 0, 1, 1]
MAKERS = {
    "nyuv2": lambda root: sets.write_nyuv2(root, [np.full(sets.NYU_SIZE, 2.0)] * 2),
    "co3dv2": lambda root: sets.write_co3d(
        root, {"apple": {"a": (0.9, sets.random_poses(50, 1))}}
    ),
    "re10k": lambda root: sets.write_re10k(root, "one", sets.random_poses(12, 1)),
    "scannet-reconstruction": lambda root: sets.write_scannet(root, "scene0707_00"),
    "synthrooms": lambda root: root.mkdir(),
}
WRONG = {  # a case, what is written into its record, what has to be said
    "scanqa": ("val-scene0000-1", {"answer": None}, "'answer' to be a str"),
    "sqa3d": ("220602000003", {"answer": 3}, "'answer' to be a str"),
    "scan2cap": ("scene0000_00|2|table", {"box": [0, 3, 0, 2, NAN, 1]}, "'box' to be finite"),
    "scanrefer": ("scene0000_00|2|0", {"box": [0, 3, 0, 2, NAN, 1]}, "'box' to be finite"),
    "multi3drefer": ("scene0000_00|2", {"boxes": [[0, 3, 0, 2, NAN, 1]]}, "'boxes' to be finite"),
    "nr3d": ("1", {"object_id": 1.5}, "'object_id' to be a int"),
    "sr3d": ("1", {"object_id": "chair"}, "'object_id' to be a int"),
    "nyuv2": ("bathroom/rgb_00001.jpg", {"depth": [1.0, 2.0]}, "expected 'depth' (h, w)"),
    "co3dv2": ("apple/a", {"T_world_camera": np.full((10, 4, 4), NAN).tolist()}, "to be finite"),
    "re10k": ("one", {"T_world_camera": [[1.0] * 16] * 10}, "of shape (10, 4, 4)"),
    "scannet-reconstruction": ("scene0707_00", {"cloud": [[0.0, 0.0, NAN]]}, "to be finite"),
    "synthrooms": (f"{ROOM}/geometry", {"depth": np.full((2, 4, 4), NAN).tolist()}, "be finite"),
}
SCORED = {  # what the protocol has a rule for: case, record, measure, and what it then is
    "scan2cap": ("scene0000_00|0|chair", {"box": FLAT}, "found@0.25", 0.0),
    "scanrefer": ("scene0000_00|2|0", {"box": FLAT}, "acc@0.25", 0.0),
    "multi3drefer": ("scene0000_00|2", {"boxes": [FLAT]}, "st_wo_d_f1@0.25", 0.0),
    "nr3d": ("0", {"object_id": None}, "accuracy", 0.0),
    "nyuv2": (
        "bathroom/rgb_00001.jpg",
        {"depth": np.full((2, 2), NAN).tolist()},
        "not_finite_share",
        0.5,
    ),
}


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Return a function that predicts a benchmark once: its data folder and its records."""
    pytest.importorskip("pycocoevalcap")
    made = {}

    def of(name):
        if name not in made:
            made[name] = make(name, tmp_path_factory.mktemp(name))
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_metrics, "find_java", lambda: None)
        yield of


def make(name, folder):
    root = folder / "data"
    if name in MAKERS:
        MAKERS[name](root)
    else:
        hand_made.write_everything(root)
        hand_made.write_referit3d(root, name="sr3d")
        for scene_id in hand_made.SCENES:
            hand_made.write_frames(root, scene_id)
            hand_made.write_masks(root, scene_id, [[0, 1], [2, 3]])
    run = [name, "--data", str(root), "--out", str(folder / "r.json"), "--no-pages"]
    if name == "synthrooms":
        run += [*SMALL_ROOM, "--baseline-rooms", "0", "--text-only-minutes", "0"]
    assert evaluate.main([*run, "--predictor", "blind_models:Blind"]) == 0
    fields = load_benchmark(name).array_fields
    records = read_predictions(folder / "r.predictions", fields)
    plain = [
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in records[i].items()}
        for i in records
    ]
    return root, plain


def scored(name, root, folder, text):
    """Score a predictions file and return the exit code and where the report would be."""
    folder.mkdir(exist_ok=True)
    (folder / "preds.json").write_text(text)
    more = SMALL_ROOM if name == "synthrooms" else ()
    run = [name, "--data", str(root), "--predictions", str(folder / "preds.json"), "--no-pages"]
    return score.main([*run, *more, "--out", str(folder / "s.json")]), folder / "s.json"


def refused(capsys, code, out):
    assert code == 1
    assert not out.exists()
    line = capsys.readouterr().err.split("vidllm score:")[1].strip()
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", BENCHMARKS)
def test_torn_and_repeated_predictions_are_named(name, predicted, tmp_path, capsys):
    root, records = predicted(name)
    capsys.readouterr()
    whole = json.dumps(records)
    line = refused(capsys, *scored(name, root, tmp_path, whole[:-9]))
    assert "preds.json: expected JSON" in line
    twice = json.dumps([*records, records[0]])
    line = refused(capsys, *scored(name, root, tmp_path, twice))
    assert f"record {len(records)}: case_id {records[0]['case_id']!r} is there twice" in line


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "scan2cap"])
def test_a_missing_prediction_is_no_zero(name, predicted, tmp_path, capsys):
    root, records = predicted(name)
    capsys.readouterr()
    line = refused(capsys, *scored(name, root, tmp_path, json.dumps(records[:-1])))
    assert f"1 are missing ({records[-1]['case_id']})" in line


def test_a_missing_caption_is_a_zero(predicted, tmp_path):
    """Trap: Scan2Cap averages over all objects, described or not."""
    root, records = predicted("scan2cap")
    means = []
    for part in (records, [r for r in records if r["case_id"] != "scene0000_00|0|chair"]):
        code, out = scored("scan2cap", root, tmp_path, json.dumps(part))
        assert code == 0
        means.append(json.loads(out.read_text()))
    assert means[0]["objects"] == means[1]["objects"] == 6
    assert means[0]["found@0.5"] - means[1]["found@0.5"] == pytest.approx(100 / 6, abs=1e-4)
    assert means[0]["rouge_l@0.5"] > means[1]["rouge_l@0.5"]


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_is_off_is_named(name, predicted, tmp_path, capsys):
    root, records = predicted(name)
    capsys.readouterr()
    case_id, change, said = WRONG[name]
    changed = [{**r, **change} if r["case_id"] == case_id else r for r in records]
    assert changed != records
    line = refused(capsys, *scored(name, root, tmp_path, json.dumps(changed)))
    assert f"prediction {case_id!r}" in line
    assert said in line


@pytest.mark.parametrize("name", SCORED)
def test_a_value_the_protocol_has_a_rule_for_is_scored(name, predicted, tmp_path):
    root, records = predicted(name)
    case_id, change, measure, wanted = SCORED[name]
    (record,) = [r for r in records if r["case_id"] == case_id]
    others = [r for r in records if r is not record]
    blank = {"object_id": None} if name == "nr3d" else {}
    if name == "scan2cap":
        others = [{**r, "box": None} for r in others]
    rest = [{**r, **blank} for r in others]
    code, out = scored(name, root, tmp_path, json.dumps([*rest, {**record, **change}]))
    assert code == 0
    assert json.loads(out.read_text())[measure] == pytest.approx(wanted)


def test_every_benchmark_is_here():
    assert set(WRONG) == set(BENCHMARKS)


def broken(name):
    """Return what a broken model gives, by the method that a benchmark asks."""
    nan_box = ScoredAabb(np.array([0, 0, 0, 1, 1, NAN]))
    return {
        "scanqa": ("answer", None),
        "sqa3d": ("answer", 3),
        "scan2cap": ("caption", None),
        "scanrefer": ("ground_one", nan_box),
        "multi3drefer": ("ground", [nan_box]),
        "nr3d": ("choose", 1.5),
        "sr3d": ("choose", "chair"),
        "nyuv2": ("depth", np.zeros((2, 3, 3))),
        "co3dv2": ("poses", np.full((10, 4, 4), NAN)),
        "re10k": ("poses", np.ones((10, 4, 4))),
        "scannet-reconstruction": ("cloud", np.full((2, 3), NAN)),
        "synthrooms": ("depth", np.full((2, 4, 4), NAN)),
    }[name]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_broken_model_is_stopped_at_its_first_case(
    name, predicted, tmp_path, capsys, monkeypatch
):
    """Not after hours of predicting, with a record in the folder that no later run would mend."""
    import blind_models

    root, records = predicted(name)
    capsys.readouterr()
    method, value = broken(name)
    monkeypatch.setattr(blind_models.Blind, method, lambda self, seen, *rest, **more: value)
    out = tmp_path / "r.json"
    run = [name, "--data", str(root), "--out", str(out), "--predictor", "blind_models:Blind"]
    if name == "synthrooms":
        run += [*SMALL_ROOM, "--baseline-rooms", "0"]
    assert evaluate.main(run) == 1
    line = capsys.readouterr().err.split("vidllm evaluate:")[1]
    assert records[0]["case_id"] in line or "prediction" in line
    assert not list((tmp_path / "r.predictions").glob("*.jsonl"))
