# SPDX-License-Identifier: Apache-2.0
"""ScanRefer, Multi3DRefer, Nr3D: scores by hand, Hungarian matching, the view of a scene."""

from itertools import permutations

import hand_made
import numpy as np
import pytest

from vidllm_ros.data.annotations.records import AnnotationError
from vidllm_ros.evaluation import grounding_benchmarks as m
from vidllm_ros.evaluation.benchmark_registry import load_benchmark
from vidllm_ros.evaluation.grounding_metrics import multi_f1
from vidllm_ros.evaluation.predictor import ScoredAabb
from vidllm_ros.geometry.boxes import aabb_iou

SCENE = "scene0000_00"
CHAIRS = [0, 1, 3]


@pytest.fixture
def root(tmp_path):
    return hand_made.write_everything(tmp_path)


def box(object_id, shift=0.0, scene_id=SCENE):
    moved = np.array(hand_made.box_of(scene_id, object_id)) + np.array([shift, 0, 0, shift, 0, 0])
    return moved.tolist()


def test_registered():
    for name in ("scanrefer", "multi3drefer", "nr3d", "sr3d"):
        assert load_benchmark(name).name == name


def scanrefer_oracle(cases):
    return {c.case_id: {"case_id": c.case_id, "box": c.truth.aabbs[0].tolist()} for c in cases}


def test_scanrefer_by_hand(root):
    cases = m.SCANREFER.load(root, "val")
    said = scanrefer_oracle(cases)
    said[f"{SCENE}|0|0"]["box"] = box(0, 0.4)  # 0.6 of 1.4: 0.43
    said[f"{SCENE}|0|1"]["box"] = box(0, 1.0)  # touches, shares nothing
    said[f"{SCENE}|2|0"]["box"] = None
    said["scene0001_00|0|0"]["box"] = [0, 0, 0, 0, 1, 1]  # no volume
    values = m.SCANREFER.score(cases, said).values
    assert values["descriptions"] == 7
    assert (values["descriptions_unique"], values["descriptions_multiple"]) == (4, 3)
    assert values["acc@0.25"] == pytest.approx(100 * 4 / 7)
    assert values["acc@0.5"] == pytest.approx(100 * 3 / 7)
    assert values["unique_acc@0.5"] == pytest.approx(100 * 2 / 4)
    assert values["multiple_acc@0.25"] == pytest.approx(100 * 2 / 3)
    assert values["multiple_acc@0.5"] == pytest.approx(100 * 1 / 3)


def test_an_iou_at_the_threshold_counts(root):
    cases = m.SCANREFER.load(root, "val")
    said = scanrefer_oracle(cases)
    exact = {case.case_id: case for case in cases}[f"{SCENE}|0|0"].truth.aabbs[0].copy()
    half = exact.copy()
    half[5] = (exact[2] + exact[5]) / 2
    said[f"{SCENE}|0|0"]["box"] = half.tolist()
    score = m.SCANREFER.score(cases, said)
    assert score.per_case[f"{SCENE}|0|0"]["iou"] == pytest.approx(0.5)
    assert m.best_iou(half, exact[None]) >= 0.5
    assert score.values["acc@0.5"] == 100.0


def test_unique_is_of_the_whole_split_even_where_a_part_is_scored(root):
    whole = m.SCANREFER.load(root, "val")
    part = whole.part(1, 2)  # the second scene alone
    assert {c.truth.kind for c in part} == {"unique"}
    only = whole.part(0, 2)
    kinds = {c.case_id: c.truth.kind for c in only}
    assert kinds == {c.case_id: c.truth.kind for c in whole if c.scene_id == SCENE}
    assert kinds[f"{SCENE}|3|0"] == "multiple"  # though "office chair" is said once
    scores = m.SCANREFER.score(part, scanrefer_oracle(part))
    assert scores.values["descriptions"] == 2


def test_scanrefer_predictions_that_are_wrong(root):
    cases = m.SCANREFER.load(root, "val")
    said = scanrefer_oracle(cases)
    for wrong, text in (
        ([0, 0, 0, -1, 1, 1], "min x y z, max x y z"),
        ([0, 0, 0], "shape"),
        (["a"] * 6, "numbers"),
        ([0, 0, 0, 1, 1, float("inf")], "finite"),
    ):
        said[f"{SCENE}|0|0"]["box"] = wrong
        with pytest.raises(ValueError, match=text) as caught:
            m.SCANREFER.score(cases, said)
        assert f"{SCENE}|0|0" in str(caught.value)
    del said[f"{SCENE}|0|0"]["box"]
    with pytest.raises(ValueError, match="'box', got nothing"):
        m.SCANREFER.score(cases, said)
    del said[f"{SCENE}|0|0"]
    with pytest.raises(ValueError, match="1 are missing"):
        m.SCANREFER.score(cases, said)


def test_a_target_without_volume_names_the_description(root):
    path = root / "scans" / SCENE / f"{SCENE}.aggregation.json"
    hand_made.change_json(path, lambda value: value["segGroups"][2].update(segments=[40]))
    cases = m.SCANREFER.load(root, "val")
    with pytest.raises(AnnotationError, match=r"ScanRefer_filtered_val.json: record 3 .*volume"):
        list(cases)


def multi_records(answers):
    return {
        f"{SCENE}|{i}": {"case_id": f"{SCENE}|{i}", "boxes": boxes}
        for i, boxes in enumerate(answers)
    }


def test_multi3drefer_by_hand(root):
    cases = m.MULTI3DREFER.load(root, "val")
    said = multi_records(
        [
            [],  # zt_wo_d: right
            [box(1)],  # zt_w_d: wrong
            [box(2), box(4)],  # st_wo_d: 1 of 2 predictions: 2 / 3
            [box(0, 0.4)],  # st_w_d: IoU 0.43: 1 at 0.25, 0 at 0.5
            [box(0), box(1), box(0), box(1), box(4)],  # mt: 2 hits, 5 predicted, 3 true: 4 / 8
        ]
    )
    values = m.MULTI3DREFER.score(cases, said).values
    for limit in (0.25, 0.5):
        assert values[f"zt_wo_d_f1@{limit}"] == 100.0
        assert values[f"zt_w_d_f1@{limit}"] == 0.0
        assert values[f"zt_f1@{limit}"] == 50.0
        assert values[f"st_wo_d_f1@{limit}"] == pytest.approx(100 * 2 / 3)
        assert values[f"mt_f1@{limit}"] == pytest.approx(50.0)
    assert (values["st_w_d_f1@0.25"], values["st_w_d_f1@0.5"]) == (100.0, 0.0)
    assert values["f1@0.25"] == pytest.approx(100 * (1 + 0 + 2 / 3 + 1 + 0.5) / 5)
    assert values["f1@0.5"] == pytest.approx(100 * (1 + 0 + 2 / 3 + 0 + 0.5) / 5)
    assert values["phrases"] == 5


def test_a_type_the_split_lacks_has_no_number(root):
    hand_made.change_json(root / "multi3drefer_val.json", lambda value: value.pop())
    cases = m.MULTI3DREFER.load(root, "val")
    values = m.MULTI3DREFER.score(cases, multi_records([[], [], [box(2)], [box(0)]])).values
    assert not [name for name in values if name.startswith("mt")]
    assert values["f1@0.5"] == 100.0


def test_multi3drefer_predictions_that_are_wrong(root):
    cases = m.MULTI3DREFER.load(root, "val")
    for wrong, text in (
        ([[2, 3, 0, 0, 4, 1]], "min x y z, max x y z"),
        ([[0, 3, 0]], "shape"),
        (None, "boxes"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            m.MULTI3DREFER.score(cases, multi_records([[], [], wrong, [box(0)], []]))
        assert f"{SCENE}|2" in str(caught.value)


def plain_f1(predicted, truths, limit):
    """The best sum of IoU over all ways to pair, then hits: the slow twin."""
    iou = aabb_iou(predicted, truths)
    if len(predicted) > len(truths):
        iou = iou.T
    ways = permutations(range(iou.shape[1]), iou.shape[0])
    best = max(ways, key=lambda way: sum(iou[row, column] for row, column in enumerate(way)))
    hits = sum(iou[row, column] >= limit for row, column in enumerate(best))
    return 2 * hits / (len(predicted) + len(truths))


@pytest.mark.parametrize(("predictions", "targets"), [(1, 4), (3, 3), (5, 2), (6, 4), (4, 1)])
def test_matching_is_that_of_all_permutations(predictions, targets):
    rng = np.random.default_rng(10 * predictions + targets)
    for _ in range(20):
        low = rng.uniform(0, 1, (predictions + targets, 3))
        boxes = np.concatenate([low, low + rng.uniform(0.5, 1.5, low.shape)], axis=1)
        for limit in (0.25, 0.5):
            ours = multi_f1(boxes[:predictions], boxes[predictions:], limit)
            assert ours == pytest.approx(plain_f1(boxes[:predictions], boxes[predictions:], limit))


def test_best_first_is_not_the_best_matching():
    # Greedy gives p0 to t0 (0.6) and leaves p1 nothing above the threshold; Hungarian pairs both.
    truths = np.array([[0, 0, 0, 1, 1, 1], [0.5, 0, 0, 1.5, 1, 1.0]])
    predicted = np.array([[0.25, 0, 0, 1.25, 1, 1], [-0.1, 0, 0, 0.9, 1, 1.0]])
    assert multi_f1(predicted, truths, 0.5) == 1.0


def choices(answers):
    return {key: {"case_id": key, "object_id": value} for key, value in answers.items()}


def test_nr3d_by_hand(root):
    hand_made.write_referit3d(root, scenes=("scene0000_00", "scene0001_00"))
    cases = m.NR3D.load(root, "test")
    assert [case.case_id for case in cases] == ["0", "1", "3"]
    values = m.NR3D.score(cases, choices({"0": 0, "1": 1, "3": None})).values
    assert values["utterances"] == 3
    assert values["accuracy"] == pytest.approx(100 / 3)
    assert (values["easy"], values["hard"]) == (50.0, 0.0)
    assert (values["view_dependent"], values["view_independent"]) == (100.0, 0.0)
    assert values["understood"] == 50.0
    with pytest.raises(ValueError, match=r"'1'.*'object_id' to be a int"):
        m.NR3D.score(cases, choices({"0": 0, "1": "1", "3": 0}))


class Pointer:
    """Means the proposal, or box, that is nearest to the origin of the first camera."""

    name = "pointer"

    def see(self, view):
        return view

    def ground_one(self, seen, phrase):
        return ScoredAabb(np.arange(6.0)) if "chair" in phrase else None

    def ground(self, seen, phrase):
        return [ScoredAabb(np.arange(6.0))] * 2

    def choose(self, seen, phrase):
        camera = seen.T_benchmark_first[:3, 3]
        centers = [(p.aabb[:3] + p.aabb[3:]) / 2 for p in seen.proposals]
        nearest = int(np.argmin([np.linalg.norm(c - camera) for c in centers]))
        return seen.proposals[nearest].object_id


def test_a_predictor_sees_aligned_pose_and_boxes(root):
    hand_made.write_frames(root, SCENE)
    cases = m.NR3D.load(root, "test")
    view = cases.open_scene(SCENE)
    assert len(view.frames) == 3
    camera = hand_made.ALIGNMENT @ [0, 0, 1, 1]
    assert np.allclose(view.T_benchmark_first[:3, 3], camera[:3])
    assert [p.object_id for p in view.proposals] == [0, 1, 2, 3, 4]
    assert {p.label for p in view.proposals} == {""}  # boxes are given, labels are not
    assert np.allclose(view.proposals[3].aabb, box(3), atol=1e-5)
    record = m.NR3D.predict(Pointer(), view, next(iter(cases)))
    assert record == {"case_id": "0", "object_id": 0}
    numpys = Pointer()
    numpys.choose = lambda seen, phrase: np.int64(3)
    chosen = m.NR3D.predict(numpys, view, next(iter(cases)))["object_id"]
    assert (chosen, type(chosen)) == (3, int)


def test_a_scene_without_the_target_names_the_utterance(root):
    hand_made.write_frames(root, SCENE)
    path = root / "scans" / SCENE / f"{SCENE}.aggregation.json"
    hand_made.change_json(path, lambda value: value["segGroups"].pop(3))
    cases = m.NR3D.load(root, "test")
    with pytest.raises(AnnotationError, match=r"nr3d.csv: row 3 .*target_id: .*objectId"):
        cases.open_scene(SCENE)


def test_proposals_of_mask3d_reach_the_predictor(root):
    hand_made.write_frames(root, SCENE)
    cases = m.SCANREFER.load(root, "val")
    assert cases.open_scene(SCENE).proposals == ()
    other = hand_made.write_masks(root, "scene0001_00", [[2, 3]])
    hand_made.write_frames(root, "scene0001_00")
    (only,) = cases.open_scene("scene0001_00").proposals
    assert other.is_file()
    assert np.allclose(only.aabb, hand_made.box_of("scene0001_00", 1), atol=1e-5)
    by_id = {case.case_id: case for case in cases}
    assert m.SCANREFER.predict(Pointer(), None, by_id[f"{SCENE}|0|0"])["box"] == list(range(6))
    assert m.SCANREFER.predict(Pointer(), None, by_id[f"{SCENE}|2|0"])["box"] is None
    many = next(iter(m.MULTI3DREFER.load(root, "val")))
    assert len(m.MULTI3DREFER.predict(Pointer(), None, many)["boxes"]) == 2
