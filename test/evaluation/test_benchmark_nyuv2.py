# SPDX-License-Identifier: Apache-2.0
"""NYUv2's protocol by hand and against torch: crop, range, clamp, mirror, resize, median."""

import numpy as np
import pytest
import torch
from geometry_sets import NYU_SIZE, write_nyuv2

from vidllm_ros.evaluation.benchmark_nyuv2 import NYUV2
from vidllm_ros.evaluation.geometry_metrics import (
    nyuv2_errors,
    nyuv2_valid,
    resize_aligned_corners,
)

TRUTH = np.full(NYU_SIZE, 2.0)


@pytest.fixture
def cases(tmp_path):
    nothing_outside = np.zeros(NYU_SIZE)
    nothing_outside[45:471, 41:601] = 2.0
    write_nyuv2(tmp_path, [nothing_outside, np.full(NYU_SIZE, 4.0)])
    return NYUV2.load(tmp_path, "test")


def scored(cases, *depths):
    records = {
        case.case_id: {"case_id": case.case_id, "depth": depth}
        for case, depth in zip(cases, depths, strict=True)
    }
    return NYUV2.score(cases, records)


def test_two_images_by_hand(cases):
    scores = scored(cases, np.full(NYU_SIZE, 2.0), np.full(NYU_SIZE, 5.2))
    values = scores.values  # the second is 1.3 times too far
    assert values["delta1"] == 0.5
    assert values["delta2"] == values["delta3"] == 1.0
    assert values["absrel"] == pytest.approx(0.3 / 2)
    assert values["rmse_m"] == pytest.approx(1.2 / 2)
    assert values["log10"] == pytest.approx(np.log10(1.3) / 2)
    assert values["absrel_median_scaled"] == pytest.approx(0)
    assert values["delta1_median_scaled"] == 1.0
    assert values["images"] == 2
    assert scores.variant.startswith("2, not the protocol's 654: official test images")
    assert scores.worst_by == "absrel"
    assert not scores.higher_is_better


def test_means_are_over_images_not_pixels():
    """Trap: RMSE is the mean of the images' roots, not the root over all pixels."""
    roots = [nyuv2_errors(TRUTH + e, TRUTH).rmse_m for e in (0.0, 1.0)]
    assert np.mean(roots) == pytest.approx(0.5)


def test_the_eigen_crop_and_the_range_decide_what_counts():
    truth = TRUTH.copy()
    truth[44], truth[471], truth[:, 40], truth[:, 601] = 99, 99, 99, 99
    valid = nyuv2_valid(truth)
    assert valid.sum() == (471 - 45) * (601 - 41)
    assert valid[45, 41]
    assert valid[470, 600]
    truth[45, 41], truth[45, 42], truth[45, 43] = 10.0, 1e-3, 0.0
    assert not nyuv2_valid(truth)[45, 41:44].any()
    wrong = np.where(nyuv2_valid(TRUTH), TRUTH, 7.0)
    assert nyuv2_errors(wrong, TRUTH).absrel == 0.0


def test_what_is_no_number_is_clamped_as_the_protocol_says():
    guess = TRUTH.copy()
    guess[50, 50], guess[50, 51], guess[50, 52], guess[50, 53] = np.nan, np.inf, -3.0, 50.0
    count = nyuv2_valid(TRUTH).sum()
    absrel = 2 * (2.0 - 1e-3) / 2 + 2 * (10.0 - 2.0) / 2
    assert nyuv2_errors(guess, TRUTH).absrel == pytest.approx(absrel / count)


def test_nan_is_counted_and_never_a_silent_zero(cases):
    scores = scored(cases, np.full(NYU_SIZE, np.nan), np.full(NYU_SIZE, 4.0))
    assert scores.values["not_finite_share"] == 0.5
    assert scores.values["absrel"] == pytest.approx((2 - 1e-3) / 2 / 2)
    assert scores.values["delta1"] == 0.5


def test_the_median_is_of_the_counted_pixels():
    guess = np.where(nyuv2_valid(TRUTH), 3.0, 100.0)
    assert nyuv2_errors(guess, TRUTH, align=True).absrel == pytest.approx(0)


@pytest.mark.parametrize("size", [(7, 9), (480, 640), (600, 500), (2, 2)])
def test_resize_is_torchs_with_aligned_corners(size):
    values = np.random.default_rng(0).uniform(1, 5, (13, 11))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=True
    )
    assert np.allclose(resize_aligned_corners(values, size), theirs[0, 0].numpy())


def test_a_single_row_or_column_can_be_resized():
    assert (resize_aligned_corners(np.full((1, 1), 3.0), (4, 5)) == 3.0).all()


class Brighter:
    """Depth grows with brightness, so it knows which way round the image is."""

    name = "brighter"

    def see(self, view):
        return view.frames.images

    def depth(self, seen):
        return 1.0 + seen[..., 0].astype(np.float32) / 255


def test_the_mirrored_image_is_averaged_in(cases):
    case = next(iter(cases))
    model = Brighter()
    seen = model.see(cases.open_scene(case.scene_id))
    alone = model.depth(seen)[0]
    record = NYUV2.predict(model, seen, case)
    assert np.allclose(record["depth"], alone, atol=1e-6)  # symmetric: mirrored twice is itself
    leaning = Brighter()
    leaning.depth = lambda seen: np.tile(np.arange(4.0), (1, 3, 1))  # blind to the image
    assert NYUV2.predict(leaning, seen, case)["depth"].tolist() == [[1.5] * 4] * 3


def test_wrong_records_are_named(cases):
    ids = [case.case_id for case in cases]
    with pytest.raises(ValueError, match=f"1 are missing .{ids[1]}"):
        NYUV2.score(cases, {ids[0]: {"depth": TRUTH}})
    for bad in ({"depth": [1, 2]}, {}, {"depth": "x"}):
        with pytest.raises(ValueError, match=f"prediction '{ids[0]}': expected 'depth'"):
            NYUV2.score(cases, {i: {"case_id": i, **bad} for i in ids})


def test_a_truth_without_depth_in_the_crop_is_named(tmp_path):
    depth = np.zeros(NYU_SIZE)
    depth[0, 0] = 2.0
    names = write_nyuv2(tmp_path, [depth])
    cases = NYUV2.load(tmp_path, "test")
    with pytest.raises(ValueError, match=f"{names[0]}: expected depth inside the Eigen crop"):
        scored(cases, TRUTH)
