# SPDX-License-Identifier: Apache-2.0
"""The trivial rivals of `vidllm evaluate synthrooms`, fitted on training rooms.

Next: evaluation/baselines.py and evaluation/text_only.py, which they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vidllm_ros.cli.command import note
from vidllm_ros.data.samples import Question, SceneSample
from vidllm_ros.data.synthrooms import load_sample, make_scene
from vidllm_ros.evaluation.baselines import fit_baselines
from vidllm_ros.evaluation.benchmark_cases import Benchmark
from vidllm_ros.evaluation.benchmark_synthrooms_scores import TextOnly, score
from vidllm_ros.evaluation.text_only import TextOnlyAnswerer
from vidllm_ros.network.vidllm import VidLLM


def load_training_rooms(folder: Path | None, count: int, frames: int) -> Iterator[SceneSample]:
    """Rooms of the training split: from a folder of rendered ones, or rendered now."""
    if folder is None:
        yield from (make_scene(seed, frames=frames) for seed in range(count))
        return
    files = sorted(folder.glob("*.npz"))[:count]
    if not files:
        raise FileNotFoundError(f"training-rooms: expected rendered rooms in {folder}, got none")
    yield from (load_sample(file) for file in files)


def with_baselines(
    benchmark: Benchmark,
    rooms: Iterable[SceneSample],
    network: VidLLM | None,
    text_only_minutes: float,
) -> tuple[Benchmark, dict[str, Any]]:
    """Return SynthRooms with trivial answers scored beside, and what to say of them."""
    note("fitting the baselines on training rooms")
    questions: list[Question] = []
    baselines = fit_baselines(noting_questions(rooms, questions))
    text_only = train_text_only(network, questions, text_only_minutes)
    scorer = partial(score, baselines=baselines, text_only=text_only)
    facts = {
        "baseline_depth_m": round(baselines.depth_m, 3),
        "baseline_answer": baselines.answer,
        "baseline_rooms": baselines.rooms,
    }
    return replace(benchmark, score=scorer), facts


def noting_questions(
    rooms: Iterable[SceneSample], questions: list[Question]
) -> Iterator[SceneSample]:
    """Pass rooms on, one in memory at a time, and keep what is asked about them."""
    for room in rooms:
        questions += room.questions
        yield room


def train_text_only(
    network: VidLLM | None, questions: Sequence[Question], minutes: float
) -> TextOnly | None:
    """Train the answerer that never sees a scene, on these questions."""
    if minutes <= 0 or network is None:
        return None
    note(f"training the text-only answerer on {len(questions)} questions")
    answerer = TextOnlyAnswerer(network.config.language_config(), network.language.tokenizer)
    loss = answerer.fit(questions, minutes)
    note(f"its loss: {loss:.3f}")
    return answerer
