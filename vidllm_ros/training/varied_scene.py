# SPDX-License-Identifier: Apache-2.0
"""Show a scene otherwise each time, so that words learn rooms and not scenes by heart.

A scene of the words stage may be replayed many times, and a language model that is told places
exactly knows it again by them. So some of its tokens are left out, it is a little larger or
smaller together with its boxes, and its meaning is a little noisy. What is said of it stays,
metres too, which forgive more than that; and so does the place within each token's meaning (eq.
4), which says little (D74). Source: ours (docs/deviations.md, D76). Next: words_stage.py, which
does it whenever it learns, with new scenes as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidllm_ros.network.scene_places import split_sight, with_sight

if TYPE_CHECKING:
    from vidllm_ros.training.words_stage import PooledScene

SCALE = 0.1  # deviation of the logarithm of the size at full strength
NOISE = 0.5  # of meaning at full strength, in its deviations over the scene
LEAST_TOKENS = 8


def varied(
    scene: PooledScene, strength: float, has_sight: bool, chances: torch.Generator
) -> PooledScene:
    """Return the scene as another look might give it.

    Args:
        scene: tokens (M, C), positions (M, 3), fine ones likewise.
        strength: 0 to 1; the largest share of tokens that is left out, and how far scale and
            meaning differ.
        has_sight: whether tokens end in how they were seen.
        chances: of the CPU.

    Returns:
        a scene of at least LEAST_TOKENS tokens where it had them, with its boxes scaled alike.
    """
    if not strength:
        return scene
    scale = float(torch.exp(SCALE * strength * torch.randn((), generator=chances)))
    tokens, positions, evidence = _fewer(
        (scene.tokens, scene.positions, scene.evidence), strength, scale, has_sight, chances
    )
    fine = scene.fine
    if fine is not None:
        fine = _fewer(fine, strength, scale, has_sight, chances)
    targets = scene.targets
    targets = replace(targets, center=targets.center * scale, size=targets.size * scale)
    return replace(
        scene, tokens=tokens, positions=positions, evidence=evidence, targets=targets, fine=fine
    )


def _fewer(
    rows: tuple[Tensor, Tensor, Tensor],
    strength: float,
    scale: float,
    has_sight: bool,
    chances: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out rows of tokens, positions and evidence; scale and spoil what stays."""
    tokens, positions, evidence = rows
    share = strength * torch.rand((), generator=chances)
    kept = torch.rand(len(tokens), generator=chances) >= share
    if int(kept.sum()) < LEAST_TOKENS:
        kept[:] = True
    kept = kept.to(tokens.device)
    tokens, positions, evidence = tokens[kept], positions[kept] * scale, evidence[kept]
    meaning, sight = split_sight(tokens, has_sight, tokens.dtype)
    width = meaning.shape[-1]
    spread = meaning.float().std(0) if len(meaning) > 1 else meaning.new_zeros(width).float()
    drawn = torch.randn(meaning.shape, generator=chances).to(meaning.device)
    noise = NOISE * strength * spread * drawn
    meaning = meaning + noise.to(meaning.dtype)
    if sight is not None:
        meaning = with_sight(meaning, torch.cat([sight[:, :-3], sight[:, -3:] * scale], dim=1))
    return meaning, positions, evidence
