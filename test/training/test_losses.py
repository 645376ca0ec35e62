# SPDX-License-Identifier: Apache-2.0
"""Each loss against a twin written with loops, and where the truth must cost nothing."""

import math

import pytest
import torch

from vidllm_ros.training import losses


@pytest.fixture
def scene() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    B, S, H, W = 2, 3, 8, 10
    K = torch.tensor([[9.0, 0, 5.0], [0, 8.0, 4.0], [0, 0, 1]]).repeat(B, S, 1, 1)
    poses = torch.eye(4).repeat(B, S, 1, 1)
    poses[:, 1:, :3, 3] = torch.randn(B, S - 1, 3, generator=generator)
    angle = torch.tensor(0.3)
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    poses[:, 1, :3, :3] = turn
    return {
        "depth": torch.rand(B, S, H, W, generator=generator) * 3 + 0.5,
        "valid": torch.rand(B, S, H, W, generator=generator) > 0.2,
        "K": K,
        "T_world_camera": poses,
        "noise": torch.randn(B, S, H, W, generator=generator),
    }


def test_unprojection_agrees_with_one_pixel_by_hand(scene):
    points = losses.unproject_to_world(scene["depth"], scene["K"], scene["T_world_camera"])
    for v, u in ((0, 0), (3, 7)):
        z = scene["depth"][1, 1, v, u]
        ray = torch.linalg.inv(scene["K"][1, 1]) @ torch.tensor([float(u), float(v), 1.0]) * z
        pose = scene["T_world_camera"][1, 1]
        assert torch.allclose(points[1, 1, v, u], pose[:3, :3] @ ray + pose[:3, 3], atol=1e-5)


def test_normalised_scene_has_mean_distance_one_and_inverse_translation(scene):
    relative = losses.normalise_scene(
        scene["depth"], scene["valid"], scene["K"], scene["T_world_camera"]
    )
    distance = relative.pointmap_world.norm(dim=-1)
    for i in range(2):
        assert distance[i][scene["valid"][i]].mean().item() == pytest.approx(1.0, abs=1e-3)
        inverse = torch.linalg.inv(scene["T_world_camera"][i, 1])[:3, 3] / relative.scale[i]
        assert torch.allclose(relative.translation[i, 1], inverse, atol=1e-5)


def test_invalid_pixels_reach_no_loss_and_no_gradient(scene):
    valid = scene["valid"]
    target = scene["depth"]
    predicted = (target + 0.1 * scene["noise"]).requires_grad_()
    confidence = torch.full_like(target, 1.5)
    spoiled = torch.where(valid, target, torch.full_like(target, 77.0))
    for loss in (
        lambda t: losses.depth_loss(predicted, confidence, t, valid),
        lambda t: losses.metric_depth_loss(predicted, t, valid),
        lambda t: losses.silog_loss(predicted, t, valid),
    ):
        assert loss(target).item() == pytest.approx(loss(spoiled).item(), rel=1e-6)
        (gradient,) = torch.autograd.grad(loss(spoiled), predicted)
        assert (gradient[~valid] == 0).all()
        assert gradient[valid].abs().sum() > 0


def test_camera_loss_is_its_loop(scene):
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(2, 3, 9, generator=generator)
    guesses = [torch.randn(2, 3, 9, generator=generator) for _ in range(4)]
    total = 0.0
    for i, guess in enumerate(guesses):
        error = (guess - target).abs()
        stage = error[..., :3].mean() + error[..., 3:7].mean() + 0.5 * error[..., 7:].mean()
        total += 0.6 ** (3 - i) * stage.item()
    assert losses.camera_loss(guesses, target).item() == pytest.approx(total / 4, rel=1e-5)
    assert losses.camera_loss([target], target).item() == 0.0


def test_confidence_loss_is_its_loop_and_best_at_alpha_over_error():
    error = torch.tensor([0.05, 0.1, 3.0])
    valid = torch.tensor([True, True, False])
    confidence = torch.tensor([2.0, 4.0, 1.0])
    expected = sum(e * c - 0.2 * math.log(c) for e, c in ((0.05, 2.0), (0.1, 4.0))) / 2
    assert losses.confidence_loss(error, confidence, valid).item() == pytest.approx(expected)
    best = torch.tensor([0.2 / 0.05, 0.2 / 0.1, 1.0])
    assert losses.confidence_loss(error, best, valid) < losses.confidence_loss(
        error, best * 1.1, valid
    )


def test_gradient_loss_is_its_loop(scene):
    difference, valid = scene["noise"], scene["valid"]
    total = 0.0
    for scale in range(3):
        d, m = difference[..., :: 2**scale, :: 2**scale], valid[..., :: 2**scale, :: 2**scale]
        for axis in (0, 1):
            values = []
            for b in range(2):
                for s in range(3):
                    for v in range(d.shape[2] - (axis == 0)):
                        for u in range(d.shape[3] - (axis == 1)):
                            w, x = (v + 1, u) if axis == 0 else (v, u + 1)
                            if m[b, s, v, u] and m[b, s, w, x]:
                                values.append(abs(d[b, s, w, x] - d[b, s, v, u]).item())
            total += sum(values) / len(values)
    assert losses.gradient_loss(difference, valid, 3).item() == pytest.approx(total / 3, rel=1e-4)
    assert losses.gradient_loss(torch.full_like(difference, 2.0), valid).item() == 0.0


def test_point_loss_is_least_at_the_truth(scene):
    relative = losses.normalise_scene(
        scene["depth"], scene["valid"], scene["K"], scene["T_world_camera"]
    )
    truth = relative.pointmap_world
    one = torch.ones_like(scene["depth"])
    at_truth = losses.point_loss(truth, one, truth, scene["valid"]).item()
    assert at_truth == pytest.approx(0.0, abs=1e-3)
    assert losses.point_loss(truth + 0.1, one, truth, scene["valid"]).item() > 0.3


def test_equation_9_is_its_loop(scene):
    predicted = scene["depth"] * torch.exp(0.3 * scene["noise"])
    total = 0.0
    for b in range(2):
        for s in range(3):
            mask = scene["valid"][b, s]
            error = (predicted[b, s][mask] + 1e-3).log() - (
                scene["depth"][b, s][mask] + 1e-3
            ).log()
            bias = error.mean()
            residual = error - bias
            total += (bias**2 + (residual**2 / (1 + 2.0 * residual.abs())).mean()).item()
    ours = losses.metric_depth_loss(predicted, scene["depth"], scene["valid"], alpha=2.0)
    assert ours.item() == pytest.approx(total / 6, rel=1e-4)


def test_equation_9_sees_scale_and_ignores_empty_images(scene):
    valid = scene["valid"].clone()
    valid[0, 0] = False
    doubled = losses.metric_depth_loss(scene["depth"] * 2, scene["depth"], valid, epsilon=0.0)
    assert doubled.item() == pytest.approx(math.log(2) ** 2, rel=1e-4)
    nothing = losses.metric_depth_loss(scene["depth"], scene["depth"], torch.zeros_like(valid))
    assert nothing.item() == 0.0


def test_the_truth_is_not_rounded_by_autocast(scene):
    given = [scene[name] for name in ("depth", "valid", "K", "T_world_camera")]
    plain = losses.normalise_scene(*given)
    with torch.autocast("cpu", torch.bfloat16):
        half = losses.normalise_scene(*given)
    for name, value in vars(plain).items():
        torch.testing.assert_close(getattr(half, name), value)
