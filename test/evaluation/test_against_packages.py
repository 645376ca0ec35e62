# SPDX-License-Identifier: Apache-2.0
"""The scorers' numbers against packages that many people use: evo, scikit-learn, scipy, Open3D.

Clouds against Open3D are in test_reconstruction_metrics.py, resizing against torch in
test_benchmark_nyuv2.py, sentences against plain twins in test_caption_metrics.py.
"""

from itertools import combinations

import numpy as np
import open3d
import pytest
from geometry_sets import NYU_SIZE, random_poses
from hand_made import box_of
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from vidllm_ros.evaluation import geometry_metrics, pose_metrics, reconstruction_metrics
from vidllm_ros.evaluation.grounding_metrics import accuracy_at, multi_f1
from vidllm_ros.evaluation.qa_benchmarks import SQA3D
from vidllm_ros.evaluation.text_metrics import exact_match
from vidllm_ros.geometry.boxes import aabb_iou

COUNT = 10


def test_rotation_errors_are_evos():
    """Evo's relative pose error over all pairs at each distance in frames, against ours."""
    pytest.importorskip("evo", reason="evo: pip install -r requirements-dev.txt")
    from evo.core.metrics import RPE, PoseRelation, Unit
    from evo.core.trajectory import PosePath3D

    ours, truth = random_poses(COUNT, 3), random_poses(COUNT, 4)
    rotation, _ = pose_metrics.relative_pose_errors(ours, truth)
    by_pair = dict(zip(combinations(range(COUNT), 2), rotation, strict=True))
    paths = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(ours))
    for apart in range(1, COUNT):
        metric = RPE(PoseRelation.rotation_angle_deg, apart, Unit.frames, all_pairs=True)
        metric.process_data(paths)
        wanted = [by_pair[i, i + apart] for i in range(COUNT - apart)]
        assert np.allclose(metric.error, wanted, atol=1e-6)
    assert len(by_pair) == 45


def test_directions_are_those_of_evos_relative_poses():
    lie = pytest.importorskip("evo.core.lie_algebra", reason="evo: requirements-dev.txt")
    ours, truth = random_poses(COUNT, 5), random_poses(COUNT, 6)
    _, direction = pose_metrics.relative_pose_errors(ours, truth)
    for (i, j), angle in zip(combinations(range(COUNT), 2), direction, strict=True):
        said, true = (lie.relative_se3(T[i], T[j])[:3, 3] for T in (ours, truth))
        cosine = 1 - cdist(said[None], true[None], "cosine")[0, 0]
        assert angle == pytest.approx(np.degrees(np.arccos(abs(cosine))), abs=1e-6)


def test_accuracies_below_a_limit_are_an_empirical_distribution():
    """mAA(30) is the mean of scipy's empirical distribution at 1, 2 ... 30 degrees, open."""
    from scipy.stats import ecdf

    rng = np.random.default_rng(0)
    rotation, direction = rng.uniform(0, 45, (2, 300))
    shares = ecdf(np.maximum(rotation, direction)).cdf.evaluate(np.arange(1, 31))
    score = pose_metrics.score_pairs(rotation, direction)
    assert score.maa30 == pytest.approx(shares.mean())
    assert score.rra15 == pytest.approx(float(ecdf(rotation).cdf.evaluate(15)))
    assert score.rta15 == pytest.approx(float(ecdf(direction).cdf.evaluate(15)))


def test_depth_errors_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn: requirements-dev.txt")
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.5, 9.0, NYU_SIZE)
    guess = np.clip(truth * rng.lognormal(0, 0.2, NYU_SIZE), 1e-3, 10.0)
    truth[rng.random(NYU_SIZE) < 0.3] = 0.0  # no reading
    errors = geometry_metrics.nyuv2_errors(guess, truth)
    crop = np.s_[45:471, 41:601]
    known = truth[crop] > 0
    true, said = truth[crop][known], guess[crop][known]
    assert errors.absrel == pytest.approx(sklearn.mean_absolute_percentage_error(true, said))
    assert errors.rmse_m == pytest.approx(sklearn.root_mean_squared_error(true, said))
    logs = np.log10(true), np.log10(said)
    assert errors.log10 == pytest.approx(sklearn.mean_absolute_error(*logs))
    for power, name in enumerate(("delta1", "delta2", "delta3"), start=1):
        within = np.abs(np.log(said / true)) < power * np.log(1.25)
        assert getattr(errors, name) == pytest.approx(
            sklearn.accuracy_score(np.ones(len(true), bool), within)
        )


def test_answers_by_first_word_are_scikit_learns_accuracies(tmp_path):
    """One answer a question, so exact match is the accuracy of labels; a group is its recall."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn: requirements-dev.txt")
    from hand_made import write_sqa3d

    write_sqa3d(tmp_path)
    cases = list(SQA3D.load(tmp_path, "test"))
    said = ["chair", "chair", "no", "two", "yes", "left", "no"]
    true = [case.truth.answers[0] for case in cases]
    records = {
        c.case_id: {"case_id": c.case_id, "answer": s} for c, s in zip(cases, said, strict=True)
    }
    values = SQA3D.score(SQA3D.load(tmp_path, "test"), records).values
    assert values["em"] == pytest.approx(100 * sklearn.accuracy_score(true, said))
    hits = [exact_match(s, [t]) for s, t in zip(said, true, strict=True)]
    for kind in {case.truth.kind for case in cases}:
        rows = [case.truth.kind == kind for case in cases]
        wanted = sklearn.recall_score(rows, np.logical_and(rows, hits))
        assert values[f"em_{kind}"] == pytest.approx(100 * wanted)


def test_f1_of_a_phrase_is_scikit_learns():
    """Boxes far apart: which are found is a labelling, and F1 over all of them the same number."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn: requirements-dev.txt")
    boxes = np.array([[3.0 * i, 0, 0, 3.0 * i + 1, 1, 1] for i in range(12)])
    rng = np.random.default_rng(2)
    for _ in range(30):
        is_true, is_said = rng.random(12) < 0.5, rng.random(12) < 0.5
        if is_true.any():
            wanted = sklearn.f1_score(is_true, is_said, zero_division=0.0)
            assert multi_f1(boxes[is_said], boxes[is_true], 0.5) == pytest.approx(wanted)


def test_accuracy_at_an_iou_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn: requirements-dev.txt")
    ious = np.random.default_rng(3).uniform(0, 1, 50)
    wanted = sklearn.accuracy_score(np.ones(50, bool), ious >= 0.25)
    assert accuracy_at(list(ious), 0.25) == pytest.approx(wanted)


def test_boxes_overlap_as_open3d_volumes_say():
    """Intersection and union from Open3D's boxes, whose points are ours."""
    rng = np.random.default_rng(4)
    low = rng.uniform(0, 1, (40, 3))
    boxes = np.concatenate([low, low + rng.uniform(0.2, 1.0, low.shape)], axis=1)
    ious = aabb_iou(boxes[:20], boxes[20:])

    def volume(box):
        return open3d.geometry.AxisAlignedBoundingBox(box[:3], box[3:]).volume()

    for i, a in enumerate(boxes[:20]):
        for j, b in enumerate(boxes[20:]):
            inner = np.concatenate([np.maximum(a[:3], b[:3]), np.minimum(a[3:], b[3:])])
            shared = volume(inner) if (inner[3:] > inner[:3]).all() else 0.0
            union = volume(a) + volume(b) - shared
            assert ious[i, j] == pytest.approx(shared / union)


def test_the_box_of_an_instance_is_open3ds(tmp_path):
    from hand_made import ALIGNMENT, SCENES, write_scan

    from vidllm_ros.data.annotations.scannet_scene import read_scene

    scene_id = "scene0000_00"
    folder = write_scan(tmp_path, scene_id)
    cloud = open3d.io.read_point_cloud(str(folder / f"{scene_id}_vh_clean_2.ply"))
    cloud.transform(ALIGNMENT)
    for item in read_scene(tmp_path, scene_id).instances:
        own = cloud.select_by_index([2 * item.object_id, 2 * item.object_id + 1])
        box = own.get_axis_aligned_bounding_box()
        assert np.allclose(item.aabb, [*box.min_bound, *box.max_bound], atol=1e-6)
        assert np.allclose(item.aabb, box_of(scene_id, item.object_id), atol=1e-5)
    assert len(SCENES[scene_id]) == 5


def test_cloud_scores_are_a_search_over_all_pairs():
    rng = np.random.default_rng(5)
    ours, truth = rng.uniform(0, 1, (200, 3)), rng.uniform(0, 1, (300, 3))
    score = reconstruction_metrics.cloud_score(ours, truth, limit_m=0.1, voxel_m=None)
    every = cdist(ours, truth)
    assert score.acc_m == pytest.approx(every.min(1).mean())
    assert score.comp_m == pytest.approx(every.min(0).mean())
    assert score.precision == pytest.approx(np.mean(every.min(1) < 0.1))
    assert score.recall == pytest.approx(np.mean(KDTree(ours).query(truth)[0] < 0.1))
