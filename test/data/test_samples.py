# SPDX-License-Identifier: Apache-2.0
"""A sample checks what it is built from and selects frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vidllm_ros.data.samples import (
    Caption,
    Question,
    Reference,
    SceneObject,
    SceneSample,
    visible_objects,
)
from vidllm_ros.structures import Frames, GroundedBox


def make_sample() -> SceneSample:
    ids = np.full((3, 10, 20), -1, np.int32)
    ids[0, :2] = 4  # 40 of 200 pixels
    ids[2, 0, 0] = 7  # 1 of 200
    K = np.tile(np.array([[20.0, 0, 10], [0, 20, 5], [0, 0, 1]]), (3, 1, 1))
    box = GroundedBox("chair", 1.0, np.zeros(3), np.ones(3))
    return SceneSample(
        scene_id="room",
        frames=Frames(np.zeros((3, 10, 20, 3), np.uint8), (0, 1, 2), K=K),
        depth=np.arange(600, dtype=np.float32).reshape(3, 10, 20),
        instance_ids=ids,
        label_ids=np.zeros((3, 10, 20), np.int16),
        T_world_camera=np.tile(np.eye(4), (3, 1, 1)),
        objects=(SceneObject(4, "chair", box, "red"), SceneObject(7, "chair", box, "blue")),
        labels=("wall", "chair"),
        questions=(Question("q", "how many chairs?", ("2",), (4, 7), "count"),),
        references=(Reference("a bed", (), "none"),),
        captions=(Caption(4, "a red chair"),),
    )


def test_select_takes_every_array_and_keeps_words() -> None:
    sample = make_sample()
    chosen = sample.select([2, 0])
    np.testing.assert_array_equal(chosen.depth, sample.depth[[2, 0]])
    np.testing.assert_array_equal(chosen.instance_ids, sample.instance_ids[[2, 0]])
    assert chosen.frames.stamps_ns == (2, 0)
    assert chosen.K.shape == (2, 3, 3)
    assert chosen.questions == sample.questions
    assert chosen.object(7).color == "blue"


def test_visible_objects_counts_pixels_of_a_frame() -> None:
    sample = make_sample()
    assert visible_objects(sample) == (4, 7)
    assert visible_objects(sample, min_fraction=0.01) == (4,)
    assert visible_objects(sample, [1, 2]) == (7,)
    assert visible_objects(sample, [0], min_fraction=0.2) == (4,)
    assert visible_objects(sample, [0], min_fraction=0.21) == ()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", np.zeros((3, 10, 19), np.float32), "depth"),
        ("T_world_camera", np.zeros((2, 4, 4)), "T_world_camera"),
        ("captions", (Caption(5, "a ghost"),), "not among the objects"),
        ("frames", Frames(np.zeros((3, 10, 20, 3), np.uint8), (0, 1, 2)), "calibrated"),
    ],
)
def test_sample_refuses_what_does_not_fit(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_sample(), **{field: value})


def test_reference_kind_agrees_with_its_targets() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Reference("the chair", (), "unique")
    with pytest.raises(ValueError, match="expected one of"):
        Reference("the chair", (1,), "only")
