# SPDX-License-Identifier: Apache-2.0
"""Stage 1 of the paper: the adapter's two streams learn from two teachers (eq. 5-7).

Each stream is compared patch by patch on the unit sphere (eq. 6) and as a whole by its Gram matrix
(eq. 7). The heads that bring the student to a teacher's width are thrown away afterwards. Beside
real teachers stands an oracle one, which knows what each patch shows. Next: stages.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class DistillationLosses:
    """Terms of eq. 5 before weighting; each is a scalar."""

    geometry: Tensor
    semantic: Tensor
    structure: Tensor

    def total(self, structure_weight: float) -> Tensor:
        return self.geometry + self.semantic + structure_weight * self.structure


def patch_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of unit vectors, 2 - 2 cos, mean over patches. Source: Vid-LLM eq. 6.

    Args:
        student: (..., N, C).
        teacher: (..., N, C).
    """
    ours = functional.normalize(student.float(), dim=-1)
    theirs = functional.normalize(teacher.float(), dim=-1)
    return (ours - theirs).square().sum(-1).mean()


def structure_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of all pairwise cosines, without the M x M matrices.

    `|ZZ' - TT'|^2 = |Z'Z|^2 + |T'T|^2 - 2|Z'T|^2` (Frobenius), so a window's 66k tokens cost C x C
    products only. Source: Vid-LLM eq. 7; the identity is ours.

    Args:
        student: (M, C), one row a token.
        teacher: (M, D).
    """
    if len(student) != len(teacher):
        raise ValueError(
            f"teacher: expected {len(student)} tokens as the student has, got {len(teacher)}; "
            "resize the teacher's grid first"
        )
    ours = functional.normalize(student.float(), dim=-1)
    theirs = functional.normalize(teacher.float(), dim=-1)
    own = (ours.T @ ours).square().sum()
    other = (theirs.T @ theirs).square().sum()
    cross = (ours.T @ theirs).square().sum()
    return (own + other - 2.0 * cross).clamp(min=0) / len(student) ** 2


def resize_teacher(features: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Bilinearly bring a teacher's patches, (B, S, N, C), to the student's grid."""
    batch, frames, _, channels = features.shape
    planes = features.reshape(batch * frames, *grid, channels).permute(0, 3, 1, 2)
    planes = functional.interpolate(planes.float(), size=to, mode="bilinear", align_corners=False)
    return planes.permute(0, 2, 3, 1).reshape(batch, frames, to[0] * to[1], channels)


class TeacherHeads(nn.Module):
    """Linear projections from the student's streams to the teachers' widths; discarded later.

    Args:
        width: channels of the student.
        geometry_width, semantic_width: channels of the teachers; 0 leaves a teacher out.
    """

    def __init__(self, width: int, geometry_width: int, semantic_width: int) -> None:
        super().__init__()
        self.geometry = nn.Linear(width, geometry_width) if geometry_width else None
        self.semantic = nn.Linear(width, semantic_width) if semantic_width else None

    def forward(
        self,
        geometry: Tensor,
        semantic: Tensor,
        teacher_geometry: Tensor | None,
        teacher_semantic: Tensor | None,
    ) -> DistillationLosses:
        """Compare both streams, (B, S, N, C), with whichever teachers there are."""
        zero = geometry.sum() * 0.0
        terms = {"geometry": zero, "semantic": zero}
        students, teachers = [], []
        for name, stream, head, target in (
            ("geometry", geometry, self.geometry, teacher_geometry),
            ("semantic", semantic, self.semantic, teacher_semantic),
        ):
            if head is None or target is None:
                continue
            projected = head(stream)
            terms[name] = patch_loss(projected, target)
            students.append(projected.flatten(0, -2))
            teachers.append(target.flatten(0, -2))
        structure = zero
        for student, teacher in zip(students, teachers, strict=True):
            structure = structure + structure_loss(student, teacher) / len(students)
        return DistillationLosses(terms["geometry"], terms["semantic"], structure)


class OracleTeacher(nn.Module):
    """Asks the semantic stream what each patch shows: its class and its colour.

    Rooms that are rendered know this exactly, so a linear head and a cross-entropy stand where
    CLIP's features stand in eq. 6. Source: ours (docs/deviations.md); the heads are discarded.

    Args:
        width: channels of the semantic stream.
        labels: number of classes, structure (walls, floor) included.
        colors: number of colour names.
    """

    def __init__(self, width: int, labels: int, colors: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.label = nn.Linear(width, labels)
        self.color = nn.Linear(width, colors)

    def forward(self, semantic: Tensor, labels: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class and the colour loss, each a scalar.

        Args:
            semantic: (B, S, N, C).
            labels: (B, S, N), -100 where there is nothing to say.
            colors: likewise.
        """
        features = self.norm(semantic)
        losses = []
        for head, target in ((self.label, labels), (self.color, colors)):
            logits = head(features).float().flatten(0, -2)
            flat = target.flatten()
            known = (flat != -100).sum().clamp(min=1)
            losses.append(
                functional.cross_entropy(logits, flat, ignore_index=-100, reduction="sum") / known
            )
        return losses[0], losses[1]

    @torch.no_grad()
    def accuracy(self, semantic: Tensor, labels: Tensor) -> float:
        """Share of patches whose class is read correctly."""
        guess = self.label(self.norm(semantic)).argmax(-1)
        known = labels != -100
        return float((guess[known] == labels[known]).float().mean())
