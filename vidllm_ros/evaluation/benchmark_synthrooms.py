# SPDX-License-Identifier: Apache-2.0
"""SynthRooms as a benchmark: unseen rendered rooms, asked what the published data sets ask.

Each room is a scene with one case of geometry and one a question, phrase and described object;
they are predicted and scored by what predicts and scores SQA3D, ScanRefer, Multi3DRefer, Co3D and
the reconstruction benchmarks. Names and units of the numbers are this project's own. Next:
benchmark_synthrooms_scores.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms.prerender import (
    RenderSettings,
    check_settings,
    render_to,
    sample_path,
)
from vidllm_ros.data.synthrooms.storage import load_sample
from vidllm_ros.evaluation.benchmark_cases import (
    CASE_ID,
    Benchmark,
    Case,
    Cases,
    Record,
    record_array,
)
from vidllm_ros.evaluation.benchmark_seeds import TEST_SEEDS, parse_seeds
from vidllm_ros.evaluation.benchmark_synthrooms_scores import GEOMETRY, score, task_of
from vidllm_ros.evaluation.caption_benchmarks import CaptionTruth, predict_caption
from vidllm_ros.evaluation.grounding_benchmarks import BoxTruth, predict_box, predict_boxes
from vidllm_ros.evaluation.predictor import Predictor, SceneView, require_ability
from vidllm_ros.evaluation.qa_benchmarks import AnswerTruth, predict_answer
from vidllm_ros.geometry.boxes import corners_of

FRAMES = 32
PREDICT = {
    "question": predict_answer,
    "one": predict_box,
    "phrase": predict_boxes,
    "object": predict_caption,
}
_SCENE = re.compile(r"synthroom(\d+)$")


def room_boxes(sample: SceneSample, object_ids: Sequence[int]) -> NDArray[np.float64]:
    """Return true boxes along the room's axes, (G, 6), m."""
    corners = [np.asarray(corners_of(sample.object(i).box)) for i in object_ids]
    return np.array([np.concatenate([c.min(0), c.max(0)]) for c in corners]).reshape(-1, 6)


def sample_view(sample: SceneSample) -> SceneView:
    """Return what a model may see of a room; its world is the room's, z up."""
    return SceneView(sample.scene_id, sample.frames, sample.T_world_camera[0])


def sample_cases(sample: SceneSample) -> tuple[Case, ...]:
    """Return a room's cases: geometry, questions, phrases of one object, all phrases, objects."""
    name = sample.scene_id
    cases = [Case(f"{name}/{GEOMETRY}", name, {}, sample)]
    for index, question in enumerate(sample.questions):
        request = {"question": question.question, "family": question.family}
        truth = AnswerTruth(question.answers, question.family)
        cases.append(Case(f"{name}/question/{index}", name, request, truth))
    for index, item in enumerate(sample.references):
        boxes = BoxTruth(room_boxes(sample, item.object_ids), item.kind)
        request = {"phrase": item.phrase}
        if len(item.object_ids) == 1:
            cases.append(Case(f"{name}/one/{index}", name, request, boxes))
        cases.append(Case(f"{name}/phrase/{index}", name, request, boxes))
    said: dict[int, list[str]] = {}
    for caption in sample.captions:
        said.setdefault(caption.object_id, []).append(caption.text.lower())
    for object_id, texts in said.items():
        truth_of = CaptionTruth(tuple(texts), room_boxes(sample, [object_id])[0])
        cases.append(Case(f"{name}/object/{object_id}", name, {"given": "own"}, truth_of))
    return tuple(cases)


def predict(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Ask what the case asks, the way its published counterpart does."""
    task = task_of(case.case_id)
    if task != GEOMETRY:
        return PREDICT[task](predictor, seen, case)
    record = {
        CASE_ID: case.case_id,
        "depth": np.asarray(require_ability(predictor, "depth")(seen), np.float32),
        "T_world_camera": np.asarray(require_ability(predictor, "poses")(seen), float).tolist(),
        "cloud": np.asarray(require_ability(predictor, "cloud")(seen), np.float32),
    }
    frames = len(case.truth)
    record_array(record, "depth", (frames, None, None))
    record_array(record, "T_world_camera", (frames, 4, 4))
    record_array(record, "cloud", (None, 3))
    return record


def load(data_dir: Path, split: str, frames: int = FRAMES) -> Cases:
    """Return the rooms of seeds A:B; those that are not in the folder yet are rendered into it.

    Args:
        data_dir: rendered rooms, as `vidllm_ros.data.synthrooms.prerender` writes them.
        split: the seeds, or "test" for the frozen ones.
        frames: of a room.

    Raises:
        ValueError: the seeds are no range, or the folder holds rooms of another size.
    """
    first, last = parse_seeds(TEST_SEEDS if split == "test" else split)
    folder = Path(data_dir)
    settings = RenderSettings(frames=frames)
    check_settings(folder, settings)

    @lru_cache(maxsize=2)
    def sample_of(scene_id: str) -> SceneSample:
        match = _SCENE.match(scene_id)
        if match is None:
            raise ValueError(f"scene_id: expected synthroomNNNNNNN, got {scene_id!r}")
        file = sample_path(folder, int(match[1]))
        if not file.is_file():
            render_to(folder, int(match[1]), settings)
        return load_sample(file)

    names = tuple(f"synthroom{seed:07d}" for seed in range(first, last))
    return Cases(
        names,
        lambda scene_id: sample_cases(sample_of(scene_id)),
        lambda scene_id: sample_view(sample_of(scene_id)),
        f"{first}:{last}",
    )


def with_frames(frames: int) -> Benchmark:
    """Return SynthRooms with another number of frames."""
    return Benchmark(
        name="synthrooms",
        title="SynthRooms: unseen rendered rooms",
        splits=("test",),
        load=partial(load, frames=frames),
        predict=predict,
        score=score,
        layout="room<seed>.npz as prerender writes them; rendered into DIR where missing",
        source="ours; measures of SQA3D, ScanRefer, Multi3DRefer, Scan2Cap, Co3D, NeuralRecon",
        given=f"{frames} frames, their intrinsics, the first one's true pose in the room",
        array_fields=("depth", "cloud"),
    )


SYNTHROOMS = with_frames(FRAMES)
