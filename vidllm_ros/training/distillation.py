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

from vidllm_ros.network.cross_task_adapter import AdapterOutput
from vidllm_ros.network.encoder import EncoderOutput
from vidllm_ros.training.losses import at_least_one, masked_mean, shared_count, shared_mean

RAREST = 2e-3  # share of patches below which a class's weight rises no further


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
    return shared_mean((ours - theirs).square().sum(-1))


def structure_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of all pairwise cosines of a video, without the M x M matrices.

    `|ZZ' - TT'|^2 = |Z'Z|^2 + |T'T|^2 - 2|Z'T|^2` (Frobenius), so a window's 66k tokens cost C x C
    products only. Source: Vid-LLM eq. 7; the identity is ours.

    Args:
        student: one row a token, (..., M, C); tokens of different videos are not compared.
        teacher: (..., M, D).
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"teacher: expected {student.shape[-2]} tokens as the student has, got "
            f"{teacher.shape[-2]}; resize the teacher's grid first"
        )
    # Sums of 66k products lose their last digits in half precision, and here they are subtracted.
    with torch.autocast(student.device.type, enabled=False):
        ours = functional.normalize(student.float(), dim=-1)
        theirs = functional.normalize(teacher.float(), dim=-1)
        own = (ours.mT @ ours).square().sum((-1, -2))
        other = (theirs.mT @ theirs).square().sum((-1, -2))
        cross = (ours.mT @ theirs).square().sum((-1, -2))
        return shared_mean((own + other - 2.0 * cross).clamp(min=0)) / student.shape[-2] ** 2


def resize_teacher(features: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Bilinearly bring a teacher's patches, (B, S, N, C), to the student's grid."""
    batch, frames, _, channels = features.shape
    planes = features.reshape(batch * frames, *grid, channels).permute(0, 3, 1, 2)
    planes = functional.interpolate(planes.float(), size=to, mode="bilinear", align_corners=False)
    return planes.permute(0, 2, 3, 1).reshape(batch, frames, to[0] * to[1], channels)


def branch_inputs(encoded: EncoderOutput, adapted: AdapterOutput) -> Tensor:
    """Return all that the reconstruction branch reads of a window, (5, B, S, N, C).

    The geometry stream goes to the aggregator, the encoder's four levels to the metric decoder. A
    student that still gives them may learn whatever else it likes in between. Source: ours.
    """
    return torch.stack([adapted.geometry, *encoded.levels])


def branch_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance over the teacher's squared length, mean over patches and inputs.

    As eq. 6, 2 - 2 cos, where lengths agree; but what is read raw must keep its length too.

    Args:
        student: (5, B, S, N, C), of `branch_inputs`.
        teacher: likewise.
    """
    ours, theirs = student.float(), teacher.float()
    length = theirs.square().sum(-1).clamp(min=1e-6)
    return shared_mean((ours - theirs).square().sum(-1) / length)


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
            students.append(projected.flatten(1, 2))
            teachers.append(target.flatten(1, 2))
        structure = zero
        for student, teacher in zip(students, teachers, strict=True):
            structure = structure + structure_loss(student, teacher) / len(students)
        return DistillationLosses(terms["geometry"], terms["semantic"], structure)


def class_weights(labels: Tensor, classes: int, balance: float) -> Tensor | None:
    """Weight of each class, (classes,), so that a batch's patches weigh 1 on average.

    A class's share of all patches to the power of -balance: rare things are seldom asked about in
    patches, yet as often as others in words. None without balance. Source: ours.

    Args:
        labels: of patches, -100 where unknown; shares are those of all processes' patches.
        classes: number of them.
        balance: 0 to 1.
    """
    if not balance:
        return None
    known = labels.flatten().clamp(min=-1) + 1  # 0 where unknown; nothing a GPU must wait for
    counts = torch.zeros(classes + 1, device=labels.device)
    counts.scatter_add_(0, known, torch.ones_like(known, dtype=counts.dtype))
    counts = shared_count(counts[1:])
    share = counts / at_least_one(counts.sum())
    wanted = share.clamp(min=RAREST).pow(-balance)
    return wanted / (share * wanted).sum().clamp(min=RAREST)


class OracleTeacher(nn.Module):
    """Asks the semantic stream what each patch shows: its class and its colour.

    Rooms that are rendered know this exactly, so a linear head and a cross-entropy stand where
    CLIP's features stand in eq. 6. Source: ours (docs/deviations.md); the heads are discarded.

    Args:
        width: channels of the semantic stream.
        labels: number of classes, structure (walls, floor) included.
        colors: number of colour names.
        balance: how far rare classes are made up for, 0 to 1; colours are not.
    """

    def __init__(self, width: int, labels: int, colors: int, balance: float = 0.0) -> None:
        super().__init__()
        self.balance = balance
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
        weights = class_weights(labels, self.label.out_features, self.balance)
        losses = []
        for head, target, weight in (
            (self.label, labels, weights),
            (self.color, colors, None),
        ):
            logits = head(features).float().flatten(0, -2)
            flat = target.flatten()
            known = at_least_one(shared_count((flat != -100).sum()))
            losses.append(
                functional.cross_entropy(logits, flat, weight, ignore_index=-100, reduction="sum")
                / known
            )
        return losses[0], losses[1]

    @torch.no_grad()
    def accuracy(self, semantic: Tensor, labels: Tensor, of: Tensor | None = None) -> Tensor:
        """Share of patches whose class is read correctly, a scalar.

        Args:
            semantic: (B, S, N, C).
            labels: (B, S, N), -100 where there is nothing to say.
            of: the patches that count, (B, S, N); None for all.
        """
        guess = self.label(self.norm(semantic)).argmax(-1)
        known = labels != -100
        return masked_mean((guess == labels).float(), known if of is None else known & of)
