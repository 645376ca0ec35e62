# SPDX-License-Identifier: Apache-2.0
"""Show a remembered scene otherwise each time, so that words learn rooms and not scenes by heart.

A scene of the words stage is replayed many times, and a language model that is told places exactly
knows it again by them. So some of its tokens are left out, its scale errs as the network's does,
and its meaning is a little noisy. Source: ours, as everyone who drops tokens. Next:
words_stage.py, which does it whenever it learns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidllm_ros.network.scene_places import split_sight, with_sight

if TYPE_CHECKING:
    from vidllm_ros.training.words_stage import PooledScene

SCALE = 0.1  # deviation of the logarithm of the scale at full strength
NOISE = 0.5  # of meaning at full strength, in its deviations over the scene
LEAST_TOKENS = 8


def varied(scene: PooledScene, strength: float, has_sight: bool) -> PooledScene:
    """Return the scene as another look might give it; by torch's chances.

    Args:
        scene: tokens (M, C), positions (M, 3), fine ones likewise.
        strength: 0 to 1; the largest share of tokens that is left out, and how far scale and
            meaning err.
        has_sight: whether tokens end in how they were seen.

    Returns:
        a scene of at least LEAST_TOKENS tokens where it had them, with its boxes scaled alike.
    """
    if not strength:
        return scene
    scale = float(torch.exp(SCALE * strength * torch.randn(())))
    tokens, positions, evidence = _fewer(
        (scene.tokens, scene.positions, scene.evidence), strength, scale, has_sight
    )
    fine = scene.fine
    if fine is not None:
        fine = _fewer(fine, strength, scale, has_sight)
    targets = scene.targets
    targets = replace(targets, center=targets.center * scale, size=targets.size * scale)
    return replace(
        scene, tokens=tokens, positions=positions, evidence=evidence, targets=targets, fine=fine
    )


def _fewer(
    rows: tuple[Tensor, Tensor, Tensor], strength: float, scale: float, has_sight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out rows of tokens, positions and evidence; scale and spoil what stays."""
    tokens, positions, evidence = rows
    share = strength * torch.rand(())
    kept = torch.rand(len(tokens)) >= share
    if int(kept.sum()) < LEAST_TOKENS:
        kept[:] = True
    kept = kept.to(tokens.device)
    tokens, positions, evidence = tokens[kept], positions[kept] * scale, evidence[kept]
    meaning, sight = split_sight(tokens, has_sight, tokens.dtype)
    spread = meaning.float().std(0) if len(meaning) > 1 else torch.zeros_like(meaning[0]).float()
    noise = NOISE * strength * spread * torch.randn(meaning.shape).to(meaning.device)
    meaning = meaning + noise.to(meaning.dtype)
    if sight is not None:
        meaning = with_sight(meaning, torch.cat([sight[:, :-3], sight[:, -3:] * scale], dim=1))
    return meaning, positions, evidence
