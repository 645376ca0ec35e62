# SPDX-License-Identifier: Apache-2.0
"""A run stopped anywhere goes on where it was; torn and foreign predictions are named."""

import json

import numpy as np
import pytest

from vidllm_ros.evaluation.benchmark_cases import Benchmark, Case, Scores, cases_from_items
from vidllm_ros.evaluation.benchmark_run import (
    RunFolder,
    load_array,
    predict_cases,
    read_predictions,
)
from vidllm_ros.evaluation.predictor import SceneView
from vidllm_ros.structures import Frames

IDENTITY = {"benchmark": "counting", "model": "counter"}


class Counter:
    """Answers with how often it was asked; stops the run when told to."""

    name = "counter"

    def __init__(self, stops_at=None):
        self.asked, self.seen, self.stops_at = 0, [], stops_at

    def see(self, view):
        self.seen.append(view.scene_id)
        return view.scene_id

    def answer(self, seen, question, situation=""):
        if self.asked == self.stops_at:
            raise KeyboardInterrupt
        self.asked += 1
        return f"{seen}: {question}"


def predict(predictor, seen, case):
    said = predictor.answer(seen, case.request["question"])
    return {"answer": said, "map": np.full((2, 2), 3.5, np.float32)}


def score(cases, predictions):
    rows = {case.case_id: {"length": len(predictions[case.case_id]["answer"])} for case in cases}
    return Scores({"cases": len(rows)}, rows, "counting", "length")


BENCHMARK = Benchmark(
    "counting", "Counting", ("all",), None, predict, score, "nothing", "ours", "all", ("map",)
)


@pytest.fixture
def cases():
    items = [
        Case(f"{scene}-{n}", scene, {"question": f"{n}?"}) for scene in "abc" for n in range(3)
    ]
    frames = Frames(np.zeros((1, 4, 4, 3), np.uint8), (0,))
    return cases_from_items(items, lambda scene: SceneView(scene, frames), "all")


def test_a_stopped_run_goes_on_where_it_was(cases, tmp_path):
    first = Counter(stops_at=4)
    with pytest.raises(KeyboardInterrupt):
        predict_cases(BENCHMARK, cases, first, RunFolder(tmp_path, IDENTITY))
    second = Counter()
    done = []
    fresh = predict_cases(BENCHMARK, cases, second, RunFolder(tmp_path, IDENTITY), done.append)
    assert (first.asked, fresh, second.asked) == (4, 5, 5)
    assert second.seen == ["b", "c"]  # scene a was done and is not even looked at
    assert done == [3, 3, 3]
    records = read_predictions(tmp_path, ("map",))
    assert set(records) == {case.case_id for case in cases}
    assert records["b-2"]["answer"] == "b: 2?"
    assert records["b-2"]["map"].tolist() == [[3.5, 3.5], [3.5, 3.5]]


def test_a_line_torn_by_a_crash_is_predicted_again(cases, tmp_path):
    predict_cases(BENCHMARK, cases, Counter(), RunFolder(tmp_path, IDENTITY))
    file = tmp_path / "predictions-0.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-20])
    again = Counter()
    assert predict_cases(BENCHMARK, cases, again, RunFolder(tmp_path, IDENTITY)) == 1
    assert file.read_text() == whole
    lines = whole.splitlines(keepends=True)
    file.write_text(lines[0] + lines[1][:10] + "\n" + "".join(lines[2:]))
    with pytest.raises(ValueError, match=r"predictions-0.jsonl, line 2: expected JSON"):
        read_predictions(tmp_path)


def test_processes_share_scenes_and_any_number_goes_on(cases, tmp_path):
    shares = [cases.part(index, 2) for index in range(2)]
    assert [share.scene_ids for share in shares] == [("a", "c"), ("b",)]
    predict_cases(BENCHMARK, shares[1], Counter(), RunFolder(tmp_path, IDENTITY, process=1))
    alone = Counter()
    predict_cases(BENCHMARK, cases, alone, RunFolder(tmp_path, IDENTITY))
    assert alone.seen == ["a", "c"]
    assert len(read_predictions(tmp_path)) == 9


def test_a_folder_of_another_run_is_refused(cases, tmp_path):
    RunFolder(tmp_path, IDENTITY).open()
    with pytest.raises(ValueError, match="model 'counter' is now 'other'"):
        RunFolder(tmp_path, IDENTITY | {"model": "other"}).open()


@pytest.mark.parametrize(
    "text",
    [
        '[{"case_id": "a", "answer": "x"}]',
        '{"a": {"answer": "x"}}',
        '{"predictions": [{"case_id": "a", "answer": "x"}]}',
        '{"predictions": {"a": {"answer": "x"}}}',
    ],
)
def test_anybodys_json_is_read(tmp_path, text):
    (tmp_path / "preds.json").write_text(text)
    assert read_predictions(tmp_path / "preds.json")["a"] == {"case_id": "a", "answer": "x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"case_id": "a"}, {"case_id": "a"}]', "record 1: case_id 'a' is there twice"),
        ('[{"answer": "x"}]', "record 0: expected a record with 'case_id'"),
        ('{"a": 3}', "record 0: expected a record"),
        ('[{"case_id": "a"}', "expected JSON"),
        ("3", "expected a list of records, got int"),
    ],
)
def test_strange_json_is_named(tmp_path, text, said):
    (tmp_path / "preds.json").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read_predictions(tmp_path / "preds.json")
    assert "preds.json" in str(error.value)


def test_a_line_separator_inside_a_text_is_no_end_of_line(tmp_path):
    record = {"case_id": "a", "answer": "one\u2028two"}
    (tmp_path / "preds.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n")
    assert read_predictions(tmp_path / "preds.jsonl")["a"] == record


def test_torn_and_missing_arrays_are_named(tmp_path):
    record = {"case_id": "a", "map": "a.npy"}
    (tmp_path / "preds.jsonl").write_text(json.dumps(record) + "\n")
    records = read_predictions(tmp_path / "preds.jsonl", ("map",))
    with pytest.raises(FileNotFoundError, match="field 'map' of prediction 'a'"):
        records["a"]
    np.save(tmp_path / "a.npy", np.zeros((30, 30)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-50])
    with pytest.raises(ValueError, match="'map' of prediction 'a': expected a whole"):
        load_array(tmp_path / "a.npy", "a", "map")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_predictions(tmp_path / "nothing.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="found none"):
        read_predictions(tmp_path / "empty")
