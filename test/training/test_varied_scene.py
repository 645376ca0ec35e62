# SPDX-License-Identifier: Apache-2.0
"""A remembered scene is shown otherwise each time, and still says the same of its things."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidllm_ros.data.scene_batch import SceneBatch, batch_samples
from vidllm_ros.network.scene_places import SIGHT
from vidllm_ros.training import recipe, words_stage
from vidllm_ros.training.varied_scene import LEAST_TOKENS, varied


@pytest.fixture
def batch(make_sample, tiny_settings) -> SceneBatch:
    rngs = [np.random.default_rng(i) for i in range(2)]
    return batch_samples([make_sample(0), make_sample(1)], tiny_settings, 0, rngs)


@pytest.fixture
def scene(tiny_model, batch, make_recipe) -> words_stage.PooledScene:
    tiny_model.patches.has_sight = tiny_model.config.scene_places = True
    tiny_model.config.voxel_size_m = tiny_model.patches.voxel_m = 0.0  # every patch is kept
    stage = words_stage.WordsStage(tiny_model, make_recipe())
    made = stage.look(batch)[0]
    tiny_model.patches.has_sight = tiny_model.config.scene_places = False
    return made


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_changes_without_strength(scene):
    assert varied(scene, 0.0, True, drawn(0)) is scene


def test_rows_stay_together_and_scale_alike(scene):
    shown = varied(scene, 0.6, True, drawn(3))
    assert LEAST_TOKENS <= len(shown.tokens) < len(scene.tokens)
    scale = float((shown.targets.size / scene.targets.size).flatten()[0])
    assert scale != pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(shown.targets.center, scene.targets.center * scale)
    torch.testing.assert_close(shown.targets.rotation, scene.targets.rotation)
    gaps = torch.cdist(shown.positions, scene.positions * scale)
    assert gaps.min(1).values.max() < 1e-5
    row = gaps.argmin(1)
    torch.testing.assert_close(shown.evidence, scene.evidence[row])
    before, after = scene.tokens[row], shown.tokens
    torch.testing.assert_close(after[:, -SIGHT:-3], before[:, -SIGHT:-3])
    torch.testing.assert_close(after[:, -3:], before[:, -3:] * scale)
    moved = (after - before)[:, :-SIGHT].std() / before[:, :-SIGHT].std(0).mean()
    assert 0.1 < float(moved) < 0.5
    assert shown.sentences == scene.sentences


def test_every_look_differs_and_chances_decide(scene):
    chances = drawn(1)
    first, second = (varied(scene, 0.4, True, chances) for _ in range(2))
    again = varied(scene, 0.4, True, drawn(1))
    torch.testing.assert_close(first.tokens, again.tokens)
    assert first.tokens.shape != second.tokens.shape or not torch.equal(
        first.tokens, second.tokens
    )


def test_a_scene_of_few_tokens_keeps_them(scene):
    few = words_stage.PooledScene(
        scene.tokens[:5], scene.positions[:5], scene.evidence[:5], scene.targets, scene.sentences
    )
    for seed in range(10):  # without the rule half of these would lose some
        assert len(varied(few, 1.0, True, drawn(seed)).tokens) == 5


def test_fine_tokens_and_half_precision(scene):
    """Rows of the box decoder's tokens stay together as well; precision stays."""
    meaning = scene.tokens[:, :-SIGHT].bfloat16()
    fine = (meaning, scene.positions, scene.evidence)
    whole = replace(scene, tokens=meaning, fine=fine)
    shown = varied(whole, 0.6, False, drawn(3))
    assert shown.tokens.dtype == shown.fine[0].dtype == torch.bfloat16
    assert LEAST_TOKENS <= len(shown.fine[0]) < len(meaning)
    scale = float((shown.targets.size / scene.targets.size).flatten()[0])
    row = torch.cdist(shown.fine[1], scene.positions * scale).argmin(1)
    torch.testing.assert_close(shown.fine[1], scene.positions[row] * scale)
    torch.testing.assert_close(shown.fine[2], scene.evidence[row])


def test_a_scene_without_tokens_stays_one(scene):
    none = replace(
        scene, tokens=scene.tokens[:0], positions=scene.positions[:0], evidence=scene.evidence[:0]
    )
    assert varied(none, 0.5, True, drawn(0)).tokens.shape == (0, scene.tokens.shape[1])


def test_the_words_stage_varies_only_while_it_learns(tiny_model, batch, make_recipe, monkeypatch):
    asked = []
    monkeypatch.setattr(
        words_stage, "varied", lambda scene, strength, *_: asked.append(strength) or scene
    )
    stage = words_stage.WordsStage(tiny_model, make_recipe(stage="words", replay_variety=0.4))
    stage(batch, 0.0)
    assert asked == [0.4, 0.4]
    stage.eval()
    stage(batch, 0.0)
    assert len(asked) == 2
    with pytest.raises(ValueError, match="replay_variety: expected 0 to 1"):
        recipe.Recipe(stage="words", replay_variety=2.0)
    with pytest.raises(ValueError, match="replay_variety: expected 0 with stage 'joint'"):
        recipe.Recipe(replay_variety=0.2)
