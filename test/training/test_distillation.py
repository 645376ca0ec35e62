# SPDX-License-Identifier: Apache-2.0
"""Eq. 6 and 7 against their plain forms, and the discarded heads."""

import pytest
import torch
from torch.nn import functional

from vidllm_ros.training import distillation


def test_gram_identity():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(40, 7, generator=generator)
    teacher = torch.randn(40, 5, generator=generator)
    ours, theirs = functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1)
    plain = (ours @ ours.T - theirs @ theirs.T).square().mean()
    assert distillation.structure_loss(student, teacher).item() == pytest.approx(
        plain.item(), rel=1e-5
    )


def test_structure_is_blind_to_rotation_and_scale():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(40, 6, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    turned = distillation.structure_loss(student, student @ turn * 3.0)
    assert turned.item() == pytest.approx(0.0, abs=1e-5)
    assert distillation.patch_loss(student, student @ turn).item() > 0.1


def test_patch_loss_is_two_minus_two_cosines():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 9, 5, generator=generator).unbind(0)
    cosine = functional.cosine_similarity(student, teacher, dim=-1)
    assert distillation.patch_loss(student, teacher).item() == pytest.approx(
        (2 - 2 * cosine).mean().item(), rel=1e-5
    )
    assert distillation.patch_loss(student, -student).item() == pytest.approx(4.0, rel=1e-5)


def test_unequal_token_counts_are_refused():
    with pytest.raises(ValueError, match="resize the teacher's grid"):
        distillation.structure_loss(torch.randn(4, 3), torch.randn(5, 3))


def test_resized_teacher_keeps_a_constant_and_the_corner_order():
    features = torch.arange(12.0).reshape(1, 1, 12, 1)
    resized = distillation.resize_teacher(features, (3, 4), (6, 8)).reshape(6, 8)
    assert resized[0, 0] < resized[0, -1] < resized[-1, 0] < resized[-1, -1]
    constant = distillation.resize_teacher(torch.ones(1, 2, 12, 5), (3, 4), (2, 3))
    assert constant.shape == (1, 2, 6, 5)
    assert torch.allclose(constant, torch.ones(1))


def test_one_teacher_leaves_the_other_stream_alone():
    heads = distillation.TeacherHeads(8, 0, 5)
    geometry = torch.randn(1, 2, 6, 8, requires_grad=True)
    semantic = torch.randn(1, 2, 6, 8, requires_grad=True)
    result = heads(geometry, semantic, None, torch.randn(1, 2, 6, 5))
    result.total(1.0).backward()
    assert semantic.grad is not None
    assert semantic.grad.abs().sum() > 0
    assert geometry.grad is None or geometry.grad.abs().sum() == 0


def test_oracle_teacher_learns_what_is_there_and_skips_what_is_not():
    torch.manual_seed(0)
    oracle = distillation.OracleTeacher(8, 3, 2)
    tokens = torch.randn(1, 1, 6, 8)
    labels = torch.tensor([[[0, 1, 2, 0, -100, 1]]])
    unknown = torch.full_like(labels, -100)
    optimizer = torch.optim.Adam(oracle.parameters(), lr=0.1)
    for _ in range(60):
        label_loss, color_loss = oracle(tokens, labels, unknown)
        optimizer.zero_grad()
        (label_loss + color_loss).backward()
        optimizer.step()
    assert color_loss.item() == 0.0
    assert oracle.accuracy(tokens, labels) == 1.0


def test_balanced_classes_weigh_one_on_average_and_rare_ones_more():
    labels = torch.tensor([0] * 90 + [1] * 9 + [2] + [-100] * 50)
    weights = distillation.class_weights(labels, 4, 0.5)
    asked = labels[labels != -100]
    assert weights[asked].mean().item() == pytest.approx(1.0)
    assert weights[2] / weights[0] == pytest.approx(90**0.5)
    assert torch.isfinite(weights).all()  # the fourth is not there
    assert distillation.class_weights(labels, 4, 0.0) is None
    nobody = distillation.class_weights(torch.full((5,), -100), 4, 0.5)
    assert torch.isfinite(nobody).all()


def test_a_balanced_oracle_minds_a_rare_class_more():
    torch.manual_seed(0)
    tokens = torch.randn(1, 1, 100, 8)
    labels = torch.zeros(1, 1, 100, dtype=torch.long)
    labels[..., 0] = 1
    unknown = torch.full_like(labels, -100)
    pulls = []
    for balance in (0.0, 1.0):
        torch.manual_seed(1)
        oracle = distillation.OracleTeacher(8, 2, 2, balance)
        oracle(tokens, labels, unknown)[0].backward()
        common, rare = oracle.label.weight.grad.norm(dim=1)
        assert torch.allclose(common, rare)  # two classes: one's loss is the other's gain
        with torch.no_grad():
            oracle.label.bias.copy_(torch.tensor([4.0, -4.0]))
        oracle.zero_grad()
        oracle(tokens, labels, unknown)[0].backward()
        pulls.append(oracle.label.bias.grad[1].abs().item())
    assert pulls[1] > 5 * pulls[0]
