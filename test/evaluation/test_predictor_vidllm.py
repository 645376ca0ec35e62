# SPDX-License-Identifier: Apache-2.0
"""Boxes in and out of the window's world, and what is asked of the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidllm_ros.evaluation.predictor import Proposal, SceneView
from vidllm_ros.evaluation.predictor_vidllm import VidLLMPredictor, box_in_window
from vidllm_ros.geometry.boxes import corners_of
from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction, SceneContext

# The first camera looks along the room's y from one metre up: x right, z down is -z of the room.
T_ROOM_CAMERA = np.array([[1.0, 0, 0, 2], [0, 0, 1, 0], [0, -1, 0, 1], [0, 0, 0, 1]])
SHAPE = (2, 4, 6)


class Network:
    """Tells what it was asked; sees one box, two metres ahead."""

    def __init__(self):
        self.asked, self.given, self.detections = [], (), 0
        self.box = GroundedBox("chair", 0.7, np.array([0.0, 0.5, 2.0]), np.array([0.4, 0.6, 1.0]))

    def reconstruct(self, frames):
        poses = np.tile(np.eye(4), (2, 1, 1))
        depth = np.full(SHAPE, 2.0, np.float32)
        confidence = np.full(SHAPE, 5.0, np.float32)
        confidence[0, 0, :4] = 1.0  # the least sure of 48: under a tenth
        depth[0, 0, :4] = 99.0
        K = np.tile(np.array([[6.0, 0, 3], [0, 6.0, 2], [0, 0, 1]]), (2, 1, 1))
        scene = SceneContext(torch.zeros(1, 4), torch.zeros(1, 3), (0, 1), poses)
        valid = np.ones(SHAPE, bool)
        images = np.zeros((*SHAPE, 3), np.uint8)
        return Reconstruction(images, (0, 1), depth, valid, confidence, K, poses, 1.0, 0.0, scene)

    def answer(self, scene, question):
        self.asked.append(question)
        return Answer("two", 1.0, (), (0, 1))

    def ground(self, scene, phrase, threshold, max_boxes):
        self.asked.append((phrase, threshold, max_boxes))
        return (self.box,) if phrase == "chair" else ()

    def detect(self, scene):
        self.detections += 1
        return (self.box,)

    def describe(self, scene, box):
        self.given = box
        return Answer("a chair", 1.0, (box,), (0, 1))

    def score_boxes(self, scene, boxes, phrase):
        self.given = boxes
        return np.array([0.1, 0.9], np.float32)


@pytest.fixture
def seen():
    frames = Frames(np.zeros((*SHAPE, 3), np.uint8), (0, 1))
    aabb = np.array([1.8, 1.5, 0.2, 2.2, 2.5, 0.8])
    proposals = (Proposal(7, aabb + 1), Proposal(9, aabb))
    predictor = VidLLMPredictor(Network(), "fake")
    return predictor, predictor.see(SceneView("a", frames, T_ROOM_CAMERA, proposals))


def test_boxes_leave_in_the_benchmarks_world(seen):
    predictor, scene = seen
    scene = replace(scene, view=replace(scene.view, proposals=()))
    found = predictor.ground_one(scene, "chair")
    # camera (0, 0.5, 2) is room (2, 2, 0.5); edges 0.4, 0.6, 1.0 lie along room x, z, y
    assert np.allclose(found.aabb, [1.8, 1.5, 0.2, 2.2, 2.5, 0.8])
    assert found.score == 0.7
    assert predictor.model.asked[-1] == ("chair", 0.0, 1)
    assert len(predictor.ground(scene, "chair")) == 1
    assert predictor.model.asked[-1] == ("chair", None, 8)
    assert predictor.ground_one(scene, "lamp") is None
    assert predictor.ground(scene, "lamp") == []


def test_proposals_come_into_the_window_oriented(seen):
    predictor, scene = seen
    assert predictor.choose(scene, "chair") == 9
    assert np.allclose(predictor.ground_one(scene, "chair").aabb, [1.8, 1.5, 0.2, 2.2, 2.5, 0.8])
    assert [box.score for box in predictor.ground(scene, "chair")] == pytest.approx([0.9])
    assert predictor.model.asked == []  # the network's own boxes are not asked for
    corners = corners_of(predictor.model.given[1])
    wanted = corners_of(predictor.model.box)
    assert np.allclose(np.sort(corners, axis=0), np.sort(wanted, axis=0))


def test_where_nothing_fits_nothing_is_chosen(seen, monkeypatch):
    """Trap: the best of zeros is the first box, which nobody named."""
    predictor, scene = seen
    monkeypatch.setattr(predictor.model, "score_boxes", lambda *_: np.zeros(2, np.float32))
    assert predictor.choose(scene, "chair") is None
    assert predictor.ground_one(scene, "chair") is None
    assert predictor.ground(scene, "chair") == []
    unsure = np.array([0.0, 1e-3], np.float32)  # the better one is meant, however unsure
    monkeypatch.setattr(predictor.model, "score_boxes", lambda *_: unsure)
    assert predictor.choose(scene, "chair") == 9
    assert predictor.ground_one(scene, "chair").score == pytest.approx(1e-3)


def test_a_box_goes_in_and_out_unchanged():
    aabb = np.array([1.0, 2, 0, 1.5, 4, 1])
    box = box_in_window(aabb, np.linalg.inv(T_ROOM_CAMERA))
    corners = corners_of(box) @ T_ROOM_CAMERA[:3, :3].T + T_ROOM_CAMERA[:3, 3]
    assert np.allclose([*corners.min(0), *corners.max(0)], aabb)


def test_a_detected_box_is_described_as_it_was_detected(seen):
    predictor, scene = seen
    detected = predictor.detect(scene)[0]
    assert predictor.caption(scene, detected.aabb) == "a chair"
    assert predictor.model.given is predictor.model.box
    predictor.caption(scene, detected.aabb + 0.3)
    assert predictor.model.given is not predictor.model.box
    assert predictor.model.detections == 1  # once a scene


def test_a_scene_without_patches_has_no_answer_that_points(seen):
    """Nothing fits and nothing is chosen: the first proposal would be a guess without a reason."""
    predictor, scene = seen
    empty = replace(
        scene.reconstruction.scene, tokens=torch.zeros(0, 4), positions=torch.zeros(0, 3)
    )
    blank = replace(scene, reconstruction=replace(scene.reconstruction, scene=empty))
    assert predictor.choose(blank, "chair") is None
    assert predictor.ground_one(blank, "chair") is None
    assert predictor.ground(blank, "chair") == []
    assert predictor.choose(scene, "chair") == 9


def test_the_situation_goes_before_the_question(seen):
    predictor, scene = seen
    predictor.answer(scene, "how many chairs?", situation="I stand at the door.")
    predictor.answer(scene, "how many?")
    assert predictor.model.asked == ["I stand at the door. how many chairs?", "how many?"]


def test_the_least_sure_tenth_is_no_part_of_the_cloud(seen):
    predictor, scene = seen
    cloud = predictor.cloud(scene)
    assert len(cloud) == 2 * 4 * 6 - 4
    assert np.allclose(cloud[:, 2], 2.0)


def test_without_a_pose_boxes_cannot_be_placed(seen):
    predictor, _ = seen
    frames = Frames(np.zeros((*SHAPE, 3), np.uint8), (0, 1))
    lost = predictor.see(SceneView("b", frames))
    with pytest.raises(ValueError, match="b: expected the true pose of the first frame"):
        predictor.ground_one(lost, "chair")
    assert predictor.answer(lost, "?") == "two"
