# SPDX-License-Identifier: Apache-2.0
"""Questions to a scene: repeatable, remembered while the scene lives, never a crash."""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vidllm_ros import prompts
from vidllm_ros.geometry.boxes import aabb_iou, aabb_of
from vidllm_ros.geometry.transforms import make_transform, matrix_from_quat_xyzw
from vidllm_ros.network import scene_queries
from vidllm_ros.network.language import Generated
from vidllm_ros.network.text_packing import encode
from vidllm_ros.structures import GroundedBox, SceneContext


@pytest.fixture
def model(build_tiny):
    model = build_tiny()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("language", "grounding", "box_features", "projector")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def scene(model, frames):
    return model.reconstruct(frames).scene


def test_everything_that_can_be_asked(model, scene):
    answer = model.answer(scene, "What colour is the chair?", max_new_tokens=5)
    assert answer.stamps_ns == scene.stamps_ns
    found = model.detect(scene, threshold=0.0)
    assert 0 < len(found) <= 8
    assert {box.label for box in found} <= {"chair", "table", "lamp"}
    phrase = model.ground(scene, "the table", threshold=0.0, max_boxes=3)
    assert 0 < len(phrase) <= 3
    assert phrase[0].label == "the table"
    assert list(phrase) == sorted(phrase, key=lambda box: -box.score)
    described = model.describe(scene, phrase[0], max_new_tokens=5)
    assert described.boxes == (phrase[0],)
    scores = model.score_boxes(scene, found, "the table")
    assert scores.shape == (len(found),)
    assert model.score_boxes(scene, (), "the table").shape == (0,)
    for box in (*found, *phrase):
        assert np.linalg.norm(box.quat_xyzw) == pytest.approx(1.0)
        assert box.quat_xyzw[3] >= 0


def test_nothing_is_found_above_one(model, scene):
    assert model.ground(scene, "the table", threshold=1.01) == ()
    assert model.detect(scene, threshold=1.01) == ()
    assert model.detect(scene, labels=()) == ()


def test_kept_boxes_do_not_overlap(model, scene):
    bounds = np.stack([aabb_of(box) for box in model.detect(scene, threshold=0.0)])
    overlap = aabb_iou(bounds, bounds) - np.eye(len(bounds))
    assert overlap.max() <= scene_queries.MAX_OVERLAP + 1e-9


def test_answers_do_not_depend_on_what_was_asked_before(model, scene):
    fresh = SceneContext(scene.tokens, scene.positions, scene.stamps_ns, scene.T_world_camera)
    model.answer(scene, "How many chairs?", 6)
    model.detect(scene, threshold=0.0)
    later = model.answer(scene, "What colour is the table?", 6)
    first = model.answer(fresh, "What colour is the table?", 6)
    assert later.text == first.text
    assert later.confidence == pytest.approx(first.confidence, rel=1e-4)


def test_answer_equals_the_plain_model(model, scene):
    ids = encode(model.language.tokenizer, prompts.question_prompt("How many?"))
    start, table = len(ids), model.language.model.get_input_embeddings()
    with torch.inference_mode():
        projected = model.projector(scene.tokens)
        for _ in range(6):
            words = torch.cat([table(torch.tensor([1])), projected, table(torch.tensor(ids))])
            logits = model.language.model(inputs_embeds=words[None]).logits[0, -1]
            logits[[0, 1, 3, 4]] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] == 2:
                break
    expected = model.language.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert model.answer(scene, "How many?", 6).text == expected


def test_one_packed_pass_detects_what_single_phrases_ground(model, scene):
    found = model.detect(scene, labels=("chair",), threshold=0.0)
    single = model.ground(scene, "chair", threshold=0.0, max_boxes=64)
    assert len(found) == len(single) > 0
    for ours, alone in zip(found, single, strict=True):
        np.testing.assert_allclose(ours.center, alone.center, atol=1e-5)
        assert ours.score == pytest.approx(alone.score, abs=1e-5)


def test_scene_is_remembered_while_it_lives_and_no_longer(model, scene):
    calls = []
    encode_scene = model.language.encode_scene
    model.language.encode_scene = lambda embeds: calls.append(1) or encode_scene(embeds)
    model.answer(scene, "a?", 2)
    model.ground(scene, "b")
    assert len(calls) == 1
    copy = SceneContext(scene.tokens, scene.positions, scene.stamps_ns, scene.T_world_camera)
    model.answer(copy, "a?", 2)
    assert len(calls) == 2
    assert len(model._scenes) == 2
    del copy
    gc.collect()
    assert len(model._scenes) == 1
    model.train()
    assert len(model._scenes) == 0


def test_cache_is_bounded(model, scene):
    scenes = [
        SceneContext(scene.tokens, scene.positions, scene.stamps_ns, scene.T_world_camera)
        for _ in range(7)
    ]
    for one in scenes:
        model.ground(one, "chair")
    assert len(model._scenes) == model._scenes.capacity


def test_empty_scene_still_answers(model, scene):
    empty = SceneContext(
        scene.tokens[:0], scene.positions[:0], scene.stamps_ns, scene.T_world_camera
    )
    box = GroundedBox("", 1.0, np.zeros(3), np.ones(3))
    assert model.answer(empty, "What is here?", 3).boxes == ()
    assert model.detect(empty) == ()
    assert model.ground(empty, "chair", threshold=0.0) == ()
    assert model.score_boxes(empty, (box,), "chair").tolist() == [0.0]
    assert model.describe(empty, box, 3).boxes == (box,)


@pytest.mark.parametrize("text", ["", "🪑", "\x00\x1b", "<eos><loc><box>", "a" * 300])
def test_any_words_are_taken(model, scene, text):
    assert 0 <= model.answer(scene, text, 3).confidence <= 1
    model.ground(scene, text)
    model.detect(scene, labels=(text,))


def test_boxes_written_in_words_are_read_back(model, scene, monkeypatch):
    said = Generated("It is at [1, 2, 3, 0.5, 0.5, 1.0].", 0.7)
    monkeypatch.setattr(model.language, "generate", lambda *_: said)
    (box,) = model.ground_in_words(scene, "the chair")
    assert box.center.tolist() == [1, 2, 3]
    assert box.size.tolist() == [0.5, 0.5, 1.0]
    assert (box.label, box.score) == ("the chair", 0.7)


def test_threads_that_ask_at_once_get_what_each_would_alone(model, scene):
    """They share one prefix, to which every question's words are added and cut off again."""
    questions = [f"is there a {name} near the lamp?" for name in ("chair", "table", "bed", "door")]
    alone = [model.answer(scene, question, max_new_tokens=6).text for question in questions]
    with ThreadPoolExecutor(4) as pool:
        asked = questions * 4
        together = list(pool.map(lambda q: model.answer(scene, q, max_new_tokens=6).text, asked))
    assert together == alone * 4
    copied = copy.deepcopy(model)
    assert copied._scenes.lock is not model._scenes.lock


def plain_answer(model, scene, question, most):
    """One pass for the words, another one for the boxes."""
    template = model.language.template
    with torch.inference_mode():
        state = scene_queries.scene_state(model, scene)
        prompt = prompts.question_prompt(question, template=template)
        said = model.language.generate(state.prefix, prompt, most)
        scores = scene_queries._proposal_scores(model, state, [question])[0]
        vocabulary = model.config.label_vocabulary
        names = scene_queries._label_scores(model, state, tuple(vocabulary)).argmax(axis=0)
        labels = [vocabulary[index] for index in names]
        boxes = scene_queries._pick(model, state, scores, labels, None, 4)
    return said, boxes


@pytest.mark.parametrize("template", ["plain", "vicuna"])
def test_answering_and_pointing_in_one_pass_equals_two(model, scene, template):
    model.language.template = prompts.TEMPLATES[template]
    model.config.grounding_threshold = 0.0
    for question in ("How many?", "What colour is the table beside the lamp?", "where is 🪑 é"):
        for most in (0, 1, 7):
            said, boxes = plain_answer(model, scene, question, most)
            answer = model.answer(scene, question, most)
            assert answer.text == said.text
            assert answer.confidence == pytest.approx(said.confidence, rel=1e-4)
            assert [box.label for box in answer.boxes] == [box.label for box in boxes]
            for ours, plain in zip(answer.boxes, boxes, strict=True):
                np.testing.assert_array_equal(ours.center, plain.center)
                assert ours.score == pytest.approx(plain.score, rel=1e-4)
    assert boxes


def test_a_question_runs_its_prompts_once_and_leaves_the_prefix(model, scene, monkeypatch):
    model.answer(scene, "How many?", 3)  # label scores are there from now on
    state = model._scenes.get(scene)
    before = [layer.keys.clone() for layer in state.prefix.cache.layers]
    passes = []
    run = model.language.model.base_model.forward
    monkeypatch.setattr(
        model.language.model.base_model,
        "forward",
        lambda *args, **kwargs: passes.append(1) or run(*args, **kwargs),
    )
    model.answer(scene, "How many chairs?", 1)
    assert len(passes) == 1
    for layer, kept in zip(state.prefix.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, kept)


def test_a_question_longer_than_the_context_is_refused_and_harms_nothing(model, scene):
    said = model.answer(scene, "How many?", 5)
    with pytest.raises(ValueError, match="expected at most"):
        model.answer(scene, "x y " * 400, 3)
    assert model.answer(scene, "How many?", 5).text == said.text


def test_boxes_come_out_in_the_window_whatever_axes_the_scene_has(model, scene):
    turn = matrix_from_quat_xyzw(
        np.array([0.2, -0.5, 0.1, 0.8]) / np.linalg.norm([0.2, 0.5, 0.1, 0.8])
    )
    T = make_transform(turn, np.array([0.5, -1.0, 2.0]))
    elsewhere = SceneContext(
        scene.tokens, scene.positions, scene.stamps_ns, scene.T_world_camera, T_world_scene=T
    )
    model.language.template = prompts.TEMPLATES["plain"]
    plain = model.ground(scene, "the table", threshold=0.0)
    moved = model.ground(elsewhere, "the table", threshold=0.0)
    assert len(plain) == len(moved) > 0
    for ours, other in zip(plain, moved, strict=True):
        np.testing.assert_allclose(other.center, turn @ ours.center + T[:3, 3], atol=1e-6)
        np.testing.assert_allclose(
            matrix_from_quat_xyzw(other.quat_xyzw),
            turn @ matrix_from_quat_xyzw(ours.quat_xyzw),
            atol=1e-6,
        )
        np.testing.assert_array_equal(other.size, ours.size)
    np.testing.assert_allclose(
        model.score_boxes(elsewhere, moved, "the table"),
        model.score_boxes(scene, plain, "the table"),
        atol=1e-5,
    )
    told = [model.describe(*pair, 6).text for pair in ((scene, plain[0]), (elsewhere, moved[0]))]
    assert told[0] == told[1]


def test_boxes_in_words_are_read_in_the_scene_s_axes(model, scene, monkeypatch):
    written = prompts.format_box(np.array([1.0, 0.5, 2.0]), np.array([0.4, 0.6, 0.8]))
    monkeypatch.setattr(model.language, "generate", lambda *_, **__: Generated(written, 0.5))
    quarter = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    elsewhere = SceneContext(
        scene.tokens,
        scene.positions,
        scene.stamps_ns,
        scene.T_world_camera,
        T_world_scene=make_transform(quarter, np.zeros(3)),
    )
    (box,) = model.ground_in_words(elsewhere, "the table")
    np.testing.assert_allclose(box.center, [2.0, 0.5, -1.0], atol=1e-9)
    np.testing.assert_allclose(matrix_from_quat_xyzw(box.quat_xyzw), quarter, atol=1e-9)


def test_boxes_come_from_the_fine_tokens_where_a_scene_has_them(model, scene):
    fine = SceneContext(
        scene.tokens,
        scene.positions,
        scene.stamps_ns,
        scene.T_world_camera,
        fine=(
            scene.tokens.repeat(2, 1),
            torch.cat([scene.positions, scene.positions + 5.0]),
        ),
    )
    with torch.inference_mode():
        plain, more = (scene_queries.scene_state(model, s) for s in (scene, fine))
    assert more.proposals.anchors.max() > plain.proposals.anchors.max() + 1.0
    assert model.answer(fine, "How many chairs?", 6).text == (
        model.answer(scene, "How many chairs?", 6).text
    ), "words read the same tokens"
    box = model.detect(fine, threshold=0.0)[0]
    assert model.score_boxes(fine, [box], "the table").shape == (1,)
    assert model.describe(fine, box, 3).boxes == (box,)


def test_boxes_of_one_label_that_overlap_are_reported_as_their_mean(model, scene):
    with torch.inference_mode():
        state = scene_queries.scene_state(model, scene)
        last = state.proposals.last
        count = last.center.shape[1]
        last.center.copy_(10.0 * torch.arange(count)[None, :, None].expand(-1, -1, 3))
        last.log_size.zero_()
        last.rotation.copy_(torch.eye(3))
        last.center[0, 1] = last.center[0, 0] + torch.tensor([0.2, 0.0, 0.0])
        last.center[0, 2] = last.center[0, 0] + torch.tensor([0.0, 0.2, 0.0])
        last.log_size[0, 1] = np.log(1.2)
    scores = np.full(count, 0.01, np.float32)
    scores[:3] = 0.6, 0.2, 0.3
    labels = ["chair", "chair", "table", *["lamp"] * (count - 3)]
    single = scene_queries._pick(model, state, scores, labels, 0.1, 9)
    model.config.grounding_fusion = 0.25
    fused = scene_queries._pick(model, state, scores, labels, 0.1, 9)
    assert len(single) == len(fused) == 1
    shift = np.linalg.norm(fused[0].center - single[0].center)
    assert shift == pytest.approx(0.2 * 0.2 / 0.8, abs=1e-5)  # the table's box takes no part
    np.testing.assert_allclose(fused[0].size, (0.6 * 1.0 + 0.2 * 1.2) / 0.8, rtol=1e-5)
    assert fused[0].score == single[0].score == pytest.approx(0.6)
    with torch.inference_mode():  # apart by less than what is suppressed, alike once averaged
        last.center[0, 1, 0] = last.center[0, 0, 0] + 0.5
    once = scene_queries._pick(model, state, scores, ["chair"] * count, 0.1, 9)
    assert len(once) == 1
    nothing = scene_queries._pick(model, state, 0 * scores, labels, 0.0, 9)
    assert all(np.isfinite(box.center).all() for box in nothing)
