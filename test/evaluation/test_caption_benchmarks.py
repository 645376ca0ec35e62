# SPDX-License-Identifier: Apache-2.0
"""Scan2Cap: misses, thresholds and variants, worked out by hand."""

import hand_made
import numpy as np
import pytest

from vidllm_ros.evaluation import caption_benchmarks as m
from vidllm_ros.evaluation import caption_metrics
from vidllm_ros.evaluation.benchmark_registry import load_benchmark
from vidllm_ros.evaluation.predictor import ScoredAabb
from vidllm_ros.evaluation.text_metrics import cider

pytest.importorskip("pycocoevalcap")
TABLE = "scene0000_00|2|table"


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(caption_metrics, "find_java", lambda: None)


@pytest.fixture
def root(tmp_path):
    return hand_made.write_everything(tmp_path)


def oracle(cases):
    return {
        case.case_id: {
            "case_id": case.case_id,
            "caption": case.truth.texts[0],
            "box": [float(v) for v in case.truth.aabb],
        }
        for case in cases
    }


def test_registered():
    assert load_benchmark("scan2cap") is m.SCAN2CAP


def test_the_oracle_is_perfect(root):
    cases = m.SCAN2CAP.load(root, "val")
    values = m.SCAN2CAP.score(cases, oracle(cases)).values
    assert values["objects"] == 6
    for name in ("bleu4", "rouge_l"):
        for limit in (0.25, 0.5):
            assert values[f"{name}@{limit}"] == pytest.approx(100.0)
            assert values[f"placeholder_{name}@{limit}"] == pytest.approx(100.0)
            assert values[f"official_{name}@{limit}"] == pytest.approx(100.0)
    assert values["found@0.5"] == 100.0


def test_a_caption_as_leo_writes_it():
    assert m.wrap_text("A chair. Red, small.") == "sos a chair .  red ,  small .  eos"
    assert m.wrap_text("") == "sos  eos"
    tokens = [f"w{i}" for i in range(40)]
    assert m.wrap_tokens(tokens).split() == ["sos", *tokens[:30], "eos"]


def test_missing_captions_score_exactly_zero(root):
    cases = m.SCAN2CAP.load(root, "val")
    values = m.SCAN2CAP.score(cases, {}).values
    for name in ("cider", "bleu4", "rouge_l"):
        for limit in (0.25, 0.5):
            assert values[f"{name}@{limit}"] == 0.0
    assert values["found@0.25"] == 0.0
    # The released code compares "sos eos", which shares two words with every reference.
    assert values["official_rouge_l@0.5"] > 5.0
    assert values["official_cider@0.5"] == 0.0


def test_misses_and_thresholds_by_hand(root):
    cases = m.SCAN2CAP.load(root, "val")
    said = oracle(cases)
    # The table is 2 x 1 x 1; a box shifted by 0.9 along x shares 1.1 of 2.9: IoU 0.379.
    said[TABLE]["box"] = [0.9, 3, 0, 2.9, 4, 1]
    del said["scene0000_00|4|lamp"]  # not predicted
    said["scene0001_00|0|chair"]["box"] = None  # described, but not found
    said["scene0000_00|3|office_chair"]["caption"] = ""  # found, but not described
    listed = list(cases)
    truths = [[m.wrap_text(text) for text in case.truth.texts] for case in listed]
    own = [m.wrap_text(case.truth.texts[0]) for case in listed]
    whole = np.array(cider(own, truths))
    hits = {0.25: [1, 0, 1, 0, 0, 1], 0.5: [1, 0, 0, 0, 0, 1]}
    values = m.SCAN2CAP.score(cases, said).values
    for limit, hit in hits.items():
        assert values[f"cider@{limit}"] == pytest.approx(100 * float(np.mean(whole * hit)))
        assert values[f"rouge_l@{limit}"] == pytest.approx(100 * sum(hit) / 6)
        assert values[f"found@{limit}"] == pytest.approx(100 * sum(hit) / 6)
        assert values[f"placeholder_rouge_l@{limit}"] > values[f"rouge_l@{limit}"] + 1


def test_an_iou_at_the_threshold_counts_except_officially(root):
    cases = m.SCAN2CAP.load(root, "val")
    said = {TABLE: oracle(cases)[TABLE]}
    said[TABLE]["box"] = [0, 3, 0, 2, 4, 2]  # twice as high: IoU one half
    case = next(case for case in cases if case.case_id == TABLE)
    case.truth.aabb[:] = [0, 3, 0, 2, 4, 1]  # without the mesh's rounding
    values = m.SCAN2CAP.score(cases, said).values
    nothing = m.SCAN2CAP.score(cases, {}).values
    assert values["rouge_l@0.5"] == pytest.approx(100 / 6)
    assert values["official_rouge_l@0.5"] == nothing["official_rouge_l@0.5"]
    assert values["official_rouge_l@0.25"] > nothing["official_rouge_l@0.25"]


def test_all_objects_count_not_only_those_found(root):
    cases = m.SCAN2CAP.load(root, "val")
    only = {TABLE: oracle(cases)[TABLE]}
    values = m.SCAN2CAP.score(cases, only).values
    assert values["rouge_l@0.5"] == pytest.approx(100 / 6)


def test_strange_and_wrong_predictions_are_named(root):
    cases = m.SCAN2CAP.load(root, "val")
    said = oracle(cases)
    with pytest.raises(ValueError, match=r"1 others \('scene0000_00\|7\|x'"):
        m.SCAN2CAP.score(cases, {**said, "scene0000_00|7|x": said[TABLE]})
    said[TABLE]["box"] = [2, 3, 0, 0, 4, 1]
    with pytest.raises(ValueError, match=r"'scene0000_00\|2\|table': expected a box as min"):
        m.SCAN2CAP.score(cases, said)
    said[TABLE]["box"] = [0, 3, 0, 2, float("nan"), 1]
    with pytest.raises(ValueError, match="finite"):
        m.SCAN2CAP.score(cases, said)
    said[TABLE]["box"] = [0, 3, 0, 0, 4, 1]  # no volume: overlaps nothing
    assert m.SCAN2CAP.score(cases, said).per_case[TABLE]["iou"] == 0.0


class Describer:
    name = "describer"

    def see(self, view):
        return view

    def caption(self, seen, aabb):
        return f"at {round(aabb[0])} {round(aabb[1])}"

    def detect(self, seen):
        return [
            ScoredAabb(np.array([0.2, 0, 0, 1.2, 1, 1])),
            ScoredAabb(np.array([0, 3, 0, 2, 4, 1.0])),
        ]


def test_the_proposal_with_the_greatest_overlap_is_described(root):
    # Proposals: object 0 and 1 together, object 0 exactly, the table; nothing on the lamp.
    hand_made.write_masks(root, "scene0000_00", [[0, 1, 2, 3], [0, 1], [4, 5]])
    cases = {case.case_id: case for case in m.SCAN2CAP.load(root, "val")}
    chair = cases["scene0000_00|0|chair"]
    assert chair.request["box"] == pytest.approx([0, 0, 0, 1, 1, 1], abs=1e-5)
    record = m.SCAN2CAP.predict(Describer(), None, cases[TABLE])
    assert record["caption"] == "at 0 3"
    lamp = m.SCAN2CAP.predict(Describer(), None, cases["scene0000_00|4|lamp"])
    assert lamp == {"case_id": "scene0000_00|4|lamp", "caption": "", "box": None}


def test_without_proposals_the_model_finds_objects_itself(root):
    cases = {case.case_id: case for case in m.SCAN2CAP.load(root, "val")}
    record = m.SCAN2CAP.predict(Describer(), None, cases["scene0000_00|0|chair"])
    assert record["box"] == [0.2, 0, 0, 1.2, 1, 1]  # 0.8 of 1.2
    far = m.SCAN2CAP.predict(Describer(), None, cases["scene0001_00|1|coffee_table"])
    assert far["box"] is None
