# SPDX-License-Identifier: Apache-2.0
"""Where scenes are read along the room, places, evidence and boxes to be learnt turn together."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.data.scene_batch import SceneBatch, batch_samples
from vidllm_ros.network import vidllm as network
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.scene_places import SIGHT
from vidllm_ros.training import stages, words, words_stage

TURN = torch.from_numpy(Rotation.from_euler("xyz", [10, 35, -5], degrees=True).as_matrix()).float()


@pytest.fixture
def batch(make_sample, tiny_settings) -> SceneBatch:
    rngs = [np.random.default_rng(i) for i in range(2)]
    return batch_samples([make_sample(0), make_sample(1)], tiny_settings, 0, rngs)


@pytest.fixture
def turned(monkeypatch):
    """Let every window's room lie turned by TURN, or by nothing, as `scene_frame` says."""

    def frames(mode, depth, valid, K, T_world_camera):
        T = torch.eye(4).repeat(len(depth), 1, 1)
        if mode == "room":
            T[:, :3, :3] = TURN
        return T

    monkeypatch.setattr(network, "scene_frames", frames)


def test_the_words_stage_sees_places_and_boxes_in_one_frame(
    tiny_model, batch, make_recipe, turned
):
    tiny_model.config.voxel_size_m = tiny_model.patches.voxel_m = 0.0  # every patch is kept
    seen = {}
    for mode in ("camera", "room"):
        tiny_model.config.scene_frame = mode
        seen[mode] = words_stage.WordsStage(tiny_model, make_recipe()).look(batch)
    for plain, room in zip(seen["camera"], seen["room"], strict=True):
        torch.testing.assert_close(room.positions, plain.positions @ TURN.T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(room.evidence, plain.evidence)
        torch.testing.assert_close(room.targets.center, plain.targets.center @ TURN.T)


def test_boxes_to_be_learnt_are_the_same_boxes(batch):
    T = torch.eye(4).repeat(len(batch.boxes), 1, 1)
    T[:, :3, :3], T[:, :3, 3] = TURN, torch.tensor([1.0, 2.0, 3.0])
    for boxes, target in zip(batch.boxes, words.box_targets(batch, T), strict=True):
        torch.testing.assert_close(target.center, boxes.center @ TURN.T + T[0, :3, 3])
        spread = [
            axes @ torch.diag_embed(size**2) @ axes.mT  # the same whichever edge is called x
            for axes, size in ((TURN @ boxes.rotation, boxes.size), (target.rotation, target.size))
        ]
        torch.testing.assert_close(spread[0], spread[1])
        assert (target.rotation[:, 0, 0] > 0.7).all()  # of four turns the one nearest the x axis


@pytest.mark.parametrize("progress", [0.0, 1.0], ids=["true geometry", "own geometry"])
def test_the_joint_stage_learns_in_room_axes(
    tiny_model, batch, make_recipe, progress, monkeypatch
):
    tiny_model.config.scene_frame = "room"
    given = []
    found = stages.box_targets
    monkeypatch.setattr(stages, "box_targets", lambda batch, T: given.append(T) or found(batch, T))
    made = make_recipe(own_geometry=(0.0, 0.5), own_geometry_share=1.0)
    output = stages.JointStage(tiny_model, made, 0, 0)(batch, progress)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert given[0].shape == (2, 4, 4)


def test_the_words_stage_teaches_places_and_forgets_scenes_without_sight(
    tiny_model, batch, make_recipe, learn
):
    plain = words_stage.WordsStage(tiny_model, make_recipe()).look(batch)
    config = VidLLMConfig.from_dict({**tiny_model.config.to_dict(), "scene_places": True})
    placed = network.VidLLM(config)
    placed.load_state_dict({**placed.state_dict(), **tiny_model.state_dict()})
    placed.language.attach_tokenizer(tiny_model.language.tokenizer)
    stage = words_stage.WordsStage(placed, make_recipe(replay_scenes=3))
    for seen, bare in zip(stage.look(batch), plain, strict=True):
        torch.testing.assert_close(seen.tokens[:, :-SIGHT], bare.tokens)
    outputs = learn(stage, batch, 25)
    assert outputs[-1].terms["language"] < 0.7 * outputs[0].terms["language"]
    assert placed.places.second.weight.abs().sum() > 0
    assert placed.grounding.sight.weight.abs().sum() > 0
    kept = list(stage.buffer)
    stage.set_extra_state([*kept, *plain])
    assert len(stage.buffer) == len(kept)
