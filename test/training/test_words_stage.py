# SPDX-License-Identifier: Apache-2.0
"""The words stage: frozen geometry, evidence, fine tokens for boxes, votes, what is remembered."""

import copy
from dataclasses import replace

import pytest
import torch

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.network.word_rows import can_read_in_rows
from vidllm_ros.training import learning_parts, recipe, words, words_stage


@pytest.fixture
def model(tiny_model: VidLLM) -> VidLLM:
    return tiny_model


def test_words_learn_from_frozen_geometry_and_look_at_the_evidence(
    model, batch, make_recipe, learn
):
    made = make_recipe(
        losses=recipe.LossRecipe(guide_evidence=1.0), evidence_layer=1, replay_scenes=3
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = words_stage.WordsStage(model, made)
    outputs = learn(stage, batch, 25)
    assert [o.scenes for o in outputs[:2]] == [2, 3]
    for term in ("language", "guide_evidence", "given_match"):
        assert outputs[-1].terms[term] < 0.7 * outputs[0].terms[term], term
    for name, value in model.state_dict().items():
        is_learning = name.split(".")[0] in learning_parts.WORDS
        assert is_learning or torch.equal(value, before[name]), name


def test_the_box_decoder_may_learn_alone(model, batch, make_recipe, learn, monkeypatch):
    losses = recipe.LossRecipe(language=0.0, guide_evidence=0.0)
    parts = ("grounding", "box_features.feature")
    made = make_recipe(stage="words", losses=losses, learn=parts, replay_scenes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage = words_stage.WordsStage(model, made)
    packed, pack = [], words.pack_sentences

    def watch(tokenizer, sentences, *rest):
        packed.extend(one.kind for said in sentences for one in said)
        return pack(tokenizer, sentences, *rest)

    monkeypatch.setattr(words, "pack_sentences", watch)
    outputs = learn(stage, batch, 25)
    assert outputs[-1].terms["match"] < 0.7 * outputs[0].terms["match"]
    assert outputs[-1].terms["given_match"] < 0.7 * outputs[0].terms["given_match"]
    assert "language" not in outputs[0].terms
    assert set(packed) == {"phrase"}
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert {name for name in changed if not name.startswith(parts)} == set()
    assert {part for part in parts if any(n.startswith(part) for n in changed)} == set(parts)


@pytest.mark.parametrize("silent", [(0,), (0, 1)])
def test_boxes_are_learnt_of_scenes_without_phrases(model, batch, make_recipe, silent):
    losses = recipe.LossRecipe(language=0.0)
    made = make_recipe(stage="words", losses=losses, learn=("grounding",))
    said = tuple(
        tuple(one for one in s if i not in silent or one.kind != "phrase")
        for i, s in enumerate(batch.sentences)
    )
    assert all(said)  # answers alone, which are left out
    output = words_stage.WordsStage(model, made)(replace(batch, sentences=said), 0.0)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert float(model.grounding.layers[0].box.fc2.weight.grad.abs().max()) > 0
    assert model.box_features.to_language[1].fc1.weight.grad is None


def test_evidence_is_the_share_of_patches(model, batch, make_recipe):
    stage = words_stage.WordsStage(model, make_recipe())
    scene = stage.look(batch)[0]
    assert scene.evidence.shape == (len(scene.tokens), 2)
    assert float(scene.evidence.min()) >= 0.0
    assert float(scene.evidence.sum(1).max()) <= 1.0 + 1e-5
    assert float(scene.evidence.max()) > 0.3


@pytest.fixture
def fine_stage(model, make_recipe) -> words_stage.WordsStage:
    """Few tokens for the words, every voxel of 5 cm for the boxes."""
    model.patches.fine_cap = model.config.grounding_tokens = 10_000
    model.patches.voxel_m = model.config.voxel_size_m = 0.05
    model.patches.cap = model.config.max_scene_tokens = 4
    return words_stage.WordsStage(model, make_recipe(replay_scenes=3))


def test_the_words_stage_hands_fine_tokens_to_the_box_decoder(fine_stage, batch, monkeypatch):
    scenes = fine_stage.look(batch)
    fine = [len(scene.fine[0]) for scene in scenes]
    assert min(fine) > 4 >= max(len(scene.tokens) for scene in scenes)
    read, propose = [], fine_stage.model.grounding.propose
    monkeypatch.setattr(
        fine_stage.model.grounding,
        "propose",
        lambda patches: read.append(patches) or propose(patches),
    )
    for _ in range(2):  # the second time one of them from memory
        output = fine_stage(batch, 0.0)
        output.loss.backward()
    assert torch.isfinite(output.loss)
    assert read[0].mask.sum(1).tolist() == fine
    assert read[1].mask.sum(1).tolist()[:2] == fine
    assert read[1].mask.sum(1).tolist()[2] in fine


def test_scenes_pooled_otherwise_are_not_remembered(fine_stage, batch):
    fine_stage(batch, 0.0)
    kept = fine_stage.get_extra_state()
    before = [copy.copy(scene) for scene in kept]
    for scene in before:  # as a checkpoint from before fine tokens has them
        del scene.__dict__["fine"]
    with pytest.raises(ValueError, match="expected fine tokens in all or none"):
        words_stage.join_scenes([kept[0], before[1]])
    old = [replace(scene, fine=scene.fine[:2]) for scene in kept]  # before they had evidence
    fine_stage.set_extra_state([*kept, *before, *old])
    assert len(fine_stage.buffer) == 4
    assert fine_stage.buffer[2].fine[2].shape == kept[0].fine[2].shape
    fine_stage.model.config.grounding_votes = True  # which read it
    fine_stage.set_extra_state([*kept, *before, *old])
    fine_stage.model.config.grounding_votes = False
    assert len(fine_stage.buffer) == len(kept) == 2
    fine_stage.model.config.grounding_tokens = 0
    fine_stage.set_extra_state(before)
    assert words_stage.join_scenes(fine_stage.buffer).fine is None


def voting(model: VidLLM) -> VidLLM:
    """Return the network with votes; what it had stays."""
    config = VidLLMConfig.from_dict({**model.config.to_dict(), "grounding_votes": True})
    other = VidLLM(config)
    other.load_state_dict({**other.state_dict(), **model.state_dict()})
    other.language.attach_tokenizer(model.language.tokenizer)
    return other


@pytest.mark.parametrize("has_fine", [False, True])
def test_the_words_stage_teaches_votes(model, batch, make_recipe, learn, has_fine):
    model = voting(model)
    if has_fine:
        model.patches.fine_cap = model.config.grounding_tokens = 10_000
        model.patches.voxel_m = model.config.voxel_size_m = 0.05
    stage = words_stage.WordsStage(model, make_recipe(replay_scenes=3))
    outputs = learn(stage, batch, 25)
    assert outputs[-1].terms["vote"] < 0.5 * outputs[0].terms["vote"]
    assert outputs[-1].terms["thing"] < 0.85 * outputs[0].terms["thing"]
    boxes = replace(stage.recipe.losses.boxes, thing=0.0)
    losses = replace(stage.recipe.losses, boxes=boxes)
    with pytest.raises(ValueError, match="votes that nobody taught"):
        words_stage.WordsStage(model, replace(stage.recipe, losses=losses))


def test_layers_computed_again_teach_words_the_same(model, batch, make_recipe):
    made = make_recipe(losses=recipe.LossRecipe(guide_evidence=1.0), evidence_layer=1)
    stage = words_stage.WordsStage(model, made)
    taught = []
    for again in (False, True):
        assert can_read_in_rows(model.language) != again
        model.zero_grad()
        output = stage(batch, 0.0)
        output.loss.backward()
        language = model.language.model
        taught.append((output.terms, {n: p.grad.clone() for n, p in language.named_parameters()}))
        stage.buffer.clear()
        language.activation_checkpointing_enable({"use_reentrant": False})
    for name in ("language", "guide_evidence", "match"):
        torch.testing.assert_close(taught[0][0][name], taught[1][0][name], rtol=1e-4, atol=1e-5)
    for name, wanted in taught[0][1].items():
        least = 1e-4 * float(wanted.abs().max())
        torch.testing.assert_close(taught[1][1][name], wanted, rtol=1e-3, atol=least, msg=name)
