# SPDX-License-Identifier: Apache-2.0
"""How a question to a scene is run, once it has been read (scene_state.py).

Everything here runs without gradient, one question at a time. Next: language.py and grounding.py,
which do the work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidllm_ros import prompts
from vidllm_ros.geometry.boxes import aabb_iou, aabb_of, transform_box, transform_boxes
from vidllm_ros.geometry.transforms import (
    invert_transform,
    matrix_from_quat_xyzw,
    quat_xyzw_from_matrix,
)
from vidllm_ros.network.box_features import BoxBatch
from vidllm_ros.network.grounding import Proposals
from vidllm_ros.network.language import LanguageOutput
from vidllm_ros.network.scene_state import SceneState, scene_state
from vidllm_ros.network.text_packing import PackedText, Segment, pack_segments
from vidllm_ros.structures import Answer, GroundedBox, SceneContext

if TYPE_CHECKING:
    from vidllm_ros.network.vidllm import VidLLM

P = ParamSpec("P")
T = TypeVar("T")

MAX_OVERLAP = 0.4
EVIDENCE_BOXES = 4


def _one_at_a_time(
    query: Callable[Concatenate[VidLLM, P], T],
) -> Callable[Concatenate[VidLLM, P], T]:
    """Run a question without gradient, and alone."""

    @functools.wraps(query)
    def alone(model: VidLLM, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with model._scenes.lock, torch.inference_mode():
            return query(model, *args, **kwargs)

    return alone


@_one_at_a_time
def answer(model: VidLLM, scene: SceneContext, question: str, max_new_tokens: int) -> Answer:
    """Answer a question and name the objects it is about."""
    state = scene_state(model, scene)
    template = model.language.template
    with model.autocast():
        said, loc = model.language.generate_and_point(
            state.prefix,
            prompts.question_prompt(question, template=template),
            prompts.grounding_prompt(question, template),
            max_new_tokens,
        )
    boxes: tuple[GroundedBox, ...] = ()
    if state.proposals is not None:
        scores = _match(model, state.proposals, loc)[0]
        vocabulary = tuple(model.config.label_vocabulary)
        if vocabulary:
            best = _label_scores(model, state, vocabulary).argmax(axis=0)
            labels = [vocabulary[index] for index in best]
        else:
            labels = [prompts.clean_text(question)] * len(scores)
        boxes = _pick(model, state, scores, labels, None, EVIDENCE_BOXES)
    return Answer(said.text, said.confidence, boxes, scene.stamps_ns)


@_one_at_a_time
def describe(model: VidLLM, scene: SceneContext, box: GroundedBox, max_new_tokens: int) -> Answer:
    """Describe what is in a box."""
    state = scene_state(model, scene)
    with model.autocast():
        embeds = None
        if state.patches.mask.any():
            batch = _batch([box], state, model.device)
            embeds = model.box_features.embeds(state.patches.for_boxes, batch)
        prompt = prompts.caption_prompt(template=model.language.template)
        said = model.language.generate(state.prefix, prompt, max_new_tokens, embeds)
    return Answer(said.text, said.confidence, (box,), scene.stamps_ns)


@_one_at_a_time
def ground(
    model: VidLLM, scene: SceneContext, phrase: str, threshold: float | None, max_boxes: int
) -> tuple[GroundedBox, ...]:
    """Find what a phrase names, best first."""
    state = scene_state(model, scene)
    if state.proposals is None:
        return ()
    scores = _proposal_scores(model, state, [phrase])[0]
    label = prompts.clean_text(phrase)
    return _pick(model, state, scores, [label] * len(scores), threshold, max_boxes)


@_one_at_a_time
def detect(
    model: VidLLM,
    scene: SceneContext,
    labels: Sequence[str] | None,
    threshold: float | None,
    max_boxes: int,
) -> tuple[GroundedBox, ...]:
    """Find every object of these labels; all labels run in one packed pass."""
    names = tuple(model.config.label_vocabulary if labels is None else labels)
    state = scene_state(model, scene)
    if state.proposals is None or not names:
        return ()
    scores = _label_scores(model, state, names)  # (V, Q)
    best = scores.argmax(axis=0)
    chosen = [names[index] for index in best]
    return _pick(model, state, scores.max(axis=0), chosen, threshold, max_boxes)


@_one_at_a_time
def score_boxes(
    model: VidLLM, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
) -> NDArray[np.float32]:
    """Say how well a phrase fits each given box, (R,), 0 to 1."""
    state = scene_state(model, scene)
    if not boxes or not state.patches.mask.any():
        return np.zeros(len(boxes), np.float32)
    with model.autocast():
        text, said = _phrases(model, state, [phrase])
        given = _batch(boxes, state, model.device)
        features = model.box_features.features(state.patches.for_boxes, given)
        logits = model.grounding.match(features, text.at_loc(said.hidden))
    return np.asarray(logits[0, 0].sigmoid().float().cpu().numpy(), np.float32)


@_one_at_a_time
def ground_in_words(model: VidLLM, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
    """Let the language model write boxes and read them back; their score is its confidence."""
    state = scene_state(model, scene)
    prompt = prompts.box_prompt(phrase, template=model.language.template)
    with model.autocast():
        said = model.language.generate(state.prefix, prompt, 64)
    return tuple(
        transform_box(
            state.T_world_scene,
            GroundedBox(
                label=prompts.clean_text(phrase),
                score=said.confidence,
                center=np.array(box.center),
                size=np.array(box.size),
            ),
        )
        for box in prompts.parse_boxes(said.text)
    )


def _phrases(
    model: VidLLM, state: SceneState, phrases: Sequence[str]
) -> tuple[PackedText, LanguageOutput]:
    template = model.language.template
    segments = [Segment(prompts.grounding_prompt(phrase, template)) for phrase in phrases]
    text = pack_segments(model.language.tokenizer, [segments]).to(model.device)
    return text, model.language.packed_cached(state.prefix, text)


def _proposal_scores(
    model: VidLLM, state: SceneState, phrases: Sequence[str]
) -> NDArray[np.float32]:
    """Probability that a proposal is an object and the phrase names it, (R, Q)."""
    assert state.proposals is not None
    with model.autocast():
        text, said = _phrases(model, state, phrases)
    return _match(model, state.proposals, text.at_loc(said.hidden))


def _match(model: VidLLM, proposals: Proposals, loc_hidden: Tensor) -> NDArray[np.float32]:
    """Match states of <loc>, (1, R, D), with the boxes there are, (R, Q)."""
    with model.autocast():
        logits = model.grounding.match(proposals.features, loc_hidden)
    scores = logits[0].sigmoid() * proposals.last.objectness_logits[0].sigmoid()
    return np.asarray(scores.float().cpu().numpy(), np.float32)


def _label_scores(
    model: VidLLM, state: SceneState, labels: tuple[str, ...]
) -> NDArray[np.float32]:
    """Scores of a set of labels, (V, Q); computed once a scene, for they come with every
    window.
    """
    if labels not in state.label_scores:
        state.label_scores[labels] = _proposal_scores(model, state, labels)
    return state.label_scores[labels]


def _batch(boxes: Sequence[GroundedBox], state: SceneState, device: torch.device) -> BoxBatch:
    """Bring boxes of the window's world into the scene's frame."""
    T_scene_world = invert_transform(state.T_world_scene)
    inside = transform_boxes(T_scene_world, boxes)

    def stack(rows: list[Any]) -> Tensor:
        return torch.tensor(np.stack(rows), dtype=torch.float32, device=device)[None]

    return BoxBatch(
        stack([box.center for box in inside]),
        stack([box.size for box in inside]),
        stack([matrix_from_quat_xyzw(box.quat_xyzw) for box in inside]),
    )


def _pick(
    model: VidLLM,
    state: SceneState,
    scores: NDArray[np.float32],
    labels: Sequence[str],
    threshold: float | None,
    max_boxes: int,
) -> tuple[GroundedBox, ...]:
    """Threshold, sort and suppress overlapping boxes (axis-aligned IoU in the scene's frame).

    Where the config fuses, what is reported is the mean, by score, of the best box and those of
    its label that overlap it: their errors differ, as their queries do.
    """
    assert state.proposals is not None
    least = model.config.grounding_threshold if threshold is None else threshold
    fusion = model.config.grounding_fusion
    last = state.proposals.last
    centers, sizes, rotations = (
        value[0].double().cpu().numpy() for value in (last.center, last.size, last.rotation)
    )
    real = state.proposals.mask[0].cpu().numpy()
    quats = quat_xyzw_from_matrix(rotations)
    boxes = [
        GroundedBox(
            label=labels[index],
            score=float(scores[index]),
            center=centers[index],
            size=sizes[index],
            quat_xyzw=quats[index],
        )
        for index in range(len(scores))
    ]
    bounds = np.stack([aabb_of(box) for box in boxes])
    kept: list[GroundedBox] = []
    taken: list[NDArray[np.float64]] = []
    for index in np.argsort(-scores, kind="stable"):
        if len(kept) >= max_boxes or scores[index] < least:
            break
        if not real[index]:
            continue
        box, own = boxes[index], bounds[index]
        if fusion and box.score > 0:
            alike = real & np.array([other.label == box.label for other in boxes])
            alike &= aabb_iou(own, bounds)[0] >= fusion
            weight = np.where(alike, scores, 0.0)[:, None] / scores[alike].sum()
            box = replace(box, center=(weight * centers).sum(0), size=(weight * sizes).sum(0))
            own = aabb_of(box)
        if not taken or aabb_iou(own, np.stack(taken)).max() <= MAX_OVERLAP:
            kept.append(box)
            taken.append(own)
    return tuple(transform_boxes(state.T_world_scene, kept))
