# SPDX-License-Identifier: Apache-2.0
"""Public models small enough for tests, seeded, saved in the layouts of their releases.

`write_parts(folder)` writes VGGT, two metric-depth models, a relative one, LLaVA-3D v1, CLIP and a
chat-capable LLaVA, each as its owners publish it. From a shell, for docs/public_weights.md:

    python test/public/tiny_public.py FOLDER
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import reconstruction_shapes
from vidllm_ros.network.text_packing import build_tokenizer

WIDTH, DIM, WORDS = 32, 48, 400
SENTENCES = ("where is the red chair beside the table?", "a box [1.00, 2.00, 0.50, 1, 1, 1]")
IMAGE = "<image>"
CHAT = (
    "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}"
    + IMAGE
    + "\n"
    "{% else %}{{ c.text }}\n{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def seeded(module: nn.Module, seed: int) -> Any:
    """Give every parameter values that matter: no zeros, no ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim else 1)
    return module.eval()


def vggt_config() -> VidLLMConfig:
    return VidLLMConfig(
        encoder={
            "hidden_size": WIDTH,
            "num_attention_heads": 2,
            "num_hidden_layers": 4,
            "image_size": 56,
        },
        encoder_layers=(0, 1, 2, 3),
        image_size=56,
        aggregator_heads=2,
        camera_heads=2,
        dense_features=16,
        dense_channels=(8, 12, 16, 16),
    )


def vggt_tensors() -> dict[str, Tensor]:
    """Return VGGT's tensors under its names; its cameras look ahead and its depth is about 2."""
    file = Path(__file__).parents[1] / "network" / "test_convert.py"
    spec = importlib.util.spec_from_file_location("vggt_names", file)
    assert spec is not None
    assert spec.loader is not None
    names = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(names)
    _, theirs = names.vggt_like(reconstruction_shapes(vggt_config()))
    theirs = {n: t / max(1, t[0].numel()) ** 0.5 for n, t in theirs.items()}
    theirs["camera_head.pose_branch.fc2.weight"] *= 0.05
    ahead = [0.1, 0.0, 0.05, 0.0, 0.0, 0.0, 1.0, 0.8, 1.1]
    theirs["camera_head.pose_branch.fc2.bias"] = torch.tensor(ahead) / 4  # four iterations
    for head, bias in (("depth_head", [0.7, 0.5]), ("point_head", [0.0, 0.0, 1.1, 0.5])):
        theirs[f"{head}.scratch.output_conv2.2.weight"] *= 0.2
        theirs[f"{head}.scratch.output_conv2.2.bias"] = torch.tensor(bias)
    theirs["track_head.tracker.weight"] = torch.ones(2, 3)
    return {name: value.contiguous().clone() for name, value in theirs.items()}


def write_vggt(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_file(vggt_tensors(), folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# VGGT\n")


def write_depth(folder: Path, kind: str = "metric") -> None:
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=10,
    )
    model = seeded(DepthAnythingForDepthEstimation(config), 8)
    model.save_pretrained(folder)
    size = {"height": 56, "width": 56}
    DPTImageProcessorPil(size=size, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(
        folder
    )
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Depth\n")


def clip_model() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
    )
    return seeded(CLIPVisionModel(config), 3)


def llama_config(vocabulary: int = WORDS) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def llama_model() -> LlamaForCausalLM:
    return seeded(LlamaForCausalLM(llama_config()), 4)


def position_head(width: int, seed: int) -> nn.Sequential:
    layers = (nn.Linear(3, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
    return seeded(nn.Sequential(*layers), seed)


def projector() -> nn.Sequential:
    return seeded(nn.Sequential(nn.Linear(WIDTH, DIM), nn.GELU(), nn.Linear(DIM, DIM)), 7)


def llava_3d_tensors(with_tower: bool = True) -> dict[str, Tensor]:
    """Return LLaVA-3D's tensors under the names of its v1 release."""
    found: dict[str, Tensor] = dict(llama_model().state_dict())
    for prefix, module in (
        ("model.video_tower.video_tower.positional_embedding", position_head(WIDTH, 5)),
        ("model.video_tower.prompt_encoder.pos_emb3d", position_head(DIM, 6)),
    ):
        for name, value in module.state_dict().items():
            found[f"{prefix}.position_embedding_head.{name}"] = value
    for name, value in projector().state_dict().items():
        found[f"model.mm_projector.{name}"] = value
    if with_tower:
        for name, value in clip_model().state_dict().items():
            bare = name.removeprefix("vision_model.")
            found[f"model.vision_tower.vision_tower.vision_model.{bare}"] = value
    return {name: value.contiguous().clone() for name, value in found.items()}


def write_llava_3d(folder: Path, tensors: dict[str, Tensor] | None = None) -> None:
    folder.mkdir(parents=True)
    save_file(tensors or llava_3d_tensors(), folder / "model.safetensors")
    fields = {
        **llama_model().config.to_diff_dict(),
        "model_type": "llava_llama",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "vision_config": clip_model().config.to_diff_dict(),
    }
    (folder / "config.json").write_text(json.dumps(fields))
    build_tokenizer(SENTENCES, 300).save_pretrained(folder)


def write_vlm(folder: Path, chat_template: str | None = CHAT) -> None:
    tokenizer = build_tokenizer(SENTENCES, 300)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    side = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=clip_model().config,
        text_config=llama_model().config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    seeded(LlavaForConditionalGeneration(config), 9).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_parts(folder: Path) -> Path:
    """Write every part into a folder of its own."""
    write_vggt(folder / "vggt")
    write_depth(folder / "depth")
    write_depth(folder / "depth_relative", "relative")
    write_llava_3d(folder / "llava_3d")
    clip_model().save_pretrained(folder / "clip")
    write_vlm(folder / "vlm")
    return folder


if __name__ == "__main__":
    print(write_parts(Path(sys.argv[1])))
