# SPDX-License-Identifier: Apache-2.0
"""LLaVA-3D's token path, step by step against CLIP, LLaMA and plain layers of the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_public
import torch
from torch import Tensor

from vidllm_ros import prompts
from vidllm_ros.geometry.transforms import invert_transform, make_transform
from vidllm_ros.network.concat_clip import prepare_clip
from vidllm_ros.network.concat_llava3d import Llava3D, Llava3DTalker
from vidllm_ros.network.concat_llava3d_files import load_llava3d
from vidllm_ros.network.text_packing import encode
from vidllm_ros.structures import GroundedBox, Reconstruction, SceneContext

STAMPS = (1, 2)


@pytest.fixture(scope="module")
def model(public_parts: Path) -> Llava3D:
    return load_llava3d(public_parts / "llava_3d")


def window() -> Reconstruction:
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4), (2, 1, 1))
    pose[1, 0, 3] = 0.4
    return Reconstruction(
        images=rng.integers(0, 255, (2, 42, 56, 3), dtype=np.uint8),
        stamps_ns=STAMPS,
        depth=rng.uniform(1.0, 4.0, (2, 42, 56)).astype(np.float32),
        valid=np.ones((2, 42, 56), bool),
        confidence=np.ones((2, 42, 56), np.float32),
        K=np.array([[[50.0, 0, 28], [0, 50.0, 21], [0, 0, 1]]] * 2),
        T_world_camera=pose,
        scale=1.0,
        scale_spread=0.0,
        scene=SceneContext(torch.zeros(0, 0), torch.zeros(0, 3), STAMPS, pose),
    )


def scene(model: Llava3D) -> SceneContext:
    return Llava3DTalker(model).look(window())


def seeded_positions(count: int) -> Tensor:
    return torch.rand(2, count, 3, generator=torch.Generator().manual_seed(1)) * 3


@torch.no_grad()
def test_patches_are_clips_last_but_one_hidden_state(model: Llava3D) -> None:
    pixels = prepare_clip(window().images, 28)
    hidden = tiny_public.clip_model()(pixel_values=pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.patch_features(pixels), hidden[-2][:, 1:])
    assert len(model.tower.encoder.layers) == len(hidden) - 2


@torch.no_grad()
def test_places_are_added_before_the_projector_and_voxels_averaged(model: Llava3D) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 40, tiny_public.WIDTH, generator=generator)
    points = seeded_positions(40)
    valid = torch.rand(2, 40, generator=generator) > 0.2
    patches = model.scene_patches(features, points, valid, voxel_m=0.5, cap=1000)
    embed = tiny_public.position_head(tiny_public.WIDTH, 5)
    placed = (features + embed(points))[valid]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, cell in enumerate(torch.round(points[valid] / 0.5).long().tolist()):
        groups.setdefault(tuple(cell), []).append(i)
    wanted = torch.stack([placed[groups[cell]].mean(0) for cell in sorted(groups)])
    assert len(wanted) < len(placed)
    torch.testing.assert_close(patches.tokens[0, patches.mask[0]], wanted)


@torch.no_grad()
def test_projector_is_llavas(model: Llava3D) -> None:
    tokens = torch.randn(3, tiny_public.WIDTH, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.projector(tokens), tiny_public.projector()(tokens))


def read_by_llama(
    model: Llava3D, seen: SceneContext, prompt: str, boxes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what stands before the answer, (1, L, D), put together by hand, and LLaMA's table."""
    llama = tiny_public.llama_model()
    table = llama.get_input_embeddings().weight
    tokenizer = model.language.tokenizer
    preface = [tokenizer.bos_token_id, *encode(tokenizer, prompts.VICUNA.preface)]
    before, box, after = prompt.partition(prompts.BOX)
    parts = [
        table[preface],
        tiny_public.projector()(seen.tokens),
        table[encode(tokenizer, before)],
    ]
    if box:
        assert boxes is not None
        parts += [boxes, table[encode(tokenizer, after)]]
    return torch.cat(parts)[None], table


@torch.no_grad()
def test_answer_is_llamas_greedy_continuation(model: Llava3D) -> None:
    seen = scene(model)
    question = "Where is the chair?"
    prompt = f"\n{question} Answer the question using one word or one phrase. ASSISTANT:"
    embeds, _ = read_by_llama(model, seen, prompt)
    wanted = tiny_public.llama_model().generate(
        inputs_embeds=embeds, max_new_tokens=12, do_sample=False, suppress_tokens=[0, 1, 3, 4]
    )
    got = Llava3DTalker(model).answer(seen, question, most=12)
    assert got.text == model.language.tokenizer.decode(wanted[0], skip_special_tokens=True).strip()
    assert got.stamps_ns == STAMPS
    assert 0 < got.confidence < 1
    assert got.boxes == ()  # random words hold no box, and none is made up


@torch.no_grad()
def test_a_box_in_a_prompt_is_its_centre_in_the_room(model: Llava3D) -> None:
    seen = scene(model)
    boxes = [
        GroundedBox("", 1.0, np.array([0.3, 0.2, 2.0]), np.ones(3)),
        GroundedBox("", 1.0, np.array([-0.5, 0.1, 3.0]), np.ones(3)),
    ]
    T_room_window = invert_transform(seen.T_world_scene)
    centers = np.stack([T_room_window[:3, :3] @ b.center + T_room_window[:3, 3] for b in boxes])
    head = tiny_public.position_head(tiny_public.DIM, 6)
    embeds = head(torch.from_numpy(centers).float())
    prompt = "\nThe related object is located at <box>. Describe the object in detail. ASSISTANT:"
    talker = Llava3DTalker(model)
    read, table = read_by_llama(model, seen, prompt, embeds[:1])
    wanted = tiny_public.llama_model().generate(
        inputs_embeds=read, max_new_tokens=8, do_sample=False, suppress_tokens=[0, 1, 3, 4]
    )
    told = talker.describe(seen, boxes[0], most=8).text
    assert told == model.language.tokenizer.decode(wanted[0], skip_special_tokens=True).strip()
    # Scoring: log-probability of the phrase as each box's caption, one box at a time.
    phrase = encode(model.language.tokenizer, " the red chair")
    target = [*phrase, model.language.tokenizer.eos_token_id]
    totals = []
    for embed in embeds:
        read, _ = read_by_llama(model, seen, prompt, embed[None])
        whole = torch.cat([read, table[phrase][None]], dim=1)
        logits = tiny_public.llama_model()(inputs_embeds=whole).logits[0, read.shape[1] - 1 :]
        # the words added for <loc> and <box> are no part of LLaMA's own table
        each = logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)]
        totals.append(each.sum())
    scores = talker.score_boxes(seen, boxes, "the red chair")
    np.testing.assert_allclose(scores, torch.stack(totals).softmax(0).numpy(), rtol=1e-4)
    assert scores.sum() == pytest.approx(1.0, rel=1e-5)
    assert talker.score_boxes(seen, [], "chair").shape == (0,)


def test_boxes_it_writes_are_put_where_the_robot_is(
    model: Llava3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = make_transform(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.array([1.0, 2, 3]))
    pose = np.tile(np.eye(4), (2, 1, 1))
    seen = SceneContext(torch.zeros(1, 32), torch.zeros(1, 3), STAMPS, pose, T_world_scene=turned)
    talker = Llava3DTalker(model)
    asked: list[str] = []

    def say(scene: SceneContext, prompt: str, most: int) -> tuple[str, float]:
        asked.append(prompt)
        return "it is at [1.00, 2.00, 0.50, 0.40, 0.60, 0.80], or [1, 1, 1, 0, 0, 0]", 0.7

    monkeypatch.setattr(talker, "_say", say)
    (box,) = talker.ground(seen, "the <box> red chair")  # one without extent is none
    assert "bounding box of the box red chair" in asked[0]
    np.testing.assert_allclose(box.center, turned[:3, :3] @ [1.0, 2.0, 0.5] + [1.0, 2.0, 3.0])
    np.testing.assert_allclose(box.size, [0.4, 0.6, 0.8])
    assert (box.score, box.label) == (0.7, "the box red chair")


def test_scene_is_read_once_and_forgotten_with_it(model: Llava3D) -> None:
    talker = Llava3DTalker(model)
    first = scene(model)
    prefix = talker._prefix(first)
    assert talker._prefix(first) is prefix
    other = scene(model)
    assert talker._prefix(other) is not prefix
    talker.forget()
    assert talker._last is None


def test_window_without_depth_still_answers(model: Llava3D) -> None:
    from dataclasses import replace

    rec = window()
    rec = replace(rec, valid=np.zeros_like(rec.valid))
    seen = Llava3DTalker(model).look(rec)
    assert len(seen.tokens) == 0
    assert isinstance(Llava3DTalker(model).answer(seen, "what is it?", most=2).text, str)


def test_tokens_are_held_to_the_cap(model: Llava3D) -> None:
    assert len(Llava3DTalker(model, max_tokens=3).look(window()).tokens) <= 3
    assert len(Llava3DTalker(model, frames=1, voxel_m=1e-3).look(window()).tokens) == 4
