# SPDX-License-Identifier: Apache-2.0
"""Depth and translation take one scale; the first camera is the world; nothing keeps a
gradient."""

import pytest
import torch

from vidllm_ros.network.camera_head import encode_pose, quat_xyzw_from_matrix
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.cross_task_adapter import AdapterOutput
from vidllm_ros.network.metric_depth import MetricDepthOutput
from vidllm_ros.network.metric_geometry import (
    GeometryOutput,
    canonical_factor,
    frames_with_metric_depth,
    relative_to_first,
    to_metric,
    with_lens,
)

H, W = 28, 42


def random_extrinsics(batch=2, frames=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(batch, frames, 3, 3, generator=generator)).Q
    q = q * torch.linalg.det(q)[..., None, None]
    T = torch.eye(4).repeat(batch, frames, 1, 1)
    T[..., :3, :3] = q
    T[..., :3, 3] = torch.randn(batch, frames, 3, generator=generator)
    return T


def consistent(scale=2.5):
    """A branch whose metric depth is `scale` times its relative depth."""
    T = random_extrinsics()
    K = torch.tensor([[50.0, 0, W / 2], [0, 45, H / 2], [0, 0, 1]]).expand(2, 3, 3, 3)
    depth = 0.5 + torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(1))
    one = torch.ones(2, 3, H, W, requires_grad=True)
    tokens = torch.zeros(2, 3, 6, 4)
    geometry = GeometryOutput(
        pose_encodings=[encode_pose(T, K, H, W)],
        depth_rel=depth.clone().requires_grad_(),
        depth_confidence=2 * one,
        points=None,
        points_confidence=None,
        metric_depth=MetricDepthOutput(scale * depth * one, one, one),
        adapter=AdapterOutput(tokens, tokens, None),
        dense_frames=torch.arange(3),
        image_size=(H, W),
    )
    return geometry, T, K


def test_one_scale_for_depth_and_translation():
    geometry, T, K = consistent()
    metric = to_metric(geometry, VidLLMConfig())
    torch.testing.assert_close(metric.scale, torch.full((2,), 2.5))
    torch.testing.assert_close(metric.depth, 2.5 * geometry.depth_rel.detach())
    torch.testing.assert_close(metric.K, K, rtol=1e-4, atol=1e-3)
    expected = T[:, :1] @ torch.linalg.inv(T)
    expected[..., :3, 3] *= 2.5
    torch.testing.assert_close(metric.T_world_camera, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(metric.T_world_camera[:, 0], torch.eye(4).expand(2, 4, 4))
    assert not any(
        value.requires_grad for value in (metric.depth, metric.K, metric.T_world_camera)
    )


@pytest.mark.parametrize(("mode", "depth_scale"), [("metric_only", 2.5), ("none", 1.0)])
def test_variants_without_alignment(mode, depth_scale):
    geometry, T, _ = consistent()
    metric = to_metric(geometry, VidLLMConfig(scale_alignment=mode))
    torch.testing.assert_close(metric.depth, depth_scale * geometry.depth_rel.detach())
    assert metric.scale.tolist() == [1.0, 1.0]
    expected = (T[:, :1] @ torch.linalg.inv(T))[..., :3, 3]
    torch.testing.assert_close(metric.T_world_camera[..., :3, 3], expected, atol=1e-4, rtol=1e-4)


def few_of(geometry, frames):
    few = MetricDepthOutput(geometry.metric_depth.depth[:, frames], None, None)
    changed = {"metric_depth": few, "metric_frames": tuple(frames)}
    return GeometryOutput(**{**geometry.__dict__, **changed})


@pytest.mark.parametrize("mode", ["least_squares", "log_median", "metric_only", "none"])
def test_metric_depth_of_the_frames_that_are_read_suffices(mode):
    config = VidLLMConfig(scale_alignment=mode, scale_frames=2, scale_seed=1)
    geometry, _, _ = consistent()
    noise = 1 + 0.3 * torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(5))
    noisy = MetricDepthOutput(noise * geometry.metric_depth.depth, None, None)
    geometry = GeometryOutput(**{**geometry.__dict__, "metric_depth": noisy})
    read = frames_with_metric_depth(3, config)
    assert len(read) == {"metric_only": 3, "none": 0}.get(mode, 2)
    whole, few = to_metric(geometry, config), to_metric(few_of(geometry, read), config)
    for name, value in vars(whole).items():
        assert torch.equal(getattr(few, name), value), name
    if read:
        with pytest.raises(ValueError, match=f"metric_frames: expected all that .* {mode!r}"):
            to_metric(few_of(geometry, read[1:]), config)


def test_nan_becomes_invalid_zero_and_moves_no_scale():
    geometry, _, _ = consistent()
    depth = geometry.depth_rel.detach().clone()
    depth[:, :, :5] = float("nan")
    spoiled = GeometryOutput(**{**geometry.__dict__, "depth_rel": depth})
    metric = to_metric(spoiled, VidLLMConfig())
    torch.testing.assert_close(metric.scale, torch.full((2,), 2.5))
    assert not metric.valid[:, :, :5].any()
    assert metric.valid[:, :, 5:].all()
    assert (metric.depth[:, :, :5] == 0).all()


def test_relative_to_first_keeps_relative_poses():
    T = random_extrinsics(1, 4, seed=3)
    poses = relative_to_first(T)
    relative = T[0, 2] @ torch.linalg.inv(T[0, 1])  # camera 1 to camera 2
    ours = torch.linalg.inv(poses[0, 2]) @ poses[0, 1]
    torch.testing.assert_close(ours, relative, atol=1e-4, rtol=1e-4)
    assert quat_xyzw_from_matrix(poses[0, 0, :3, :3]).tolist() == [0, 0, 0, 1]


def test_a_known_lens_brings_its_own_depth():
    """Twice the focal length the network believed: the same image shows things twice as far."""
    geometry, _, K = consistent()
    metric = to_metric(geometry, VidLLMConfig())
    longer = K.clone()
    longer[..., 0, 0] *= 2.0
    longer[..., 1, 1] *= 2.0
    longer[..., 0, 2] += 1.5
    lens = with_lens(metric, longer.double())
    assert torch.equal(lens.K, longer)
    torch.testing.assert_close(lens.depth, 2.0 * metric.depth)
    torch.testing.assert_close(lens.scale, 2.0 * metric.scale)
    torch.testing.assert_close(
        lens.T_world_camera[..., :3, 3], 2.0 * metric.T_world_camera[..., :3, 3]
    )
    assert torch.equal(lens.T_world_camera[..., :3, :3], metric.T_world_camera[..., :3, :3])
    width = [m.depth / m.K[..., 0, 0, None, None] for m in (metric, lens)]
    torch.testing.assert_close(width[1], width[0])  # a pixel is as many metres wide as before


def test_the_lens_is_the_median_of_the_window():
    geometry, _, K = consistent()
    metric = to_metric(geometry, VidLLMConfig())
    odd = K.clone()
    odd[:, 1, :2, :2] *= 3.0  # one frame of three: a median does not follow it
    torch.testing.assert_close(with_lens(metric, odd).scale, metric.scale, rtol=1e-4, atol=0)


def test_depth_of_the_canonical_camera_becomes_that_of_the_lens():
    """Metric depth said for a camera of focal length 0.5 W is wrong by the lens until brought."""
    geometry, _, K = consistent()
    focal = (50.0 * 45.0) ** 0.5
    config = VidLLMConfig(metric_focal=0.5)
    metric = to_metric(geometry, config)
    torch.testing.assert_close(metric.scale, torch.full((2,), 2.5 * focal / (0.5 * W)))
    only = to_metric(geometry, VidLLMConfig(metric_focal=0.5, scale_alignment="metric_only"))
    torch.testing.assert_close(
        only.depth, geometry.metric_depth.depth.detach() * focal / (0.5 * W), rtol=1e-4, atol=0
    )
    lens = with_lens(metric, 1.3 * K)  # whatever the network believed, the true lens decides
    torch.testing.assert_close(lens.scale, torch.full((2,), 1.3 * 2.5 * focal / (0.5 * W)))


def test_canonical_factor_is_one_without_a_canonical_camera():
    K = torch.tensor([[50.0, 0, W / 2], [0, 50, H / 2], [0, 0, 1]]).expand(2, 3, 3, 3)
    assert canonical_factor(K, W, 0.0).tolist() == [1.0, 1.0]
    torch.testing.assert_close(canonical_factor(K, W, 1.0), torch.full((2,), 50 / W))
