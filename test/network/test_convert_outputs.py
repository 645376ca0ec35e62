# SPDX-License-Identifier: Apache-2.0
"""Small models of every public family, converted, give the same outputs as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from public_models import convert, dinov2_model, images
from safetensors.torch import load_file, save_file
from tiny_public import WIDTH, position_head, vggt_config
from torch import nn
from transformers import (
    LlavaForConditionalGeneration,
)

from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.convert import convert_vggt
from vidllm_ros.network.dense_head import build_depth_head
from vidllm_ros.network.encoder import Encoder
from vidllm_ros.training.recipe import TeacherRecipe
from vidllm_ros.training.teachers import load_teacher


@torch.no_grad()
def test_vggt_gives_the_same_poses_and_depth(vggt: Path, tmp_path: Path) -> None:
    model, plan, _ = convert(tmp_path / "out", {"vggt": vggt})
    config = vggt_config()
    parts = nn.ModuleDict(
        {
            "encoder": Encoder(config),
            "aggregator": Aggregator(config),
            "camera_head": CameraHead(config),
            "depth_head": build_depth_head(config),
        }
    ).eval()
    converted, _ = convert_vggt(load_file(vggt / "model.safetensors"), config)
    parts.load_state_dict(
        {n: t for n, t in converted.items() if not n.startswith("point_head")}, strict=True
    )
    encoded = parts["encoder"](images())
    aggregated = parts["aggregator"](encoded.patch_tokens, encoded.grid)
    poses = parts["camera_head"](aggregated.last)
    levels = list(aggregated.patch_levels(config.aggregator_layers))
    depth = parts["depth_head"](levels, encoded.grid, (42, 56))
    output = model.geometry(images())
    torch.testing.assert_close(output.pose_encodings[-1], poses[-1])
    torch.testing.assert_close(output.depth_rel, depth.values)
    torch.testing.assert_close(output.depth_confidence, depth.confidence)
    assert model.config.scale_alignment == "none"
    assert float(output.depth_rel.std()) > 0
    report = plan.reports["vggt"]
    assert [entry.name for entry in report.left_over] == ["track_head.tracker.weight"]
    missing = {entry.name.partition(".")[0] for entry in plan.missing}
    assert missing == {
        "adapter",
        "metric_depth",
        "patches",
        "language",
        "projector",
        "grounding",
        "box_features",
    }


@torch.no_grad()
@pytest.mark.parametrize("layout", ["installed", "v4"])
def test_dinov2_gives_the_same_tokens(layout: str, tmp_path: Path) -> None:
    theirs = dinov2_model()
    theirs.save_pretrained(tmp_path / "dinov2")
    if layout == "v4":
        file = tmp_path / "dinov2" / "model.safetensors"
        weights = load_file(file)
        for new, old in (
            ("q_proj", "attention.query"),
            ("k_proj", "attention.key"),
            ("v_proj", "attention.value"),
            ("o_proj", "output.dense"),
        ):
            weights = {
                n.replace(f"attention.{new}.", f"attention.{old}."): t for n, t in weights.items()
            }
        assert any("attention.attention.query" in name for name in weights)
        save_file(weights, file)
    model, _, _ = convert(tmp_path / "out", {"dinov2": tmp_path / "dinov2"})
    pixels = images()[0]
    expected = theirs(pixels).last_hidden_state
    torch.testing.assert_close(model.encoder.backbone(pixels).last_hidden_state, expected)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["llava_hf", "llava_original", "llava_3d"])
def test_llava_gives_the_same_words_and_features(
    layout: str, vggt: Path, llava_hf: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    option = "llava_3d" if layout == "llava_3d" else "llava"
    folder = request.getfixturevalue(layout)
    model, plan, _ = convert(tmp_path / "out", {"vggt": vggt, option: folder})
    theirs = LlavaForConditionalGeneration.from_pretrained(llava_hf)
    ids = torch.tensor([[1, 50, 200, 3, 77]])
    logits = theirs(input_ids=ids).logits
    torch.testing.assert_close(model.language.model(input_ids=ids).logits, logits)
    features = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(
        model.projector(features), theirs.model.multi_modal_projector(features)
    )
    teacher = load_teacher(
        TeacherRecipe(kind="clip", folder=str(tmp_path / "out/teachers/semantic"), image_size=28)
    )
    assert teacher is not None
    tower: Any = theirs.model.vision_tower
    assert set(load_file(tmp_path / "out/teachers/semantic/model.safetensors")) == set(
        tower.state_dict()
    )
    assert teacher.width == WIDTH
    if layout == "llava_3d":
        points = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
        torch.testing.assert_close(
            model.patches.position(points), position_head(WIDTH, 5)(points), rtol=1e-4, atol=1e-5
        )
        left = [entry.name for entry in plan.reports[option].left_over]
        assert len(left) == 6
        assert all("prompt_encoder" in name for name in left)
    else:
        assert plan.reports[option].left_over == ()
    assert model.config.prompt_template == "vicuna"
