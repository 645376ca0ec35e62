# SPDX-License-Identifier: Apache-2.0
"""Rooms in the published formats through the published benchmarks' readers and scorers."""

from collections import Counter

import numpy as np
import pytest

from vidllm_ros.data.synthrooms.published import write_published
from vidllm_ros.evaluation import caption_metrics
from vidllm_ros.evaluation.benchmark_registry import load_benchmark

pytest.importorskip("pycocoevalcap")
BOXES = ("scan2cap", "scanrefer", "multi3drefer")


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(caption_metrics, "find_java", lambda: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("rooms")
    return write_published(place, (1_000_000, 1_000_001), 4, 42, 56, "val", 0.3)


@pytest.fixture(scope="module")
def cases(folder):
    names = ("scanqa", "sqa3d", *BOXES)
    return {name: load_benchmark(name).load(folder, "val") for name in names}


def scored(name, cases, make):
    records = {case.case_id: {"case_id": case.case_id, **make(case.truth)} for case in cases}
    return load_benchmark(name).score(cases, records).values


def oracle(name):
    return {
        "scanqa": lambda truth: {"answer": truth.answers[0]},
        "sqa3d": lambda truth: {"answer": truth.answers[-1].upper()},
        "scan2cap": lambda truth: {"caption": truth.texts[0], "box": truth.aabb.tolist()},
        "scanrefer": lambda truth: {"box": truth.aabbs[0].tolist()},
        "multi3drefer": lambda truth: {"boxes": truth.aabbs[::-1].tolist()},
    }[name]


@pytest.mark.parametrize(
    ("name", "measures"),
    [
        ("scanqa", ("em1", "em1_leo", "em1_refined_leo", "bleu1", "rouge_l")),
        ("sqa3d", ("em", "em_refined")),
        ("scan2cap", ("bleu4@0.5", "rouge_l@0.5", "placeholder_bleu4@0.5", "found@0.5")),
        ("scanrefer", ("acc@0.25", "acc@0.5", "unique_acc@0.5", "multiple_acc@0.5")),
        ("multi3drefer", ("f1@0.5", "zt_f1@0.5", "st_f1@0.5", "mt_f1@0.5")),
    ],
)
def test_the_truth_scores_everything(cases, name, measures):
    values = scored(name, cases[name], oracle(name))
    assert {measure: values[measure] for measure in measures} == pytest.approx(
        dict.fromkeys(measures, 100.0)
    )


def test_the_mean_box_scores_little(cases):
    truths = [case.truth.aabbs for case in cases["scanrefer"]]
    mean = np.mean(np.concatenate(truths), axis=0).tolist()
    refer = scored("scanrefer", cases["scanrefer"], lambda truth: {"box": mean})
    multi = scored("multi3drefer", cases["multi3drefer"], lambda truth: {"boxes": [mean]})
    told = scored(
        "scan2cap",
        cases["scan2cap"],
        lambda truth: {"caption": truth.texts[0], "box": mean},
    )
    assert refer["acc@0.25"] < 30
    assert refer["acc@0.5"] < 10
    assert multi["f1@0.5"] < 10
    assert multi["zt_f1@0.5"] == 0.0
    assert told["rouge_l@0.5"] < 20


def test_the_most_frequent_answer_scores_less_than_half(cases):
    answers = Counter(case.truth.answers[0] for case in cases["scanqa"])
    common = answers.most_common(1)[0][0]
    values = scored("scanqa", cases["scanqa"], lambda truth: {"answer": common})
    assert 0 < values["em1"] < 50


def test_a_scene_opens_with_its_frames_and_pose(cases):
    for name in ("scanqa", *BOXES):
        view = cases[name].open_scene(cases[name].scene_ids[1])
        assert view.frames.images.shape == (4, 42, 56, 3)
        assert (view.T_benchmark_first is None) == (name == "scanqa")
