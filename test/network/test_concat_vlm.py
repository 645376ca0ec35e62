# SPDX-License-Identifier: Apache-2.0
"""A vision-language model that is shown frames and told where things are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_public
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vidllm_ros.geometry.transforms import invert_transform
from vidllm_ros.network import concat_words as words
from vidllm_ros.network.concat_vlm import (
    WORDS_ROOM,
    SeenScene,
    VlmTalker,
    chat,
    context_tokens,
    load_vlm,
    look_at_vlm,
    most_frames,
    prompt_tokens,
)
from vidllm_ros.structures import GroundedBox, Reconstruction, SceneContext

COUNT = 5


@pytest.fixture(scope="module")
def talker(public_parts: Path) -> VlmTalker:
    return load_vlm(public_parts / "vlm", frames=3)


def window() -> Reconstruction:
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4), (COUNT, 1, 1))
    pose[:, 0, 3] = np.arange(COUNT) * 0.1
    stamps = tuple(range(COUNT))
    valid = np.ones((COUNT, 42, 56), bool)
    valid[:, :14, :14] = False
    return Reconstruction(
        images=rng.integers(0, 255, (COUNT, 42, 56, 3), dtype=np.uint8),
        stamps_ns=stamps,
        depth=rng.uniform(1.0, 4.0, (COUNT, 42, 56)).astype(np.float32),
        valid=valid,
        confidence=np.ones((COUNT, 42, 56), np.float32),
        K=np.array([[[50.0, 0, 28], [0, 50.0, 21], [0, 0, 1]]] * COUNT),
        T_world_camera=pose,
        scale=1.0,
        scale_spread=0.0,
        scene=SceneContext(torch.zeros(0, 0), torch.zeros(0, 3), stamps, pose),
    )


def test_frames_are_shown_with_their_places(talker: VlmTalker) -> None:
    rec = window()
    seen = talker.look(rec)
    for image, i in zip(seen.images, (0, 2, 4), strict=True):
        np.testing.assert_array_equal(image, rec.images[i])
    T_room_window = invert_transform(seen.T_world_scene)
    camera = T_room_window[:3, :3] @ rec.T_world_camera[2, :3, 3] + T_room_window[:3, 3]
    said = "(" + ", ".join(f"{round(v, 1) + 0.0:.1f}" for v in camera) + ")"
    assert seen.told[1].startswith(f"Image 2. The camera is at {said}. ")
    # The centre of the grid's second row and third column, lifted by hand: row 21, column 35.
    z = float(rec.depth[2, 21, 35])
    point = np.array([(35 - 28) / 50 * z + 0.2, 0.0, z])
    point = T_room_window[:3, :3] @ point + T_room_window[:3, 3]
    rows = seen.told[1].partition("points: ")[2] or seen.told[1].partition("(x, y, z): ")[2]
    third = rows.split("; ")[1].split(") (")[2].strip("()")
    np.testing.assert_allclose([float(v) for v in third.split(", ")], point, atol=0.051)
    assert rows.startswith("(unknown)")  # the corner has no depth
    assert seen.tokens.shape == (3 * 11, 0)


def test_request_stands_behind_the_images_and_what_is_told(talker: VlmTalker) -> None:
    seen = talker.look(window())
    (turn,) = chat(seen, "What is it?")
    kinds = [part["type"] for part in turn["content"]]
    assert kinds == ["text"] + ["image", "text"] * 3 + ["text"]
    assert turn["content"][2]["text"] == seen.told[0]
    assert turn["content"][-1]["text"] == "What is it?"


@torch.no_grad()
def test_answer_is_the_models_greedy_continuation(talker: VlmTalker, public_parts: Path) -> None:
    seen = talker.look(window())
    model = AutoModelForImageTextToText.from_pretrained(public_parts / "vlm").eval()
    processor = AutoProcessor.from_pretrained(public_parts / "vlm")
    told = "".join(f"{tiny_public.IMAGE}\n{told}\n" for told in seen.told)
    text = (
        f"USER: {words.VLM_INTRO}\n{told}What colour?\nAnswer the question using one word or one "
        "phrase.\nASSISTANT:"
    )
    inputs = processor(text=text, images=list(seen.images), return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    got = talker.answer(seen, "What colour?", most=6)
    assert got.text == processor.decode(new, skip_special_tokens=True).strip()
    logits = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[
        0, -len(new) - 1 : -1
    ]
    each = logits.log_softmax(-1).gather(-1, new[:, None])
    assert got.confidence == pytest.approx(float(each.mean().exp()), rel=1e-4)
    assert got.boxes == ()


def saying(monkeypatch: pytest.MonkeyPatch, talker: VlmTalker, text: str) -> list[str]:
    asked: list[str] = []

    def say(scene: SceneContext, request: str, most: int) -> tuple[str, float]:
        asked.append(request)
        return text, 0.6

    monkeypatch.setattr(talker, "_say", say)
    return asked


def test_boxes_are_read_from_words_alone(
    talker: VlmTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = talker.look(window())
    asked = saying(monkeypatch, talker, "[1.0, 2.0, 0.5, 0.4, 0.6, 0.8] and [2, 2, 1, 1, 1, 1]")
    first, second = talker.ground(seen, "the chair")
    assert asked[0].startswith("Where is the chair?")
    T = seen.T_world_scene
    np.testing.assert_allclose(first.center, T[:3, :3] @ [1.0, 2.0, 0.5] + T[:3, 3])
    np.testing.assert_allclose(second.center, T[:3, :3] @ [2.0, 2.0, 1.0] + T[:3, 3])
    for text in ("none", "", "it is at 1, 2, 3", "[1, 2, 3]", "[nan, 1, 1, 1, 1, 1]"):
        saying(monkeypatch, talker, text)
        assert talker.ground(seen, "the chair") == ()


def test_given_boxes_are_chosen_by_number(
    talker: VlmTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = talker.look(window())
    boxes = [GroundedBox("", 1.0, np.array([i, 0.0, 2.0]), np.ones(3)) for i in range(3)]
    asked = saying(monkeypatch, talker, "Number 2.")
    np.testing.assert_allclose(talker.score_boxes(seen, boxes, "lamp"), [0.0, 0.6, 0.0])
    assert "3. [" in asked[0]
    for text in ("7", "0", "the lamp", "none", "None of the 3 fits"):
        saying(monkeypatch, talker, text)
        assert not talker.score_boxes(seen, boxes, "lamp").any()
    assert talker.score_boxes(seen, [], "lamp").shape == (0,)


@pytest.mark.parametrize(
    ("text", "taken"), [("3, 1", [2, 0]), ("none", []), ("2.", [1]), ("None of the 3", [])]
)
def test_none_one_or_several_given_boxes_are_picked(
    talker: VlmTalker, monkeypatch: pytest.MonkeyPatch, text: str, taken: list[int]
) -> None:
    seen = talker.look(window())
    boxes = [GroundedBox("", 1.0, np.array([i, 0.0, 2.0]), np.ones(3)) for i in range(3)]
    asked = saying(monkeypatch, talker, text)
    assert talker.pick_boxes(seen, boxes, "lamps") == [(index, 0.6) for index in taken]
    assert "none, one or several" in asked[0]
    assert talker.pick_boxes(seen, [], "lamps") == []


def test_description_names_the_box_in_the_room(
    talker: VlmTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = talker.look(window())
    asked = saying(monkeypatch, talker, "a lamp")
    box = GroundedBox("", 1.0, np.array([0.0, 0.0, 2.0]), np.ones(3))
    told = talker.describe(seen, box)
    T = invert_transform(seen.T_world_scene)
    center = T[:3, :3] @ box.center + T[:3, 3]
    assert ", ".join(f"{round(v, 2) + 0.0:.2f}" for v in center) in asked[0]
    assert (told.text, told.boxes) == ("a lamp", (box,))


def test_a_prompt_longer_than_the_model_reads_is_refused(
    talker: VlmTalker, public_parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = talker.look(window())
    text = talker.model.config.get_text_config(decoder=True)
    assert context_tokens(talker.model.config) == 8192
    monkeypatch.setattr(text, "max_position_embeddings", 1000)
    with pytest.raises(ValueError, match=r"^frames: .*996 tokens, got \d+ with 3 images; set"):
        talker.answer(seen, "What colour?", most=4)
    one = replace(seen, images=seen.images[:1], told=seen.told[:1])
    assert talker.answer(one, "What colour?", most=4).confidence > 0


def test_frames_a_model_has_room_for_are_counted(public_parts: Path) -> None:
    most = most_frames(public_parts / "vlm", (42, 56))
    assert most is not None
    each = prompt_tokens(look_at_vlm(public_parts / "vlm"), (42, 56))
    assert most == (8192 - WORDS_ROOM) // each > 8


def test_folders_that_cannot_chat_are_refused(public_parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="language: expected a vision-language model"):
        load_vlm(public_parts / "depth", 4)
    tiny_public.write_vlm(tmp_path / "dumb", chat_template=None)
    with pytest.raises(ValueError, match="chat template"):
        load_vlm(tmp_path / "dumb", 4)


def test_another_backends_scene_is_refused(talker: VlmTalker) -> None:
    with pytest.raises(TypeError, match="scene: expected one of this backend's own"):
        talker.answer(window().scene, "what?")
    assert isinstance(talker.look(window()), SeenScene)
