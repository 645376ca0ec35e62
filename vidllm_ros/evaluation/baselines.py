# SPDX-License-Identifier: Apache-2.0
"""What can be had without looking: the trivial answers every number of the network stands beside.

They are fitted on training rooms only: a constant depth, a camera that stays still, the most
frequent answer, one box for everything. text_only.py adds a language model that never sees the
scene. Next: benchmark.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.geometry.transforms import make_transform, matrix_from_quat_xyzw
from vidllm_ros.structures import GroundedBox


@dataclass(frozen=True)
class Baselines:
    """Constants fitted on training rooms.

    Attributes:
        depth_m: mean depth.
        box: mean centre and size, axes along the window's world, m.
        answer: most frequent answer of all.
        answer_of_family: most frequent answer by question family.
        rooms: how many rooms were used.
    """

    depth_m: float
    box: GroundedBox
    answer: str
    answer_of_family: Mapping[str, str] = field(default_factory=dict)
    rooms: int = 0


def fit_baselines(samples: Iterable[SceneSample]) -> Baselines:
    """Fit the constants.

    The mean box averages centres in the window's world and, for its edges, the extents of the
    boxes along that world's axes.

    Raises:
        ValueError: there is no sample.
    """
    depths: list[float] = []
    centers: list[NDArray[np.float64]] = []
    sizes: list[NDArray[np.float64]] = []
    answers: Counter[str] = Counter()
    of_family: dict[str, Counter[str]] = defaultdict(Counter)
    rooms = 0
    for sample in samples:
        rooms += 1
        depths.append(float(np.nanmean(sample.depth)))
        T_window_room = np.linalg.inv(sample.T_world_camera[0])
        for item in sample.objects:
            box = item.box
            turn = T_window_room[:3, :3] @ matrix_from_quat_xyzw(box.quat_xyzw)
            center = T_window_room[:3, :3] @ box.center + T_window_room[:3, 3]
            centers.append(np.asarray(center, np.float64))
            sizes.append(np.abs(turn) @ np.asarray(box.size, np.float64))
        for question in sample.questions:
            answers[question.answers[0]] += 1
            of_family[question.family][question.answers[0]] += 1
    if not rooms or not centers:
        raise ValueError("samples: expected at least one training room with objects, got none")
    return Baselines(
        depth_m=float(np.mean(depths)),
        box=GroundedBox("object", 1.0, np.mean(centers, axis=0), np.mean(sizes, axis=0)),
        answer=answers.most_common(1)[0][0] if answers else "",
        answer_of_family={
            family: count.most_common(1)[0][0] for family, count in of_family.items()
        },
        rooms=rooms,
    )


def still_camera(frames: int) -> NDArray[np.float64]:
    """Poses of a camera that never moves, (S, 4, 4)."""
    return np.repeat(make_transform(np.eye(3), np.zeros(3))[None], frames, axis=0)
