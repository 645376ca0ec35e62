# SPDX-License-Identifier: Apache-2.0
"""Measure a model on rooms in memory: the same cases and scorers as `vidllm evaluate synthrooms`.

For whoever has samples at hand and no folder: tests, ablations, a look during training. Next:
benchmark_synthrooms.py for the cases, benchmark_synthrooms_scores.py for the numbers.
"""

from __future__ import annotations

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.evaluation.baselines import Baselines
from vidllm_ros.evaluation.benchmark_synthrooms import (
    predict,
    room_boxes,
    sample_cases,
    sample_view,
)
from vidllm_ros.evaluation.benchmark_synthrooms_scores import (
    RoomTally,
    TextOnly,
    truth_in_window,
)
from vidllm_ros.evaluation.predictor_vidllm import Model, VidLLMPredictor, window_cloud
from vidllm_ros.structures import Reconstruction

__all__ = [
    "Model",
    "Tally",
    "TextOnly",
    "measure_room",
    "room_boxes",
    "truth_in_window",
    "window_cloud",
]

Tally = RoomTally


def measure_room(
    tally: RoomTally,
    model: Model,
    sample: SceneSample,
    baselines: Baselines | None = None,
    text_only: TextOnly | None = None,
) -> Reconstruction:
    """Measure everything on one room and return what the model made of it.

    Args:
        tally: collects rooms; its `report()` gives the numbers by name.
        model: the network.
        sample: the room.
        baselines: constants to measure beside; None keeps the tally's.
        text_only: answers without seeing; None keeps the tally's.
    """
    tally.baselines = baselines or tally.baselines
    tally.text_only = text_only or tally.text_only
    predictor = VidLLMPredictor(model)
    seen = predictor.see(sample_view(sample))
    cases = sample_cases(sample)
    records = {case.case_id: predict(predictor, seen, case) for case in cases}
    tally.add_room(sample, cases, records)
    return seen.reconstruction
