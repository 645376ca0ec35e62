# SPDX-License-Identifier: Apache-2.0
"""Looks placed by the truth: exact where nothing is spoiled, off by what was asked elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidllm_ros.data.scene_batch import SceneBatch, batch_samples
from vidllm_ros.network.metric_geometry import MetricGeometry
from vidllm_ros.network.patches3d import patch_center_depth
from vidllm_ros.training import recipe, words_stage
from vidllm_ros.training.true_looks import Errors, spoiled, true_geometry

PATCH = 14
NOTHING = Errors(scale=0.0, frame=0.0, region=0.0, patch=0.0, turn=0.0, step=0.0)


@pytest.fixture
def batch(make_sample, tiny_settings) -> SceneBatch:
    rngs = [np.random.default_rng(i) for i in range(2)]
    return batch_samples([make_sample(0), make_sample(1)], tiny_settings, 0, rngs)


def chances(count: int, seed: int = 1) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, i)) for i in range(count)]


@pytest.fixture
def still() -> MetricGeometry:
    """Many windows of 16 frames, all depth 2 m, the camera 1 m further each frame."""
    T = torch.eye(4).repeat(64, 16, 1, 1)
    T[..., 0, 3] = torch.arange(16.0)
    return MetricGeometry(
        depth=torch.full((64, 16, 84, 112), 2.0),
        valid=torch.ones(64, 16, 84, 112, dtype=torch.bool),
        K=torch.eye(3).repeat(64, 16, 1, 1),
        T_world_camera=T,
        scale=torch.ones(64),
        spread=torch.zeros(64),
    )


def test_the_truth_is_the_truth(batch):
    metric = true_geometry(batch)
    assert metric.depth is batch.depth
    exact = spoiled(metric, PATCH, chances(2), NOTHING)
    torch.testing.assert_close(exact.depth, batch.depth)
    torch.testing.assert_close(exact.T_world_camera, batch.T_world_camera)
    assert torch.equal(exact.valid, batch.valid)


@pytest.mark.parametrize("name", ["frame", "region", "patch"])
def test_depth_errs_as_much_as_asked_where_it_is_read(still, name):
    found = spoiled(still, PATCH, chances(64), replace(NOTHING, **{name: 0.1}))
    read, _ = patch_center_depth(found.depth, found.valid, PATCH)
    away = torch.log(read / 2.0)
    assert float(away.std()) == pytest.approx(0.1, rel=0.1)
    assert abs(float(away.mean())) < 0.005
    by_pixel = torch.log(found.depth / 2.0)
    within_a_frame = float(by_pixel.std((2, 3)).mean())
    next_to_each_other = float((by_pixel[..., 1:] - by_pixel[..., :-1]).abs().max())
    if name == "frame":
        assert within_a_frame < 1e-5
    else:
        assert within_a_frame > 0.06
        assert (next_to_each_other < 0.07) == (name == "region")
    assert torch.equal(found.T_world_camera, still.T_world_camera)


def test_a_window_errs_alike_whatever_else_is_in_the_batch(still):
    both = spoiled(still, PATCH, chances(64))
    part = replace(
        still,
        **{
            name: getattr(still, name)[5:6]
            for name in ("depth", "valid", "K", "T_world_camera", "scale", "spread")
        },
    )
    alone = spoiled(part, PATCH, chances(6)[5:])
    torch.testing.assert_close(alone.depth[0], both.depth[5])
    torch.testing.assert_close(alone.T_world_camera[0], both.T_world_camera[5])


def test_a_wrong_scale_is_wrong_of_depth_and_path_alike(still):
    found = spoiled(still, PATCH, chances(64), replace(NOTHING, scale=0.1))
    assert float(found.scale.log().std()) == pytest.approx(0.1, rel=0.25)
    torch.testing.assert_close(found.depth[:, 3, 5, 7], 2.0 * found.scale)
    torch.testing.assert_close(found.T_world_camera[:, 7, 0, 3], 7.0 * found.scale)


def test_the_path_drifts_from_the_first_camera_on(still):
    found = spoiled(still, PATCH, chances(64), replace(NOTHING, turn=0.01, step=0.02))
    moved = found.T_world_camera - still.T_world_camera
    assert torch.equal(found.T_world_camera[:, 0], still.T_world_camera[:, 0])
    far, near = moved[:, 15, :3, 3].std(), moved[:, 1, :3, 3].std()
    assert float(near) == pytest.approx(0.02, rel=0.3)
    assert float(far / near) == pytest.approx(15**0.5, rel=0.3)
    R = found.T_world_camera[..., :3, :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-5, rtol=0)
    trace = R[:, 15].diagonal(dim1=-2, dim2=-1).sum(-1)
    angle = torch.acos(((trace - 1.0) / 2.0).clamp(-1.0, 1.0))
    assert float((angle**2).mean() ** 0.5) == pytest.approx(0.01 * (3 * 15) ** 0.5, rel=0.3)


def test_cameras_turn_about_the_axes_of_the_world(still):
    """The same turns whichever way a camera looks: they come before its own rotation."""
    turning = replace(NOTHING, turn=0.1)
    straight = spoiled(still, PATCH, chances(64), turning).T_world_camera[:, 1:, :3, :3]
    turned = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    still.T_world_camera[:, 1:, :3, :3] = turned
    found = spoiled(still, PATCH, chances(64), turning).T_world_camera[:, 1:, :3, :3]
    torch.testing.assert_close(found, straight @ turned)


def test_the_words_stage_looks_truly_while_it_learns_and_only_so_long(
    tiny_model, batch, make_recipe, monkeypatch
):
    """Alike in every process, for the batch's number decides; never while it is measured."""
    made = make_recipe(stage="words", true_looks=0.5, true_looks_until=0.6)
    stage = words_stage.WordsStage(tiny_model, made)
    early = [stage.looks_truly(index, 0.3) for index in range(200)]
    assert 70 < sum(early) < 130
    assert early == [
        words_stage.WordsStage(tiny_model, made).looks_truly(i, 0.1) for i in range(200)
    ]
    assert not any(stage.looks_truly(index, 0.6) for index in range(200))
    asked = []
    monkeypatch.setattr(
        words_stage, "spoiled", lambda metric, *_: asked.append(metric.depth) or metric
    )
    index = early.index(True)
    output = stage(replace(batch, index=index), 0.3)
    assert asked[0] is batch.depth
    assert float(output.terms["true_look"]) == 1.0
    stage.eval()
    output = stage(replace(batch, index=index), 0.3)
    assert len(asked) == 1
    assert float(output.terms["true_look"]) == 0.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"true_looks": 1.5}, "true_looks: expected 0 to 1"),
        ({"true_looks_until": 76.0}, "true_looks_until: expected 0 to 1"),
        ({"true_looks": 0.5, "stage": "joint"}, "true_looks: expected 0 with stage 'joint'"),
        ({"replay_buffer": 0}, "replay_buffer: expected at least 1"),
    ],
)
def test_what_would_be_passed_over_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        recipe.Recipe(**{"stage": "words", **changes})


def test_rounds_of_questions_are_refused_where_none_are_read():
    with pytest.raises(ValueError, match="question_rounds: expected at least 1"):
        recipe.DataRecipe(question_rounds=0)
    with pytest.raises(ValueError, match="question_rounds: expected 1 with stage 'image_text'"):
        recipe.Recipe(stage="image_text", data=recipe.DataRecipe(question_rounds=2))


def test_a_true_look_asks_for_meaning_and_not_for_geometry(
    tiny_model, batch, make_recipe, monkeypatch
):
    """What is pooled is what the network means, at the places the truth knows."""
    monkeypatch.setattr(words_stage, "spoiled", lambda metric, *_: metric)
    with torch.no_grad():
        semantic = tiny_model.geometry(batch.images).adapter.semantic
        wanted, _ = tiny_model.scene_tokens(
            semantic, batch.depth, batch.K, batch.T_world_camera, batch.valid
        )

    def refuse(*_: object) -> None:
        raise AssertionError("the network's geometry was asked for")

    monkeypatch.setattr(tiny_model.aggregator, "forward", refuse)
    scenes = words_stage.WordsStage(tiny_model, make_recipe()).look_truly(batch)
    for i, scene in enumerate(scenes):
        tokens, positions = wanted.of_scene(i)
        torch.testing.assert_close(scene.tokens, tokens)
        torch.testing.assert_close(scene.positions, positions, atol=1e-5, rtol=1e-5)
