# SPDX-License-Identifier: Apache-2.0
"""The threshold is chosen where right boxes end and wrong ones begin."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vidllm_ros.cli.calibrate import store
from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.evaluation.calibration import calibrate, count_hits
from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.geometry.transforms import invert_transform


class Detector:
    """Finds every object with a score of 0.7, and as many wrong ones with a score of 0.4."""

    def __init__(self, sample):
        T_window_room = invert_transform(sample.T_world_camera[0])
        right = [replace(transform_box(T_window_room, o.box), score=0.7) for o in sample.objects]
        far = np.array([50.0, 0.0, 0.0])
        wrong = [replace(box, center=box.center + far, score=0.4) for box in right]
        self.boxes = tuple(right + wrong)

    def reconstruct(self, frames):
        return SimpleNamespace(scene=None)

    def detect(self, scene, *, threshold):
        return tuple(box for box in self.boxes if box.score >= threshold)


@pytest.fixture(scope="module")
def sample():
    return make_scene(1_000_001, frames=4, height=56, width=84)


def test_threshold_parts_right_from_wrong(sample):
    chosen = calibrate(Detector(sample), [sample])
    assert 0.4 < chosen.threshold <= 0.7
    assert chosen.f1 == pytest.approx(1.0)
    curve = dict(chosen.curve)
    assert curve[0.3] == pytest.approx(2 / 3, abs=1e-3)  # half of what is reported is wrong
    assert curve[0.8] == 0.0


def test_an_object_is_hit_once_and_only_by_its_name(sample):
    box = sample.objects[0].box
    other = next(o.label for o in sample.objects if o.label != box.label)
    truth = np.array([[0.0, 0, 0, 1, 1, 1]])
    one = replace(
        sample, objects=sample.objects[:1], questions=(), references=(), captions=(), situations=()
    )
    twice = [box, box]
    assert count_hits(twice, truth.repeat(2, 0), one, truth) == 1
    assert count_hits([replace(box, label=other)], truth, one, truth) == 0


def test_no_rooms_is_an_error():
    with pytest.raises(ValueError, match="expected rooms"):
        calibrate(Detector.__new__(Detector), [])


def test_the_threshold_is_stored_beside_the_rest(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"width": 1, "grounding_threshold": 0.3}))
    store(config, 0.12)
    assert json.loads(config.read_text()) == {"width": 1, "grounding_threshold": 0.12}
    assert list(tmp_path.iterdir()) == [config]
