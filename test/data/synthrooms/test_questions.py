# SPDX-License-Identifier: Apache-2.0
"""Every question has the answer the frames give; words alone do not give it away."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidllm_ros.data.samples import SceneObject, SceneSample, visible_objects
from vidllm_ros.data.synthrooms import COLORS, OBJECT_LABELS, annotate_frames
from vidllm_ros.data.synthrooms.questions import QUOTAS, article
from vidllm_ros.data.synthrooms.spatial_questions import meters
from vidllm_ros.data.synthrooms.view import box_gaps, look
from vidllm_ros.data.synthrooms.vocabulary import PLURALS
from vidllm_ros.structures import GroundedBox

_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
assert _spec is not None
assert _spec.loader is not None
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

SINGULARS = {plural: label for label, plural in PLURALS.items()}


def matches(sample: SceneSample, words: str) -> list[SceneObject]:
    """Return the objects that words such as "red chair", "chairs" or "blue things" mean."""
    first, _, rest = words.partition(" ")
    color, noun = (first, rest) if first in COLORS else ("", words)
    label = SINGULARS.get(noun, noun)
    return [
        item
        for item in sample.objects
        if (not color or item.color == color) and label in (item.label, "things", "object")
    ]


def test_an_oracle_answers_every_question(samples: list[SceneSample]) -> None:
    """The oracle (oracle.py) knows boxes, poses, depth and ids, and no code of the questions."""
    read: Counter[str] = Counter()
    for sample in samples:
        seer = oracle.Oracle(sample)
        for question in sample.questions:
            right = seer.answer(question)
            assert right & set(question.answers), (sample.scene_id, question, right)
            read[question.family] += 1
    assert set(read) == set(QUOTAS)
    assert min(read.values()) >= 8


def test_the_oracle_can_be_contradicted(samples: list[SceneSample]) -> None:
    wrong = 0
    for sample in samples[:5]:
        seer = oracle.Oracle(sample)
        for question in sample.questions:
            swapped = {"yes": "no", "no": "yes", "left": "right", "right": "left"}
            answer = swapped.get(question.answers[0], "an elephant")
            assert answer not in seer.answer(question)
            wrong += 1
    assert wrong > 50


def test_answers_are_short_and_of_one_kind(samples: list[SceneSample]) -> None:
    for sample in samples:
        for question in sample.questions:
            for answer in question.answers:
                assert len(answer.split()) <= 6, question
            if question.family in ("distance", "size"):
                assert re.fullmatch(r"\d+\.\d", question.answers[0])
            if question.family in ("color", "existence", "count"):
                assert len(question.answers) == 1


def test_places_name_a_real_neighbour(samples: list[SceneSample]) -> None:
    seen = 0
    for sample in samples:
        gaps = box_gaps(sample.objects)
        index = {item.object_id: row for row, item in enumerate(sample.objects)}
        for question in sample.questions:
            if question.family != "place":
                continue
            first, second = (index[i] for i in question.object_ids)
            assert gaps[first, second] < 0.6
            assert any(
                gaps[i, j] == pytest.approx(gaps[i].min())
                for i, j in ((first, second), (second, first))
            )
            seen += 1
    assert seen > 10


def test_everything_said_is_about_what_is_seen(samples: list[SceneSample]) -> None:
    for sample in samples:
        seen = set(visible_objects(sample))
        spoken = [*sample.questions, *sample.references, *sample.situations]
        assert {i for item in spoken for i in item.object_ids} <= seen
        assert {item.object_id for item in sample.objects} == seen
        assert len(sample.questions) >= 12
        assert 8 <= len(sample.references) <= 22
        assert {caption.object_id for caption in sample.captions} == seen
        assert len({q.question for q in sample.questions}) == len(sample.questions)
        assert len({q.question_id for q in sample.questions}) == len(sample.questions)
        for question in sample.questions:
            assert question.family in QUOTAS
            assert question.answers[0] == question.answers[0].lower()


def test_references_mean_what_they_say(samples: list[SceneSample]) -> None:
    kinds: Counter[str] = Counter()
    for sample in samples:
        for reference in sample.references:
            kinds[reference.kind] += 1
            words = re.sub(r"^(the|an?|all) ", "", reference.phrase)
            if " next to " in words:
                label = words.split(" next to ")[0]
                assert [sample.object(i).label for i in reference.object_ids] == [label]
                continue
            expected = {item.object_id for item in matches(sample, words)}
            assert set(reference.object_ids) == expected, reference
        for label in {item.label for item in sample.objects}:
            phrases = [
                r for r in sample.references if label in r.phrase or PLURALS[label] in r.phrase
            ]
            assert phrases or label in unclear(sample)
    assert set(kinds) == {"unique", "multiple", "many", "none"}


def unclear(sample: SceneSample) -> frozenset[str]:
    view = look(
        sample.objects,
        sample.instance_ids,
        sample.label_ids,
        sample.depth,
        sample.T_world_camera,
    )
    return view.unclear


def test_words_alone_give_little_away(samples: list[SceneSample]) -> None:
    """Guess by the most frequent answer to the same words in other rooms."""
    half = len(samples) // 2
    by_words: dict[str, Counter[str]] = defaultdict(Counter)
    by_family: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples[:half]:
        for question in sample.questions:
            by_words[question.question][question.answers[0]] += 1
            by_family[question.family][question.answers[0]] += 1
    hits = []
    for sample in samples[half:]:
        for question in sample.questions:
            known = by_words[question.question] or by_family[question.family]
            hits.append(known.most_common(1)[0][0] in question.answers)
    assert np.mean(hits) < 0.42
    constant = sum(c.most_common(1)[0][1] for c in by_family.values())
    assert constant / sum(c.total() for c in by_family.values()) < 0.45
    answers = Counter(
        question.answers[0]
        for sample in samples
        for question in sample.questions
        if question.family == "existence"
    )
    assert 0.35 < answers["yes"] / answers.total() < 0.65


def test_fewer_frames_get_questions_they_answer(samples: list[SceneSample]) -> None:
    for sample in samples[:6]:
        part = annotate_frames(sample, [5, 6], seed=3)
        assert len(part) == 2
        seen = set(visible_objects(part))
        assert {item.object_id for item in part.objects} <= seen
        for question in part.questions:
            assert oracle.Oracle(part).answer(question) & set(question.answers), question
        again = annotate_frames(sample, [5, 6], seed=3)
        assert again.questions == part.questions
        assert part.references != sample.references or len(seen) == len(sample.objects)


def test_a_class_that_shows_a_little_is_not_asked_about(samples: list[SceneSample]) -> None:
    sample = next(s for s in samples if sum(i.label == "chair" for i in s.objects) == 1)
    ids, labels = sample.instance_ids.copy(), sample.label_ids.copy()
    ids[0, 0, :5] = 99  # 5 of 3072 pixels: more than nothing, less than enough
    labels[0, 0, :5] = sample.labels.index("chair")
    doubtful = annotate_frames(replace(sample, instance_ids=ids, label_ids=labels), range(16))
    for question in doubtful.questions:
        if question.family in ("existence", "count", "color"):
            assert "chair" not in re.sub(r"armchair", "", question.question), question
    assert not any(r.phrase.strip("s").endswith("chair") for r in doubtful.references)


def cube(object_id: int, x: float, y: float, z: float = 0.5) -> SceneObject:
    box = GroundedBox("chair", 1.0, np.array([x, y, z]), np.ones(3))
    return SceneObject(object_id, "chair", box, "red")


def test_gaps_between_boxes() -> None:
    gaps = box_gaps([cube(0, 0, 0), cube(1, 3, 0), cube(2, 0, 0, 2.5), cube(3, 2, 2)])
    assert gaps[0, 1] == pytest.approx(2)
    assert gaps[0, 2] == pytest.approx(1)
    assert gaps[0, 3] == pytest.approx(np.sqrt(2))
    assert np.isinf(gaps.diagonal()).all()
    np.testing.assert_allclose(gaps, gaps.T)


def test_lengths_forgive_a_little() -> None:
    assert meters(0.84) == ("0.8",)
    assert meters(0.85)[0] in ("0.8", "0.9")
    assert set(meters(2.0)) == {"2.0", "1.9", "2.1"}
    assert article("orange chair") == "an orange chair"
    assert article("bed") == "a bed"
    assert set(PLURALS) == set(OBJECT_LABELS)


def test_further_rounds_ask_what_was_not_asked_yet(samples: list[SceneSample]) -> None:
    """The first round is what it would be alone; an oracle answers the others as well."""
    for sample in samples[:6]:
        frames = range(len(sample))
        once = annotate_frames(sample, frames, seed=5)
        twice = annotate_frames(sample, frames, seed=5, rounds=2)
        asked = [question.question for question in twice.questions]
        assert [q.question for q in once.questions] == asked[: len(once.questions)]
        assert len(asked) == len(set(asked)) == len({q.question_id for q in twice.questions})
        assert len(asked) > 1.2 * len(once.questions)
        seer = oracle.Oracle(twice)
        for question in twice.questions:
            assert seer.answer(question) & set(question.answers), (sample.scene_id, question)
