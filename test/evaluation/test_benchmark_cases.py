# SPDX-License-Identifier: Apache-2.0
"""Cases are unique, records are checked field by field, scores are numbers."""

import numpy as np
import pytest

from vidllm_ros.evaluation.benchmark_cases import (
    Case,
    Scores,
    cases_from_items,
    record_array,
    record_field,
    require_predictions,
)
from vidllm_ros.evaluation.benchmark_registry import BENCHMARKS, load_benchmark


def test_cases_keep_the_order_of_their_scenes():
    items = [Case("1", "b"), Case("2", "a"), Case("3", "b")]
    cases = cases_from_items(items, lambda scene: None, "val")
    assert cases.scene_ids == ("b", "a")
    assert [case.case_id for case in cases] == ["1", "3", "2"]
    assert cases.first(1).scene_ids == ("b",)
    with pytest.raises(ValueError, match="got '1' twice"):
        cases_from_items([*items, Case("1", "c")], lambda scene: None)
    with pytest.raises(ValueError, match="at least one case"):
        cases_from_items([], lambda scene: None)


def test_a_wrong_field_names_case_and_field():
    record = {"case_id": "q7", "answer": 3, "box": [0, 1, 2, 3, 4], "n": 2}
    with pytest.raises(ValueError, match="'q7': expected 'answer' to be a str, got int 3"):
        record_field(record, "answer", str)
    with pytest.raises(ValueError, match="'q7': expected 'said' to be a str, got nothing"):
        record_field(record, "said", str)
    assert record_field(record, "n", float) == 2.0
    assert record_field(record, "n", int) == 2
    with pytest.raises(ValueError, match=r"'q7': expected 'box' of shape \(6\), got \(5,\)"):
        record_array(record, "box", (6,))
    with pytest.raises(ValueError, match="'q7': expected 'box' to be numbers"):
        record_array(record | {"box": [[1], [2, 3]]}, "box", (2, None))
    with pytest.raises(ValueError, match="to be finite, got 1 values"):
        record_array(record | {"box": [0.0, np.nan]}, "box", (None,))


def test_missing_predictions_are_named():
    cases = [Case(str(n), "a") for n in range(8)]
    with pytest.raises(ValueError, match=r"7 are missing \(0, 1, 2, 3, 4, ...\)"):
        require_predictions(cases, {"7": {}})


def test_a_score_that_is_no_number_is_the_scorers_fault():
    with pytest.raises(ValueError, match="f: expected a number, got nan"):
        Scores({"f": float("nan")}, {}, "", "f")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_of_the_registry_is_a_benchmark(name):
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    assert benchmark.splits
    assert benchmark.layout
    assert benchmark.source


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="expected one of synthrooms, scanqa"):
        load_benchmark("scannet")
