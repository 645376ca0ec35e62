# SPDX-License-Identifier: Apache-2.0
"""Pairing, box terms and phrase matching."""

from itertools import permutations

import numpy as np
import pytest
import torch

from vidllm_ros.network.grounding import BoxLayer
from vidllm_ros.network.token_votes import Votes
from vidllm_ros.training import grounding_losses as g


def turn(angle: float) -> torch.Tensor:
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float32)


def boxes(count: int, seed: int) -> g.BoxTargets:
    generator = torch.Generator().manual_seed(seed)
    return g.BoxTargets(
        center=torch.randn(count, 3, generator=generator),
        size=torch.rand(count, 3, generator=generator) + 0.2,
        rotation=torch.stack([turn(0.3 * i) for i in range(count)])
        if count
        else torch.zeros(0, 3, 3),
        object_ids=tuple(range(10, 10 + count)),
        labels=torch.zeros(count, dtype=torch.long),
    )


def layer(target: g.BoxTargets, logits: torch.Tensor, batch: int = 1) -> BoxLayer:
    return BoxLayer(
        target.center.expand(batch, -1, -1),
        target.size.log().expand(batch, -1, -1),
        target.rotation.expand(batch, -1, -1, -1),
        logits,
    )


@pytest.mark.parametrize("quarter", range(4))
def test_four_yaws_of_one_box_become_one(quarter):
    base, size = turn(0.2)[None], torch.tensor([[1.0, 2.0, 3.0]])
    turned = base @ turn(quarter * np.pi / 2)[None]
    sizes = size[:, [1, 0, 2]] if quarter % 2 else size
    rotation, edges = g.canonical_yaw(turned, sizes)
    assert torch.allclose(rotation, base, atol=1e-6)
    assert torch.allclose(edges, size)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=1e-5)


def test_diou_by_hand():
    axes = torch.eye(3)
    unit, center = torch.ones(3), torch.zeros(3)
    same = g.diou(center, unit, center, unit, axes)
    assert same.item() == pytest.approx(1.0)
    half = g.diou(torch.tensor([0.5, 0, 0]), unit, center, unit, axes)
    assert half.item() == pytest.approx(0.5 / 1.5 - 0.25 / (1.5**2 + 2), rel=1e-5)
    apart = g.diou(torch.tensor([3.0, 0, 0]), unit, center, unit, axes)
    assert apart.item() == pytest.approx(-9 / (16 + 2), rel=1e-5)


def test_diou_lives_in_the_targets_axes():
    axes = turn(0.7)
    offset = axes @ torch.tensor([0.5, 0.0, 0.0])
    size = torch.tensor([1.0, 2.0, 3.0])
    turned = g.diou(offset, size, torch.zeros(3), size, axes)
    straight = g.diou(torch.tensor([0.5, 0, 0]), size, torch.zeros(3), size, torch.eye(3))
    assert turned.item() == pytest.approx(straight.item(), rel=1e-5)


def test_pairing_is_the_best_of_all_pairings():
    target, guess = boxes(3, 0), boxes(5, 1)
    weights = g.GroundingWeights(size=0.0, rotation=0.0, diou=0.0, objectness=0.0, center=1.0)
    real = torch.ones(1, 5, dtype=torch.bool)
    ((queries, objects),) = g.pair_queries(
        layer(guess, torch.zeros(1, 5)), real, [target], weights
    )
    distance = torch.cdist(guess.center, target.center)
    best = min(
        permutations(range(5), 3), key=lambda q: sum(distance[q[i], i].item() for i in range(3))
    )
    assert {int(o): int(q) for q, o in zip(queries, objects, strict=True)} == dict(enumerate(best))


def test_repeats_give_every_object_several_queries():
    target, guess = boxes(2, 0), boxes(9, 1)
    real = torch.ones(1, 9, dtype=torch.bool)
    ((queries, objects),) = g.pair_queries(
        layer(guess, torch.zeros(1, 9)), real, [target], g.GroundingWeights(), 3
    )
    assert len(set(queries.tolist())) == 6
    assert sorted(objects.tolist()) == [0, 0, 0, 1, 1, 1]


def test_true_boxes_cost_only_objectness_and_empty_scenes_nothing_else():
    target = boxes(3, 0)
    logits = torch.full((2, 3), 12.0)
    losses, pairs = g.box_losses(
        layer(target, logits, 2),
        torch.ones(2, 3, dtype=torch.bool),
        [target, boxes(0, 0)],
        g.GroundingWeights(),
    )
    for name in ("center", "size", "rotation", "diou"):
        assert getattr(losses, name).item() == pytest.approx(0.0, abs=1e-5), name
    assert losses.objectness.item() == pytest.approx(6.0, rel=1e-3)  # half of them are wrong
    assert pairs[0][0].tolist() == [0, 1, 2]
    assert len(pairs[1][0]) == 0


def test_padded_queries_are_never_paired_and_cost_nothing():
    target = boxes(2, 0)
    logits = torch.tensor([[-1e4, 12.0, 12.0]])
    padded = boxes(3, 0)  # its first query is the true box of the first object
    mask = torch.tensor([[False, True, True]])
    losses, pairs = g.box_losses(layer(padded, logits), mask, [target], g.GroundingWeights())
    assert sorted(pairs[0][0].tolist()) == [1, 2]
    assert losses.objectness.item() < 1e-3


def test_match_targets_know_none_one_and_many():
    target = boxes(3, 0)
    pairs = [(torch.tensor([4, 1, 7]), torch.tensor([0, 1, 2]))]
    wanted, real = g.match_targets(
        pairs, [target], [((10, 12), (), (11,), (99,))], (1, 5, 8), torch.device("cpu")
    )
    assert real.tolist() == [[True, True, True, True, False]]
    assert wanted[0, 0].nonzero().flatten().tolist() == [4, 7]
    assert wanted[0, 1].sum() == 0
    assert wanted[0, 2].nonzero().flatten().tolist() == [1]
    assert wanted[0, 3].sum() == 0


def test_match_losses_fall_when_the_right_query_rises():
    wanted = torch.zeros(1, 2, 4)
    wanted[0, 0, 1] = 1.0
    real = torch.tensor([[True, True]])
    flat = torch.zeros(1, 2, 4)
    right = flat.clone()
    right[0, 0, 1] = 5.0
    right[0, 1] = -5.0
    sigmoid_flat, contrast_flat = g.match_losses(flat, wanted, real)
    sigmoid, contrast = g.match_losses(right, wanted, real)
    assert contrast_flat.item() == pytest.approx(np.log(4), rel=1e-5)
    assert sigmoid < sigmoid_flat
    assert contrast < contrast_flat
    assert g.match_losses(flat, wanted, torch.zeros_like(real))[0].item() == 0.0


def test_votes_by_hand():
    """Thing 0 is shown by two tokens, thing 1 by one; both count alike."""
    targets = [boxes(2, 0)]
    evidence = torch.tensor([[[0.9, 0.0], [0.6, 0.4], [0.0, 1.0], [0.3, 0.1], [1.0, 0.0]]])
    mask = torch.tensor([[True, True, True, True, False]])
    center = targets[0].center[torch.tensor([0, 0, 1, 0, 0])][None].clone()
    center[0, 0, 0] += 0.4
    center[0, 2, 1] -= 0.1
    center[0, 3] += 7.0  # of no one thing: not asked
    center[0, 4] += 9.0  # padding
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0, 50.0]], requires_grad=True)
    votes = Votes(center.requires_grad_(), logits)
    away, thing = g.vote_losses(votes, mask, targets, evidence)
    assert away.item() == pytest.approx(((0.4 + 0.0) / 2 + 0.1) / 2, rel=1e-5)
    right = np.array([2.0, -1.0, 0.5, -1.0])  # the fourth shows no one thing
    assert thing.item() == pytest.approx(np.log1p(np.exp(-right)).mean(), rel=1e-5)
    (away + thing).backward()
    assert center.grad[0, 3:].abs().sum() == 0
    assert logits.grad[0, 4] == 0
    nothing = g.vote_losses(votes, mask, [boxes(0, 0)], torch.zeros(1, 5, 1))
    wrong = np.log1p(np.exp([2.0, -1.0, 0.5, 1.0])).mean()
    assert [loss.item() for loss in nothing] == pytest.approx([0.0, wrong])


def test_an_object_may_have_several_queries():
    target = boxes(2, 0)
    pairs = [(torch.tensor([4, 1, 7, 2]), torch.tensor([0, 1, 0, 1]))]
    wanted, _ = g.match_targets(
        pairs, [target], [((10,), (11,), (10, 11))], (1, 3, 8), torch.device("cpu")
    )
    named = [wanted[0, row].nonzero().flatten().tolist() for row in range(3)]
    assert named == [[4, 7], [1, 2], [1, 2, 4, 7]]
