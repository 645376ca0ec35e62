# SPDX-License-Identifier: Apache-2.0
"""Co3Dv2 and RealEstate10K from files to numbers: the draw, the pooling, the categories' mean."""

import numpy as np
import pytest
from geometry_sets import random_poses, write_co3d, write_re10k

from vidllm_ros.evaluation.benchmark_poses import CO3DV2, RE10K


@pytest.fixture
def co3d(tmp_path):
    sequences = {
        "apple": {"a": (0.9, random_poses(50, 1)), "b": (0.9, random_poses(52, 2))},
        "tv": {"c": (0.9, random_poses(50, 3))},
    }
    write_co3d(tmp_path, sequences)
    return CO3DV2.load(tmp_path, "test")


def records(cases, change=lambda case, poses: poses):
    return {
        case.case_id: {"case_id": case.case_id, "T_world_camera": change(case, case.truth.copy())}
        for case in cases
    }


def test_ten_frames_are_drawn_by_one_generator(co3d):
    generator = np.random.RandomState(0)  # what np.random.seed(0) makes of the global one
    expected = [generator.choice(n, 10, replace=False) for n in (50, 52, 50)]
    for case, chosen in zip(co3d, expected, strict=True):
        numbers = [int(path[-10:-4]) for path in case.request["images"]]
        assert numbers == chosen.tolist()
    frames = co3d.open_scene("apple/b").frames.images
    assert abs(int(frames[0].mean()) - expected[1][0]) <= 2  # the images are grey by number


def test_the_truth_scores_everything_in_any_world(co3d):
    world = random_poses(1, 9)[0]
    values = CO3DV2.score(co3d, records(co3d, lambda case, poses: world @ poses)).values
    for name in ("rra15", "rta15", "maa30"):
        assert values[name] == pytest.approx(100.0)
    assert (values["sequences"], values["categories"]) == (3, 2)


def test_pairs_are_pooled_in_a_category_and_categories_averaged(co3d):
    """Trap: a category with two sequences counts as much as one with one."""

    def change(case, poses):
        return np.tile(np.eye(4), (10, 1, 1)) if case.scene_id.startswith("tv") else poses

    values = CO3DV2.score(co3d, records(co3d, change)).values
    assert values["maa30_apple"] == pytest.approx(100.0)
    assert values["maa30_tv"] < 10.0
    assert values["maa30"] == pytest.approx((values["maa30_apple"] + values["maa30_tv"]) / 2)
    assert values["rta15"] == pytest.approx(50.0)


def test_wrong_records_are_named(co3d):
    name = "apple/a"
    with pytest.raises(ValueError, match="expected one for every case, 1 are missing"):
        CO3DV2.score(co3d, {k: v for k, v in records(co3d).items() if k != name})
    for bad, said in (
        (np.full((10, 4, 4), np.nan).tolist(), "to be finite"),
        (np.zeros((9, 4, 4)).tolist(), "of shape"),
        ("no poses", "to be numbers"),
        (np.ones((10, 4, 4)).tolist(), "expected a rotation"),
    ):
        wrong = records(co3d) | {name: {"case_id": name, "T_world_camera": bad}}
        with pytest.raises(ValueError, match=said) as error:
            CO3DV2.score(co3d, wrong)
        assert name in str(error.value)


def test_images_of_different_sizes_are_named(co3d, tmp_path):
    case = next(iter(co3d))
    (tmp_path / case.request["images"][4]).write_bytes(b"torn")
    with pytest.raises(ValueError, match=case.request["images"][4]):
        co3d.open_scene(case.scene_id)


class Still:
    name = "still"

    def see(self, view):
        return len(view.frames)

    def poses(self, seen):
        return np.tile(np.eye(4), (seen, 1, 1))


def test_predictions_are_plain_json(co3d):
    case = next(iter(co3d))
    model = Still()
    record = CO3DV2.predict(model, model.see(co3d.open_scene(case.scene_id)), case)
    assert record["T_world_camera"] == [np.eye(4).tolist()] * 10


@pytest.fixture
def re10k(tmp_path):
    write_re10k(tmp_path, "one", random_poses(15, 1), images=12)
    write_re10k(tmp_path, "two", random_poses(30, 2))
    write_re10k(tmp_path, "gone", random_poses(20, 3), images=9)
    return tmp_path


def test_re10k_draws_among_the_frames_that_are_there(re10k):
    cases = RE10K.load(re10k, "test")
    assert [case.scene_id for case in cases] == ["one", "two"]
    stamps = [int(path.split("/")[-1][:-4]) for path in next(iter(cases)).request["images"]]
    assert len(stamps) == 10
    assert max(stamps) <= 1_000_000 + 11 * 33_367
    truth = random_poses(15, 1)[(stamps[0] - 1_000_000) // 33_367]
    assert np.allclose(next(iter(cases)).truth[0], truth)


def test_missing_sequences_are_counted_and_pairs_pooled(re10k):
    cases = RE10K.load(re10k, "test")
    scores = RE10K.score(cases, records(cases))
    assert scores.values["maa30"] == pytest.approx(100.0)
    assert "1 sequences missing" in scores.variant
    assert "categories" not in scores.values


def test_re10k_without_any_frame_says_so(tmp_path):
    write_re10k(tmp_path, "gone", random_poses(20, 3), images=0)
    with pytest.raises(FileNotFoundError, match="at least one of 1 sequences"):
        RE10K.load(tmp_path, "test")
