# SPDX-License-Identifier: Apache-2.0
"""Rooms as cases: what is asked, where rooms are kept, and numbers by hand."""

import numpy as np
import pytest

from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.evaluation.baselines import fit_baselines
from vidllm_ros.evaluation.benchmark_seeds import TEST_SEEDS, parse_seeds
from vidllm_ros.evaluation.benchmark_synthrooms import load, sample_cases
from vidllm_ros.evaluation.benchmark_synthrooms_scores import (
    RoomTally,
    task_of,
    trivial_geometry,
    truth_in_window,
)
from vidllm_ros.evaluation.geometry_metrics import f_scores
from vidllm_ros.evaluation.predictor_vidllm import window_cloud


@pytest.fixture(scope="module")
def sample():
    return make_scene(1_000_001, frames=3, height=42, width=56)


@pytest.fixture(scope="module")
def cases(sample):
    return sample_cases(sample)


def truth_record(case, sample):
    task, truth = task_of(case.case_id), case.truth
    if task == "geometry":
        valid = np.isfinite(sample.depth)
        poses = truth_in_window(sample)
        return {
            "depth": np.where(valid, sample.depth, 1.0),
            "T_world_camera": poses,
            "cloud": window_cloud(sample.depth, valid, sample.K, poses),
        }
    return {
        "question": lambda: {"answer": truth.answers[0]},
        "one": lambda: {"box": truth.aabbs[0].tolist()},
        "phrase": lambda: {"boxes": truth.aabbs.tolist()},
        "object": lambda: {"caption": truth.texts[0], "box": truth.aabb.tolist()},
    }[task]()


def test_the_frozen_test_split():
    assert parse_seeds(TEST_SEEDS) == (2_000_000, 2_000_200)


def test_cases_tell_a_model_no_truth(sample, cases):
    tasks = [task_of(case.case_id) for case in cases]
    assert tasks.count("geometry") == 1
    assert tasks.count("question") == len(sample.questions)
    assert tasks.count("phrase") == len(sample.references)
    assert tasks.count("one") == sum(len(r.object_ids) == 1 for r in sample.references)
    assert tasks.count("object") == len({c.object_id for c in sample.captions})
    assert len({case.case_id for case in cases}) == len(cases)
    for case in cases:
        assert set(case.request) <= {"question", "family", "phrase", "given"}


def test_the_truth_scores_full_marks_and_trivial_answers_less(sample, cases):
    tally = RoomTally(fit_baselines([sample]), lambda question: "nonsense")
    records = {case.case_id: truth_record(case, sample) for case in cases}
    tally.add_room(sample, cases, records)
    report = tally.report()
    for name in (
        *("depth_delta1", "pose_maa30", "fscore_10cm", "fscore_5cm", "qa_em", "qa_em_refined"),
        *("grounding_acc25", "grounding_acc50", "multi_f1_25", "multi_f1_50"),
    ):
        assert report[name] == pytest.approx(1.0), name
    assert report["depth_absrel"] == pytest.approx(0.0, abs=1e-9)
    assert report["caption_cider50"] > 5.0
    assert report["qa_em_text_only"] == 0.0
    assert report["baseline_constant_depth_absrel"] > 0.05
    assert report["baseline_still_pose_maa30"] < 0.5
    assert 0.0 < report["baseline_most_frequent_qa_em"] < 1.0
    assert report["baseline_most_frequent_in_family_qa_em"] > 0.0
    assert report["baseline_mean_box_grounding_acc50"] < 1.0
    assert report["questions"] == len(sample.questions)
    row = tally.ours.per_case[f"{sample.scene_id}/geometry"]
    assert (row["task"], row["quality"]) == ("geometry", 1.0)


def test_misses_and_wrong_words_count_nothing(sample, cases):
    records = {case.case_id: truth_record(case, sample) for case in cases}
    for case in cases:
        empty = {
            "question": {"answer": "xyzzy"},
            "one": {"box": None},
            "phrase": {"boxes": []},
            "object": {"caption": "a chair", "box": None},
        }.get(task_of(case.case_id))
        if empty is not None:
            records[case.case_id] = {"case_id": case.case_id, **empty}
    tally = RoomTally()
    tally.add_room(sample, cases, records)
    report = tally.report()
    assert report["qa_em"] == report["grounding_acc25"] == report["caption_cider50"] == 0.0
    nothing = np.mean([not r.object_ids for r in sample.references])
    assert report["multi_f1_25"] == pytest.approx(nothing)


def test_geometry_is_compared_without_scale(sample, cases):
    geometry = next(case for case in cases if task_of(case.case_id) == "geometry")
    record = truth_record(geometry, sample)
    record = record | {"depth": 1.2 * record["depth"], "cloud": 1.2 * record["cloud"]}
    tally = RoomTally()
    tally.add_room(sample, [geometry], {geometry.case_id: record})
    report = tally.report()
    assert report["depth_absrel"] == pytest.approx(0.2)
    assert report["scale_error_median"] == pytest.approx(0.2)
    assert report["depth_absrel_median_scaled"] == pytest.approx(0.0, abs=1e-6)
    valid = np.isfinite(sample.depth)
    truth = window_cloud(sample.depth, valid, sample.K, truth_in_window(sample))
    assert report["fscore_5cm"] == pytest.approx(f_scores(record["cloud"], truth, (0.05,))[0.05].f)


def test_a_missing_or_wrong_record_is_named(sample, cases):
    geometry = cases[0]
    with pytest.raises(ValueError, match=geometry.case_id):
        RoomTally().add_room(sample, cases, {})
    record = truth_record(geometry, sample) | {"case_id": geometry.case_id}
    record["T_world_camera"] = record["T_world_camera"][:2]
    with pytest.raises(ValueError, match=rf"'{geometry.case_id}': expected 'T_world_camera' of"):
        RoomTally().add_room(sample, [geometry], {geometry.case_id: record})


def test_the_constant_camera_stands_still(sample):
    record = trivial_geometry(fit_baselines([sample]), sample)
    assert np.allclose(record["T_world_camera"], np.eye(4))
    assert np.ptp(record["depth"]) == 0


def test_rooms_are_rendered_once_into_the_folder(tmp_path):
    cases = load(tmp_path, "1000001:1000002", frames=2)
    first = cases.cases_of("synthroom1000001")
    files = list(tmp_path.glob("room*.npz"))
    assert [file.name for file in files] == ["room1000001.npz"]
    stamp = files[0].stat().st_mtime_ns
    again = load(tmp_path, "1000001:1000002", frames=2)
    assert [c.case_id for c in again.cases_of("synthroom1000001")] == [c.case_id for c in first]
    assert files[0].stat().st_mtime_ns == stamp
    view = again.open_scene("synthroom1000001")
    assert np.allclose(view.T_benchmark_first, first[0].truth.T_world_camera[0])
    with pytest.raises(ValueError, match="expected rooms of"):
        load(tmp_path, "1000001:1000002", frames=3)
    with pytest.raises(ValueError, match="expected synthroomNNNNNNN"):
        again.cases_of("kitchen")
