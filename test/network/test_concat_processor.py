# SPDX-License-Identifier: Apache-2.0
"""Chat models of several families answer about a window, whether or not torchvision is there."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny_vlms
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from vidllm_ros.network import concat_words as words
from vidllm_ros.network.concat_processor import NoVideos, load_processor
from vidllm_ros.network.concat_vlm import load_vlm
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.structures import Reconstruction, SceneContext

COUNT = 3
BARE = find_spec("torchvision") is None
COUNTS = find_spec("num2words") is not None


def window() -> Reconstruction:
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4), (COUNT, 1, 1))
    pose[:, 0, 3] = np.arange(COUNT) * 0.1
    return Reconstruction(
        images=rng.integers(0, 255, (COUNT, 42, 56, 3), dtype=np.uint8),
        stamps_ns=tuple(range(COUNT)),
        depth=rng.uniform(1.0, 4.0, (COUNT, 42, 56)).astype(np.float32),
        valid=np.ones((COUNT, 42, 56), bool),
        confidence=np.ones((COUNT, 42, 56), np.float32),
        K=np.array([[[50.0, 0, 28], [0, 50.0, 21], [0, 0, 1]]] * COUNT),
        T_world_camera=pose,
        scale=1.0,
        scale_spread=0.0,
        scene=SceneContext(torch.zeros(0, 0), torch.zeros(0, 3), tuple(range(COUNT)), pose),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.mark.parametrize("family", sorted(tiny_vlms.FAMILIES))
def test_each_family_answers_by_what_its_images_show(family: str, home: Path) -> None:
    if family == "smolvlm" and not COUNTS:
        pytest.skip("needs num2words")
    talker = load_vlm(tiny_vlms.write_family(family, home / family), frames=2)
    rec = window()
    seen = talker.look(rec)
    assert len(seen.images) == 2
    said = talker.answer(seen, "What colour?", most=4)
    assert 0 < said.confidence < 1
    dark = replace(seen, images=(seen.images[0], np.zeros_like(seen.images[1])))
    other = talker.answer(dark, "What colour?", most=4)
    assert (said.text, said.confidence) != (other.text, other.confidence)


@torch.no_grad()
def test_an_answer_without_the_video_half_is_the_models_own(home: Path) -> None:
    """Against Qwen2-VL's inputs put together by hand: a pad for every two by two patches."""
    folder = tiny_vlms.write_family("qwen2_vl", home / "by_hand")
    talker = load_vlm(folder, frames=2)
    seen = talker.look(window())
    pictures = AutoImageProcessor.from_pretrained(folder)(list(seen.images), return_tensors="pt")
    pads = [int(grid.prod()) // 4 for grid in pictures["image_grid_thw"]]
    assert min(pads) > 1
    told = "".join(
        f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>\n{told}\n"
        for count, told in zip(pads, seen.told, strict=True)
    )
    text = (
        f"USER: {words.VLM_INTRO}\n{told}What colour?\nAnswer the question using one word or one "
        "phrase.\nASSISTANT:"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    is_image = asked["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    logits = talker.model(**asked, **pictures, mm_token_type_ids=is_image.long()).logits[0, -1]
    said = talker.answer(seen, "What colour?", most=1)
    assert said.text == tokenizer.decode([int(logits.argmax())]).strip()
    assert said.confidence == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)


@pytest.mark.skipif(not BARE, reason="torchvision is there")
def test_a_processor_without_its_video_half_says_so_when_given_one(home: Path) -> None:
    folder = tiny_vlms.write_family("qwen2_vl", home / "videos")
    processor = load_processor(folder, AutoConfig.from_pretrained(folder))
    assert isinstance(processor.video_processor, NoVideos)
    assert "video_processor" not in json.loads(processor.to_json_string())
    with pytest.raises(TypeError, match="expected still images, got a video; give its frames"):
        processor(text="<|video_pad|>", videos=[np.zeros((2, 28, 28, 3), np.uint8)])


@pytest.mark.skipif(COUNTS, reason="num2words is there")
def test_smolvlm_names_the_package_it_wants(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"language: .*num2words.*pip install num2words"):
        load_vlm(tiny_vlms.write_family("smolvlm", tmp_path), frames=2)


@pytest.mark.skipif(not BARE, reason="torchvision is there")
def test_a_family_that_cannot_do_without_torchvision_says_so(tmp_path: Path) -> None:
    AutoConfig.for_model("llama4").save_pretrained(tmp_path)
    kinds = {"image_processor_type": "Llama4ImageProcessorFast"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kinds))
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"processor_class": "Llama4Processor"})
    )
    build_tokenizer(("a b",), 270).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"needs the package torchvision \(pip install"):
        load_vlm(tmp_path, 4)
