# SPDX-License-Identifier: Apache-2.0
"""The small public models of tiny_public.py in the layouts the converter reads, and converting.

Fixtures of the conversion's tests; conftest.py hands them on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_public import (
    DIM,
    SENTENCES,
    WIDTH,
    clip_model,
    llama_config,
    position_head,
    seeded,
    write_vggt,
)
from torch import Tensor
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from vidllm_ros.network.checkpoint import load_vidllm
from vidllm_ros.network.convert_hub import Located
from vidllm_ros.network.convert_plan import Choices, Plan, build_plan
from vidllm_ros.network.convert_sources import Source, open_source
from vidllm_ros.network.convert_write import Supply, write_checkpoint
from vidllm_ros.network.text_packing import build_tokenizer
from vidllm_ros.network.vidllm import VidLLM

HEADS = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("public")


@pytest.fixture(scope="module")
def vggt(home: Path) -> Path:
    write_vggt(home / "vggt")
    return home / "vggt"


def dinov2_model() -> Dinov2WithRegistersModel:
    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        image_size=56,
        patch_size=14,
        num_register_tokens=4,
    )
    return seeded(Dinov2WithRegistersModel(config), 2)


def save_tokenizer(folder: Path) -> None:
    build_tokenizer(SENTENCES, 270).save_pretrained(folder)


@pytest.fixture(scope="module")
def llava_hf(home: Path) -> Path:
    config = LlavaConfig(vision_config=clip_model().config, text_config=llama_config())
    model = seeded(LlavaForConditionalGeneration(config), 4)
    model.save_pretrained(home / "llava_hf")
    save_tokenizer(home / "llava_hf")
    return home / "llava_hf"


def original_layout(llava_hf: Path) -> dict[str, Tensor]:
    """The same weights under LLaVA's own names, in which LLaVA-1.5 was released."""
    found: dict[str, Tensor] = {}
    for name, value in load_file(llava_hf / "model.safetensors").items():
        name = name.removeprefix("language_model.")
        name = name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
        name = name.replace("multi_modal_projector.linear_2", "model.mm_projector.2")
        if name.startswith("vision_tower."):
            bare = name.removeprefix("vision_tower.").removeprefix("vision_model.")
            name = f"model.vision_tower.vision_tower.vision_model.{bare}"
        found[name] = value
    return found


def original_config() -> dict[str, Any]:
    fields = llama_config().to_diff_dict()
    return {
        **fields,
        "model_type": "llava",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 3,
    }


@pytest.fixture(scope="module")
def llava_original(home: Path, llava_hf: Path) -> Path:
    folder = home / "llava_original"
    folder.mkdir()
    weights = original_layout(llava_hf)
    ordered = sorted(weights)
    index = {}
    for number, part in enumerate((ordered[::2], ordered[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        index.update(dict.fromkeys(part, file))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(original_config()))
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def llava_3d(home: Path, llava_hf: Path) -> Path:
    folder = home / "llava_3d"
    folder.mkdir()
    weights = original_layout(llava_hf)
    for prefix, width, seed in (
        ("model.video_tower.video_tower.positional_embedding", WIDTH, 5),
        ("model.video_tower.prompt_encoder.pos_emb3d", DIM, 6),
    ):
        for name, value in position_head(width, seed).state_dict().items():
            weights[f"{prefix}.position_embedding_head.{name}"] = value
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(original_config()))
    save_tokenizer(folder)
    return folder


def convert(
    out: Path, wanted: dict[str, Path], choices: Choices | None = None, **supply: Any
) -> tuple[VidLLM, Plan, dict[str, Source]]:
    sources = {
        option: open_source(option, Located(path, str(path), "as given"))
        for option, path in wanted.items()
    }
    plan = build_plan(sources, choices or Choices())
    list(write_checkpoint(Supply(plan, sources, **supply), out, 100_000))
    return load_vidllm(out), plan, sources


def images() -> Tensor:
    return torch.rand(1, 3, 3, 42, 56, generator=torch.Generator().manual_seed(7))
