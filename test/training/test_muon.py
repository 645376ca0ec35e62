# SPDX-License-Identifier: Apache-2.0
"""Muon in float32 against torch's own, which is the plain twin."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vidllm_ros.training.muon import Muon, orthogonalise

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 24, 96), (2, 96, 24)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    turned = orthogonalise(matrices, COEFFICIENTS, 5, 1e-7)

    values = torch.linalg.svdvals(turned)
    assert turned.shape == shape
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(24, 48, bias=False), nn.Linear(48, 24, bias=False))
    theirs = copy.deepcopy(ours)
    mine = Muon(list(ours.parameters()), lr=0.02, weight_decay=0.1)
    plain = torch.optim.Muon(
        theirs.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    start = [p.detach().clone() for p in ours.parameters()]
    for seed in range(4):
        x = torch.randn(32, 24, generator=torch.Generator().manual_seed(seed))
        for network, optimizer in ((ours, mine), (theirs, plain)):
            optimizer.zero_grad()
            (network(x) - x).square().mean().backward()
            optimizer.step()

    for mine_now, plain_now, before in zip(
        ours.parameters(), theirs.parameters(), start, strict=True
    ):
        moved = (plain_now - before).norm()
        assert (mine_now - plain_now).norm() < 0.02 * moved  # bfloat16 rounds to 0.4 %


def test_a_checkpoint_of_torch_goes_on() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 48, bias=False)
    plain = torch.optim.Muon(linear.parameters(), adjust_lr_fn="match_rms_adamw")
    linear(torch.ones(1, 24)).sum().backward()
    plain.step()

    optimizer = Muon(list(linear.parameters()), lr=0.1, weight_decay=0.1)
    optimizer.load_state_dict(plain.state_dict())

    kept = optimizer.state[linear.weight]["momentum_buffer"]
    assert torch.equal(kept, plain.state[linear.weight]["momentum_buffer"])


def test_a_matrix_without_gradient_stays() -> None:
    moved, still = nn.Parameter(torch.eye(24)), nn.Parameter(torch.eye(24))
    optimizer = Muon([moved, still], lr=0.1, weight_decay=0.1)

    loss = optimizer.step(lambda: _backward(moved))

    assert loss == pytest.approx(24.0)
    assert torch.equal(still, torch.eye(24))
    assert not torch.equal(moved, torch.eye(24))


def _backward(matrix: torch.Tensor) -> float:
    loss = matrix.square().sum()
    loss.backward()
    return float(loss.detach())
