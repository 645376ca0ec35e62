# SPDX-License-Identifier: Apache-2.0
"""Situations are true where they stand, and their answers depend on where that is."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms import annotate_frames
from vidllm_ros.data.synthrooms.situations import MOST_SITUATIONS, situate
from vidllm_ros.data.synthrooms.view import View, look

_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
assert _spec is not None
assert _spec.loader is not None
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)


def view_of(sample: SceneSample) -> View:
    return look(
        sample.objects,
        sample.instance_ids,
        sample.label_ids,
        sample.depth,
        sample.T_world_camera,
    )


def test_the_oracle_answers_every_situation(samples: list[SceneSample]) -> None:
    starts: Counter[str] = Counter()
    for sample in samples:
        assert len(sample.situations) <= MOST_SITUATIONS
        for situation in sample.situations:
            right = oracle.Oracle(sample).situated(situation)
            assert right & set(situation.answers), (sample.scene_id, situation, right)
            starts[situation.question.split()[0]] += 1
    assert {"is", "which", "how", "can", "where"} <= set(starts)
    assert starts.total() > 3 * len(samples)


def test_one_stands_by_the_one_thing_and_faces_the_other(samples: list[SceneSample]) -> None:
    for sample in samples:
        for situation in sample.situations:
            standing = oracle.Standing(oracle.Oracle(sample), situation)
            assert abs(standing.bearing(standing.faced)) < 1e-3
            limit = 0.6 if "next to" in situation.situation else 1.1
            assert standing.away(standing.host) < limit + 0.1
            assert {sample.object(i).object_id for i in situation.object_ids} >= {
                oracle.Oracle(sample).the(name).object_id
                for name in (standing.host, standing.faced)
            }
            place = sample.T_world_camera[:, :2, 3] - situation.position[:2]
            assert np.hypot(*place.T).min() < 1e-9  # a camera was there: the floor is free
            np.testing.assert_allclose(np.linalg.norm(situation.quat_xyzw), 1)


def test_answers_depend_on_the_situation(samples: list[SceneSample]) -> None:
    """Turned round, left becomes right and behind becomes in front."""
    turned = asked = 0
    for sample in samples:
        for situation in sample.situations:
            if situation.answers[0] not in ("left", "right", "behind", "in front"):
                continue
            x, y, z, w = situation.quat_xyzw
            about = replace(situation, quat_xyzw=np.array([x, y, w, -z]))
            standing = oracle.Standing(oracle.Oracle(sample), about)
            noun = situation.question.split(" the ")[1].split(" on")[0].split(" from")[0]
            asked += 1
            turned += standing.side(noun.removesuffix("?")) != situation.answers[0]
    assert asked > 8
    assert turned == asked


def test_words_give_little_away(samples: list[SceneSample]) -> None:
    answers: dict[str, Counter[str]] = {}
    for sample in samples:
        for s in sample.situations:
            family = s.question.split(" the ")[0].split()[0]
            answers.setdefault(family, Counter())[s.answers[0]] += 1
    hits = sum(counter.most_common(1)[0][1] for counter in answers.values())
    assert hits / sum(counter.total() for counter in answers.values()) < 0.45


def test_fewer_frames_get_situations_they_show(samples: list[SceneSample]) -> None:
    found = 0
    for sample in samples[:6]:
        part = annotate_frames(sample, [4, 5, 6], seed=1)
        seen = {item.object_id for item in part.objects}
        for situation in part.situations:
            assert set(situation.object_ids) <= seen
            assert oracle.Oracle(part).situated(situation) & set(situation.answers)
            found += 1
    assert found > 3


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_things_make_no_situation(samples: list[SceneSample], count: int) -> None:
    view = view_of(samples[0])
    few = replace(
        view, objects=view.objects[:count], by_label={}, gaps_m=np.full((count,) * 2, np.inf)
    )
    assert situate(few, np.random.default_rng(0)) == ()
