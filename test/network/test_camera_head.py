# SPDX-License-Identifier: Apache-2.0
"""Pose encoding to matrices and back, and the camera head's iterations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.network.camera_head import (
    CameraHead,
    decode_pose,
    encode_pose,
    matrix_from_quat_xyzw,
    quat_xyzw_from_matrix,
)
from vidllm_ros.network.configuration import VidLLMConfig


def rotations() -> torch.Tensor:
    """Random ones, the identity, and half turns, where the trace gives no quaternion."""
    half_turns = Rotation.from_rotvec(math.pi * torch.eye(3).numpy()).as_matrix()
    near = Rotation.from_rotvec([[0.0, 3.14159, 1e-4], [1e-9, 0.0, 0.0]]).as_matrix()
    parts = [Rotation.random(64, random_state=0).as_matrix(), half_turns, near]
    return torch.cat([torch.as_tensor(part) for part in parts] + [torch.eye(3).double()[None]])


def test_quaternion_agrees_with_scipy_and_has_w_not_negative() -> None:
    R = rotations()
    ours = quat_xyzw_from_matrix(R)
    theirs = torch.as_tensor(Rotation.from_matrix(R.numpy()).as_quat())
    assert (ours[:, 3] >= 0).all()
    torch.testing.assert_close((ours * theirs).sum(-1).abs(), torch.ones(len(R)).double())
    torch.testing.assert_close(matrix_from_quat_xyzw(ours), R, atol=1e-7, rtol=0)


def test_quaternion_is_scalar_last() -> None:
    identity = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert torch.equal(matrix_from_quat_xyzw(identity), torch.eye(3))
    quarter_about_z = torch.tensor([0.0, 0.0, 0.5**0.5, 0.5**0.5])
    turned = matrix_from_quat_xyzw(quarter_about_z) @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_quaternion_length_does_not_matter_and_zero_is_identity() -> None:
    quat = torch.randn(8, 4)
    torch.testing.assert_close(matrix_from_quat_xyzw(3 * quat), matrix_from_quat_xyzw(quat))
    assert torch.equal(matrix_from_quat_xyzw(torch.zeros(4)), torch.eye(3))


def test_quaternion_gradient_is_finite_at_identity_and_half_turn() -> None:
    R = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0]))]).requires_grad_()
    quat_xyzw_from_matrix(R).sum().backward()
    assert R.grad is not None
    assert torch.isfinite(R.grad).all()


def test_encoding_round_trip() -> None:
    R = rotations()
    T = torch.eye(4).double().repeat(len(R), 1, 1)
    T[:, :3, :3], T[:, :3, 3] = R, torch.randn(len(R), 3).double()
    height, width = 392, 518
    K = torch.zeros(len(R), 3, 3).double()
    K[:, 0, 0], K[:, 1, 1] = torch.rand(2, len(R)).double() * 600 + 200
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1
    encoding = encode_pose(T, K, height, width)
    decoded_T, decoded_K = decode_pose(encoding, height, width)
    torch.testing.assert_close(decoded_T, T, atol=1e-7, rtol=0)
    torch.testing.assert_close(decoded_K, K)
    again = encode_pose(decoded_T, decoded_K, height, width)
    torch.testing.assert_close(
        again[:, [0, 1, 2, 7, 8]], encoding[:, [0, 1, 2, 7, 8]], atol=1e-7, rtol=0
    )


def test_field_of_view_is_vertical_then_horizontal() -> None:
    K = torch.tensor([[100.0, 0, 100], [0, 50, 50], [0, 0, 1]])
    encoding = encode_pose(torch.eye(4), K, height=100, width=400)
    assert encoding[7].item() == pytest.approx(2 * math.atan(50 / 50))
    assert encoding[8].item() == pytest.approx(2 * math.atan(200 / 100))


def test_decoding_an_untrained_answer_is_finite() -> None:
    encodings = torch.cat([torch.zeros(1, 9), torch.randn(32, 9) * 10])
    T, K = decode_pose(encodings, 56, 84)
    assert torch.isfinite(T).all()
    assert torch.isfinite(K).all()
    assert (K[:, 0, 0] > 0).all()
    assert (K[:, 1, 1] > 0).all()
    determinant = torch.linalg.det(T[:, :3, :3].double())
    torch.testing.assert_close(determinant, torch.ones_like(determinant), atol=1e-4, rtol=0)


def test_decoding_keeps_float64_and_lifts_half() -> None:
    assert decode_pose(torch.zeros(9).double(), 4, 4)[0].dtype == torch.float64
    assert decode_pose(torch.zeros(9).bfloat16(), 4, 4)[1].dtype == torch.float32


@pytest.fixture(scope="module")
def head() -> CameraHead:
    torch.manual_seed(0)
    head = CameraHead(VidLLMConfig(encoder={"hidden_size": 24, "num_attention_heads": 3}))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head


def test_head_gives_one_encoding_an_iteration(head: CameraHead) -> None:
    encodings = head(torch.randn(2, 3, 9, 48))
    assert [tuple(e.shape) for e in encodings] == [(2, 3, 9)] * 4
    assert all((e[..., 7:] >= 0).all() for e in encodings)
    assert not torch.allclose(encodings[0], encodings[3])


def test_head_reads_the_camera_token_only(head: CameraHead) -> None:
    level = torch.randn(1, 2, 9, 48)
    other = level.clone()
    other[:, :, 1:] = 0
    assert torch.equal(head(level)[-1], head(other)[-1])


def test_iterations_are_detached_from_each_other(head: CameraHead) -> None:
    """The second answer carries no gradient to what only the first iteration reads."""
    head.zero_grad()
    level = torch.randn(1, 2, 9, 48)
    head(level)[1].sum().backward()
    assert head.empty_pose.grad is None or not head.empty_pose.grad.any()
    head(level)[0].sum().backward()
    assert head.empty_pose.grad is not None
    assert head.empty_pose.grad.any()


def test_empty_pose_is_told_and_not_added(head: CameraHead) -> None:
    branch = head.pose_branch.fc2
    kept = [p.detach().clone() for p in (branch.weight, branch.bias)]
    with torch.no_grad():
        branch.weight.zero_()
        branch.bias.zero_()
        encodings = head(torch.randn(1, 2, 9, 48))
        branch.weight.copy_(kept[0])
        branch.bias.copy_(kept[1])
    assert head.empty_pose.abs().max() > 0
    assert not any(e.any() for e in encodings)


@torch.inference_mode()
def test_head_stays_in_float32_under_autocast(head: CameraHead) -> None:
    level = torch.randn(1, 3, 9, 48)
    plain = head(level)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(level)[-1], plain)
        assert head(level.bfloat16())[-1].dtype == torch.float32


@torch.inference_mode()
def test_poses_permute_with_the_frames(head: CameraHead) -> None:
    level = torch.randn(1, 4, 9, 48)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        head(level[:, order])[-1], head(level)[-1][:, order], atol=1e-4, rtol=1e-4
    )
