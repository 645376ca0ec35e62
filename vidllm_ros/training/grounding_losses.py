# SPDX-License-Identifier: Apache-2.0
"""Losses of the box decoder: which query answers for which object, and which phrase means which.

Queries and visible objects are paired by the Hungarian method (LLaVA-3D's supplement leaves its
costs open; ours are written here), paired boxes are pulled together, and every <loc> state must
find the queries of the objects its phrase names. Next: stages.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.grounding import BoxLayer
from vidllm_ros.network.token_votes import Votes
from vidllm_ros.training.losses import at_least_one, masked_mean, shared_count, shared_mean

MIN_SIZE_M = 0.02
NEVER = -1e4
VOTING_SHARE = 0.5  # of a token's patches; below it a token is of several things or of none


@dataclass(frozen=True)
class BoxTargets:
    """The visible objects of one scene, in its window's world.

    Attributes:
        center: (G, 3), m.
        size: full edges, (G, 3), m.
        rotation: box axes in the window's world, (G, 3, 3).
        object_ids: names of the objects, (G,).
        labels: classes, (G,).
    """

    center: Tensor
    size: Tensor
    rotation: Tensor
    object_ids: tuple[int, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.object_ids)

    def to(self, device: torch.device) -> BoxTargets:
        return BoxTargets(
            self.center.to(device),
            self.size.to(device),
            self.rotation.to(device),
            self.object_ids,
            self.labels.to(device),
        )


@dataclass(frozen=True)
class GroundingWeights:
    """How much each term counts, in the loss and, up to `objectness`, in the pairing cost."""

    center: float = 2.0
    size: float = 1.0
    rotation: float = 0.5
    diou: float = 1.0
    objectness: float = 1.0
    match: float = 1.0
    contrast: float = 1.0
    vote: float = 2.0
    thing: float = 1.0


@dataclass(frozen=True)
class BoxLosses:
    """Sums over paired boxes, divided by their number, and the objectness of all queries."""

    center: Tensor
    size: Tensor
    rotation: Tensor
    diou: Tensor
    objectness: Tensor

    def total(self, weights: GroundingWeights) -> Tensor:
        return (
            weights.center * self.center
            + weights.size * self.size
            + weights.rotation * self.rotation
            + weights.diou * self.diou
            + weights.objectness * self.objectness
        )


def canonical_yaw(rotation: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Pick, of a box's four yaws that mean the same, the one whose x axis is nearest camera x.

    A quarter turn about the box's own z swaps its x and y edges; without a rule the network would
    be asked for four answers at once. Source: ours.

    Args:
        rotation: box axes in the window's world, (G, 3, 3), z up along the third column.
        size: (G, 3), m.
    """
    x_axis, y_axis, up = rotation.unbind(-1)
    choices = torch.stack([x_axis, y_axis, -x_axis, -y_axis])  # (4, G, 3)
    best = choices[..., 0].argmax(0)
    first = choices[best, torch.arange(len(rotation), device=rotation.device)]
    second = torch.cross(up, first, dim=-1)
    swap = (best % 2 == 1)[:, None]
    turned = torch.where(swap, size[:, [1, 0, 2]], size)
    return torch.stack([first, second, up], dim=-1), turned


def diou(
    center: Tensor, size: Tensor, target_center: Tensor, target_size: Tensor, axes: Tensor
) -> Tensor:
    """Distance-IoU of boxes seen in the target's axes, in [-1, 1]; the yaw error is left out.

    Source: DIoU = IoU - d^2 / diagonal^2 of the common hull. A smooth stand-in for oriented IoU:
    the rotation has its own term.

    Args:
        center: (..., 3), m; all arguments broadcast.
        size: full edges, (..., 3), m.
        target_center: (..., 3), m.
        target_size: full edges, (..., 3), m.
        axes: target's rotation, (..., 3, 3).
    """
    offset = exact_product((center - target_center)[..., None, :], axes)[..., 0, :]
    half, target_half = size / 2, target_size / 2
    low = torch.maximum(offset - half, -target_half)
    high = torch.minimum(offset + half, target_half)
    overlap = (high - low).clamp(min=0).prod(-1)
    union = size.prod(-1) + target_size.prod(-1) - overlap
    hull_low = torch.minimum(offset - half, -target_half)
    hull_high = torch.maximum(offset + half, target_half)
    diagonal = (hull_high - hull_low).square().sum(-1)
    return overlap / union.clamp(min=1e-9) - offset.square().sum(-1) / diagonal.clamp(min=1e-9)


@torch.no_grad()
def pairing_costs(
    layer: BoxLayer, targets: Sequence[BoxTargets], weights: GroundingWeights
) -> Tensor:
    """Return what it costs to pair each query with each object, (B, Q, G).

    Args:
        layer: boxes of a batch.
        targets: one a scene, G objects at most.
        weights: of the cost's terms.
    """
    most = max(1, *(len(target) for target in targets))
    device = layer.center.device
    center = torch.zeros(len(targets), most, 3, device=device)
    size = torch.ones(len(targets), most, 3, device=device)
    rotation = torch.eye(3, device=device).repeat(len(targets), most, 1, 1)
    for i, target in enumerate(targets):
        center[i, : len(target)] = target.center
        size[i, : len(target)] = target.size
        rotation[i, : len(target)] = target.rotation
    ours, log_size = layer.center.float(), layer.log_size.float()
    log_ratio = log_size[:, :, None] - size.clamp(min=MIN_SIZE_M).log()[:, None]
    turn = layer.rotation.float()[:, :, None] - rotation[:, None]
    overlap = diou(
        ours[:, :, None],
        layer.size.float()[:, :, None],
        center[:, None],
        size[:, None],
        rotation[:, None],
    )
    return (
        weights.center * torch.cdist(ours, center)
        + weights.size * log_ratio.abs().mean(-1)
        + weights.rotation * turn.abs().mean(dim=(-1, -2))
        - weights.diou * overlap
        - weights.objectness * layer.objectness_logits.float().sigmoid()[..., None]
    )


@torch.no_grad()
def pair_queries(
    layer: BoxLayer,
    mask: Tensor,
    targets: Sequence[BoxTargets],
    weights: GroundingWeights,
    repeats: int = 1,
) -> list[tuple[Tensor, Tensor]]:
    """Pair queries with objects at least total cost; each object gets `repeats` queries.

    All costs of a batch travel to the CPU at once: a GPU waits once a layer, not once a scene.

    Args:
        layer: boxes of a batch.
        mask: which queries are not padding, (B, Q); others are never paired.
        targets: one a scene.
        weights: of the cost's terms.
        repeats: 1 is the one-to-one pairing; more speeds up early learning of inner layers.

    Returns:
        per scene, indices of queries and of objects, equal length.
    """
    costs = pairing_costs(layer, targets, weights)
    table = torch.cat([costs, mask[..., None].float()], dim=-1).cpu().numpy()
    pairs = []
    for scene, target in enumerate(targets):
        available = np.flatnonzero(table[scene, :, -1] > 0)
        cost = np.tile(table[scene, available, : len(target)], (1, repeats))
        queries, columns = linear_sum_assignment(np.nan_to_num(cost, nan=1e6, posinf=1e6))
        objects = torch.from_numpy(columns % max(len(target), 1))
        chosen = torch.from_numpy(available[queries])
        pairs.append((chosen.to(mask.device), objects.to(mask.device)))
    return pairs


def box_losses(
    layer: BoxLayer,
    mask: Tensor,
    targets: Sequence[BoxTargets],
    weights: GroundingWeights,
    repeats: int = 1,
) -> tuple[BoxLosses, list[tuple[Tensor, Tensor]]]:
    """Losses of one decoder layer over a batch, and who was paired with whom.

    Args:
        layer: what it says, Q queries a scene.
        mask: which queries are real, (B, Q).
        targets: one a scene; a scene may have none.
        weights: of the pairing.
        repeats: queries an object.
    """
    pairs = pair_queries(layer, mask, targets, weights, repeats)
    scenes = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(pairs)])
    queries = torch.cat([q for q, _ in pairs])
    logits = layer.objectness_logits.float()
    present = torch.zeros_like(logits)
    present[scenes, queries] = 1.0
    seen = functional.binary_cross_entropy_with_logits(logits, present, reduction="none")
    center = layer.center[scenes, queries].float()
    log_size = layer.log_size[scenes, queries].float()
    rotation = layer.rotation[scenes, queries].float()
    true_center = torch.cat([t.center[o] for t, (_, o) in zip(targets, pairs, strict=True)])
    true_size = torch.cat([t.size[o] for t, (_, o) in zip(targets, pairs, strict=True)])
    true_rotation = torch.cat([t.rotation[o] for t, (_, o) in zip(targets, pairs, strict=True)])
    overlap = diou(center, log_size.exp(), true_center, true_size, true_rotation)
    losses = BoxLosses(
        center=shared_mean((center - true_center).abs().sum(-1)),
        size=shared_mean((log_size - true_size.clamp(min=MIN_SIZE_M).log()).abs()),
        rotation=shared_mean((rotation - true_rotation).abs()),
        diou=shared_mean(1.0 - overlap),
        objectness=masked_mean(seen, mask),
    )
    return losses, pairs


def vote_losses(
    votes: Votes, mask: Tensor, targets: Sequence[BoxTargets], evidence: Tensor
) -> tuple[Tensor, Tensor]:
    """How far votes are from the middles of what their tokens show, m, and whether they know.

    Things count alike, however many tokens show them.

    Args:
        votes: of M tokens a scene.
        mask: which tokens are real, (B, M).
        targets: one a scene.
        evidence: share of each token's patches that show each target, (B, M, O).

    Returns:
        distance along the three axes, summed, of tokens half of whose patches show one thing, and
        cross-entropy of being such a token; scalars.
    """
    center = votes.center.new_zeros(len(targets), evidence.shape[2], 3)
    for i, target in enumerate(targets):
        center[i, : len(target)] = target.center
    share, thing = evidence.max(-1)  # (B, M)
    shows = mask & (share >= VOTING_SHARE)
    chosen = functional.one_hot(thing, evidence.shape[2]) * shows[..., None]  # (B, M, O)
    alike = chosen.sum(1).clamp(min=1).gather(1, thing)  # tokens of the same thing, (B, M)
    wanted = center.gather(1, thing[..., None].expand(-1, -1, 3))
    away = (votes.center - wanted).abs().sum(-1)
    weight = shows / alike
    count = at_least_one(shared_count(weight.sum()))
    seen = functional.binary_cross_entropy_with_logits(
        votes.logits, shows.to(votes.logits), reduction="none"
    )
    return (away * weight).sum() / count, masked_mean(seen, mask)


def match_targets(
    pairs: Sequence[tuple[Tensor, Tensor]],
    targets: Sequence[BoxTargets],
    phrases: Sequence[Sequence[tuple[int, ...]]],
    shape: Sequence[int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Which queries each phrase means, (B, R, Q) of 0 and 1, and which rows are phrases, (B, R).

    Args:
        pairs: query and object indices a scene; an object may have several queries.
        targets: objects a scene.
        phrases: per scene, per phrase, the ids of the objects it names; empty names none.
        shape: (B, R, Q).
        device: where the answer goes.
    """
    wanted = torch.zeros(tuple(shape), device=device)
    real = torch.zeros(tuple(shape[:2]), dtype=torch.bool, device=device)
    for scene, ((queries, objects), target) in enumerate(zip(pairs, targets, strict=True)):
        queries_of: dict[int, list[int]] = {}
        for query, thing in zip(queries.tolist(), objects.tolist(), strict=True):
            queries_of.setdefault(target.object_ids[thing], []).append(query)
        for row, ids in enumerate(phrases[scene][: shape[1]]):
            real[scene, row] = True
            for object_id in ids:
                wanted[scene, row, queries_of.get(object_id, [])] = 1.0
    return wanted, real


def match_losses(logits: Tensor, wanted: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Sigmoid cross-entropy over all pairs, and InfoNCE over queries for phrases that name some.

    The first calibrates "none of them", the second ranks. Source: ours, after LLaVA-3D's InfoNCE.

    Args:
        logits: (B, R, Q).
        wanted: (B, R, Q), 0 or 1.
        real: (B, R), padding rows are False.
    """
    logits = logits.float()
    cross = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    positive = wanted.sum(-1).clamp(min=1.0)
    balance = torch.where(wanted > 0, 1.0, 0.25)  # absent queries are many
    sigmoid = masked_mean((cross * balance).sum(-1) / positive, real)
    named = real & (wanted.sum(-1) > 0)
    of_wanted = logits.masked_fill(wanted == 0, NEVER).logsumexp(-1)
    contrast = masked_mean(logits.logsumexp(-1) - of_wanted, named)
    return sigmoid, contrast
