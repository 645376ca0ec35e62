# SPDX-License-Identifier: Apache-2.0
"""Parts that learn are named, taught by a loss of the recipe, and the only ones that move."""

from dataclasses import fields, replace

import pytest

from vidllm_ros.data.synthrooms import LABELS
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training import learning_parts, recipe, stages, words_stage

GEOMETRY = ("aggregator", "camera_head", "depth_head", "metric_depth")


@pytest.fixture
def model(tiny_model: VidLLM) -> VidLLM:
    return tiny_model


def test_geometry_learns_behind_an_encoder_that_stays(model, batch, make_recipe, learn):
    silent = recipe.LossRecipe(oracle_label=0, oracle_color=0, language=0, grounding=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    semantic = model.geometry(batch.images).adapter.semantic
    stage = stages.JointStage(model, make_recipe(losses=silent, learn=GEOMETRY), 0, 0)
    outputs = learn(stage, batch, 25)
    assert outputs[-1].loss < outputs[0].loss - 0.1
    changed = {n for n, v in model.state_dict().items() if not v.equal(before[n])}
    assert {name.split(".")[0] for name in changed} == set(GEOMETRY)
    assert model.geometry(batch.images).adapter.semantic.equal(semantic)  # meaning stays


def test_the_joint_stage_teaches_all_where_none_is_named(model, make_recipe):
    stages.JointStage(model, make_recipe(), 0, 0)
    still = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert still == {"encoder.backbone.embeddings.mask_token"}
    silent = recipe.LossRecipe(language=0, grounding=0)
    stages.JointStage(model, make_recipe(losses=silent, learn=("encoder",)), 0, 0)
    moving = {
        name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad
    }
    assert moving == {"encoder"}
    assert not model.encoder.backbone.embeddings.mask_token.requires_grad  # nothing reaches it
    parts = learning_parts.learning_parts(model, make_recipe())
    assert {id(p) for part in parts for p in part.parameters()} == {
        id(p) for p in model.parameters()
    }


@pytest.mark.parametrize(
    ("stage", "name", "said"),
    [
        ("words", "encoder", "expected modules of .* got 'encoder'; geometry and meaning learn"),
        ("words", "language.nowhere", "expected modules of .* got 'language.nowhere'"),
        ("words", "point_head", "expected modules of .* got 'point_head'"),
        (
            "words",
            "language.model.model.layers.0.mlp.act_fn",
            "expected modules with weights, got ",
        ),
        (
            "words",
            "box_features.to_language",
            "expected modules that a loss reaches, got 'box_features.to_language'; set "
            "losses.language or losses.guide_evidence above 0",
        ),
        (
            "joint",
            "agregator",
            r"expected modules of .* got 'agregator'; did you mean aggregator\?",
        ),
        ("joint", "mind", "expected modules of .* got 'mind'; the joint stage teaches"),
        ("joint", "encoder.nowhere", "expected modules of .* got 'encoder.nowhere'"),
        ("joint", "box_features.to_language", "expected modules that a loss reaches, got 'box_f"),
        (
            "joint",
            "camera_head.trunk",
            "expected modules that a loss reaches, got 'camera_head.trunk'; set losses.camera",
        ),
    ],
)
def test_what_may_learn_is_there_and_taught(model, make_recipe, stage, name, said):
    losses = recipe.LossRecipe(language=0.0, camera=0.0)
    made = make_recipe(stage=stage, losses=losses, learn=("grounding", name))
    with pytest.raises(ValueError, match=f"learn: {said}"):
        learning_parts.learning_parts(model, made)


@pytest.mark.parametrize("encoder_learns", [True, False])
@pytest.mark.parametrize(
    ("stage", "loss"),
    [
        *(("words", name) for name in ("language", "guide_evidence", "grounding")),
        *(("joint", name) for name in ("camera", "depth", "metric", "points", "language")),
        *(("joint", name) for name in ("grounding", "oracle_label", "oracle_color")),
        *(("joint", name) for name in ("guide_attention", "guide_ray")),
    ],
)
def test_each_loss_alone_has_gradients_for_what_it_is_said_to_reach(
    model, batch, make_recipe, stage, loss, encoder_learns
):
    model.config.metric_trains_encoder = model.config.language_trains_encoder = encoder_learns
    weights = {item.name: 0.0 for item in fields(recipe.LossRecipe) if item.type == "float"}
    losses = recipe.LossRecipe(**weights | {loss: 1.0})
    made = make_recipe(stage=stage, losses=losses, evidence_layer=1)
    taught = (
        words_stage.WordsStage(model, made)
        if stage == "words"
        else stages.JointStage(model, made, len(LABELS), 2)
    )
    taught(batch, 0.0).loss.backward()
    moved = {
        name
        for name, value in model.named_parameters()
        if value.grad is not None and float(value.grad.abs().max()) > 0
    }
    reached = learning_parts.reach(made, model.config)[loss]
    assert {name for name in moved if not learning_parts.overlap(name, reached)} == set()
    there = [path for path in reached if path in dict(model.named_modules())]
    assert {
        path for path in there if not any(learning_parts.overlap(path, (name,)) for name in moved)
    } == set()


def test_a_loss_that_teaches_nothing_that_learns_is_refused(model, make_recipe):
    silent = recipe.LossRecipe(language=0, grounding=0, oracle_label=0)
    made = make_recipe(losses=silent, learn=GEOMETRY)
    with pytest.raises(ValueError, match=r"losses.oracle_color: expected 0 where \['aggregator'"):
        learning_parts.learning_parts(model, made)
    made = make_recipe(losses=replace(silent, oracle_color=0.0, metric=0.0), learn=GEOMETRY)
    with pytest.raises(ValueError, match=r"got 'metric_depth'; set losses\.metric above 0"):
        learning_parts.learning_parts(model, made)


@pytest.mark.parametrize("learn", ["grounding", None, True, {"grounding": False}, [1]])
def test_what_learns_is_a_list_of_names(learn):
    with pytest.raises(ValueError, match="learn: expected a list of module paths, got "):
        recipe.recipe_from_dict({"stage": "words", "learn": learn})
    with pytest.raises(ValueError, match="learn: expected none with stage 'image_text'"):
        recipe.Recipe(stage="image_text", learn=("grounding",))
