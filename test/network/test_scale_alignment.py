# SPDX-License-Identifier: Apache-2.0
"""The scale is exact on consistent depth, robust to a bad frame, and deaf to invalid pixels."""

import numpy as np
import pytest
import torch

from vidllm_ros.network.scale_alignment import (
    align_scale,
    confidence_weights,
    frames_read,
    sample_frames,
)


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(0)
    relative = 0.2 + torch.rand(32, 6, 8, generator=generator)
    weights = torch.rand(32, 6, 8, generator=generator) + 0.1
    return relative, 2.5 * relative, weights, torch.ones(32, 6, 8, dtype=torch.bool)


@pytest.mark.parametrize("mode", ["least_squares", "log_median"])
def test_exact_on_consistent_depth(scene, mode):
    result = align_scale(*scene, mode=mode)
    assert result.scale.item() == pytest.approx(2.5, rel=1e-5)
    assert result.per_frame.shape == (16,)
    assert result.spread.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("mode", ["least_squares", "log_median"])
def test_nan_and_masked_values_never_count(scene, mode):
    relative, metric, weights, valid = (tensor.clone() for tensor in scene)
    metric[:, 0] = float("nan")
    relative[:, 1] = float("inf")
    relative[:, 2] = -1.0
    weights[:, 3] = float("nan")
    metric[:, 4], valid[:, 4] = 1e6, False
    result = align_scale(relative, metric, weights, valid, mode=mode)
    assert result.scale.item() == pytest.approx(2.5, rel=1e-5)


def test_agrees_with_numpy(scene):
    relative, metric, weights, valid = scene
    metric = metric * (
        1 + 0.3 * torch.rand(metric.shape, generator=torch.Generator().manual_seed(3))
    )
    result = align_scale(relative, metric, weights, valid, frames=16, seed=5)
    chosen = sample_frames(32, 16, 5)
    r, m, w = (np.asarray(x, float)[chosen] for x in (relative, metric, weights))
    scales = (w * r * m).sum((1, 2)) / (w * r * r).sum((1, 2))
    low, high = np.percentile(scales, [25, 75])
    assert result.scale.item() == pytest.approx(float(np.median(scales)), rel=1e-5)
    assert result.spread.item() == pytest.approx(float((high - low) / np.median(scales)), rel=1e-3)
    np.testing.assert_allclose(result.per_frame.numpy(), scales, rtol=1e-5)


def test_a_bad_frame_does_not_move_the_scene(scene):
    relative, metric, weights, valid = scene
    metric = metric.clone()
    metric[::4] *= 50
    assert align_scale(relative, metric, weights, valid).scale.item() == pytest.approx(
        2.5, rel=1e-5
    )


def test_frame_without_valid_pixels_is_left_out_and_none_at_all_is_an_error(scene):
    relative, metric, weights, valid = scene
    valid = valid.clone()
    valid[:31] = False
    assert align_scale(relative, metric, weights, valid, frames=32).per_frame.shape == (1,)
    with pytest.raises(ValueError, match="positive, finite"):
        align_scale(relative, metric, weights, torch.zeros_like(valid))


def test_variants_without_alignment_answer_one(scene):
    for mode in ("metric_only", "none"):
        assert align_scale(*scene, mode=mode).scale.item() == 1.0
    with pytest.raises(ValueError, match="mode"):
        align_scale(*scene, mode="mean")


def test_sample_is_seeded_without_replacement_and_takes_all_of_few():
    assert sample_frames(5, 16, 0) == [0, 1, 2, 3, 4]
    first = sample_frames(32, 16, 0)
    assert first == sample_frames(32, 16, 0) != sample_frames(32, 16, 1)
    assert len(set(first)) == 16


def test_confidence_weights_are_bounded():
    weights = confidence_weights(torch.tensor([1.0, 3.0, 1e9]))
    assert weights.tolist() == [0.0, 2.0, 20.0]


@pytest.mark.parametrize("mode", ["least_squares", "log_median"])
def test_frames_that_are_not_read_do_not_count(scene, mode):
    relative, metric, weights, valid = scene
    metric = metric * (
        1 + 0.3 * torch.rand(metric.shape, generator=torch.Generator().manual_seed(3))
    )
    read = frames_read(32, 16, 7, mode)
    assert read == sample_frames(32, 16, 7)
    only = torch.zeros_like(metric)
    only[read] = metric[read]
    whole = align_scale(relative, metric, weights, valid, seed=7, mode=mode)
    few = align_scale(relative, only, weights, valid, seed=7, mode=mode)
    assert torch.equal(few.scale, whole.scale)
    assert torch.equal(few.per_frame, whole.per_frame)
    only[read[0]] = 0.0
    assert len(align_scale(relative, only, weights, valid, seed=7, mode=mode).per_frame) == 15


def test_metric_depth_used_directly_reads_all_and_none_reads_none():
    assert frames_read(32, 16, 0, "metric_only") == list(range(32))
    assert frames_read(32, 16, 0, "none") == []
    assert frames_read(5, 16, 0, "least_squares") == list(range(5))
