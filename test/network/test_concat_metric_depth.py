# SPDX-License-Identifier: Apache-2.0
"""Metric depth of public models: prepared as their owners do, brought back to the image."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_public
import torch
from torch.nn import functional
from transformers import (
    AutoModelForDepthEstimation,
    BeitConfig,
    DepthProConfig,
    DepthProForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.zoedepth.image_processing_pil_zoedepth import ZoeDepthImageProcessorPil

from vidllm_ros.network.concat_metric_depth import MetricDepthModel, load_metric_depth


def images(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, 42, 56, 3), dtype=np.uint8)


@torch.inference_mode()
def test_depth_anything_equals_the_librarys_own_way(public_parts: Path) -> None:
    ours = load_metric_depth(public_parts / "depth")
    shown = images()
    model = AutoModelForDepthEstimation.from_pretrained(public_parts / "depth").eval()
    processor = DPTImageProcessorPil.from_pretrained(public_parts / "depth")
    output = model(**processor(images=list(shown), return_tensors="pt"))
    wanted = processor.post_process_depth_estimation(output, target_sizes=[(42, 56)])
    got = ours.depth(shown)
    torch.testing.assert_close(got[0], wanted[0]["predicted_depth"])
    assert got.shape == (1, 42, 56)
    assert 0 < float(got.min()) < float(got.max()) < 10


def depth_pro(folder: Path) -> DepthProForDepthEstimation:
    encoder = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=16
    )
    config = DepthProConfig(
        patch_size=32,
        fusion_hidden_size=16,
        patch_model_config=encoder,
        image_model_config=encoder,
        fov_model_config=encoder,
        intermediate_feature_dims=[8, 8],
        intermediate_hook_ids=[2, 1],
        scaled_images_feature_dims=[8, 8, 8],
        use_fov_model=True,
        num_fov_head_layers=0,
    )
    model: DepthProForDepthEstimation = tiny_public.seeded(DepthProForDepthEstimation(config), 11)
    with torch.no_grad():
        list(model.fov_model.head.parameters())[-1].fill_(50.0)  # degrees
        list(model.head.parameters())[-1].fill_(0.3)
    model.save_pretrained(folder)
    size = {"height": 128, "width": 128}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    return model


@torch.inference_mode()
def test_depth_pro_says_metres_by_its_own_lens(tmp_path: Path) -> None:
    model = depth_pro(tmp_path)
    shown = images()
    pixels = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    pixels = functional.interpolate((pixels - 0.5) / 0.5, (128, 128), mode="bilinear")
    said = model(pixels)
    focal = 0.5 * 56 / torch.tan(torch.deg2rad(said.field_of_view) / 2)
    inverse = functional.interpolate(said.predicted_depth[None], (42, 56), mode="bilinear")
    wanted = 1 / (inverse * 56 / focal).clamp(1e-4, 1e4)
    got = load_metric_depth(tmp_path).depth(shown)
    # What the network says is the inverse: where that is small a processor's rounding is metres.
    torch.testing.assert_close(1 / got, 1 / wanted[0], rtol=1e-4, atol=1e-5)
    assert float(got.min()) > 0


@torch.inference_mode()
def test_zoedepth_is_read_at_its_padded_size(tmp_path: Path) -> None:
    backbone = BeitConfig(
        image_size=32,
        num_hidden_layers=4,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=2,
        patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = ZoeDepthConfig(
        backbone_config=backbone,
        fusion_hidden_size=16,
        neck_hidden_sizes=[16, 16, 16, 16],
        bottleneck_features=16,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
        num_attractors=[4, 2, 2, 1],
        bin_embedding_dim=8,
    )
    model = tiny_public.seeded(ZoeDepthForDepthEstimation(config), 12)
    model.save_pretrained(tmp_path)
    processor = ZoeDepthImageProcessorPil(size={"height": 64, "width": 96}, ensure_multiple_of=32)
    processor.save_pretrained(tmp_path)
    shown = images()
    said = model(processor(images=list(shown), return_tensors="pt")["pixel_values"])
    rows, columns = 13, 15  # int(sqrt(42 / 2) * 3), int(sqrt(56 / 2) * 3)
    size = (42 + 2 * rows, 56 + 2 * columns)
    whole = functional.interpolate(said.predicted_depth[None], size, mode="bicubic")
    wanted = whole[0, :, rows:-rows, columns:-columns]
    torch.testing.assert_close(load_metric_depth(tmp_path).depth(shown), wanted)


class Answering:
    """A model that answers with what it is told, and keeps what it was shown."""

    def __init__(self, kind: str, depth: torch.Tensor, fov_deg: float | None = None) -> None:
        self.config = SimpleNamespace(model_type=kind)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.depth, self.fov = depth, fov_deg
        self.shown: list[torch.Tensor] = []

    def __call__(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.shown.append(pixel_values)
        fov = None if self.fov is None else torch.tensor([self.fov])
        return SimpleNamespace(predicted_depth=self.depth[None], field_of_view=fov)


def test_depth_pro_undoes_the_canonical_camera() -> None:
    # A wall at 4 m under a lens of 60 degrees: canonical inverse depth is focal / (width * depth).
    focal_over_width = 0.5 / np.tan(np.radians(30))
    model = Answering("depth_pro", torch.full((8, 8), focal_over_width / 4.0), fov_deg=60.0)
    shown = images()
    got = MetricDepthModel(model, None).depth(shown)
    torch.testing.assert_close(got, torch.full((1, 42, 56), 4.0))
    pixels = model.shown[0]
    assert pixels.shape == (1, 3, 1536, 1536)
    plain = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    wanted = functional.interpolate((plain - 0.5) / 0.5, (1536, 1536), mode="bilinear")
    torch.testing.assert_close(pixels, wanted, atol=1e-5, rtol=1e-5)


def test_zoedepths_mirrored_border_is_cut_off() -> None:
    height, width = 42, 56
    rows, columns = int(np.sqrt(height / 2) * 3), int(np.sqrt(width / 2) * 3)
    ramp = torch.arange(width + 2 * columns).float().repeat(height + 2 * rows, 1)
    processor = ZoeDepthImageProcessorPil(size={"height": 64, "width": 96})
    got = MetricDepthModel(Answering("zoedepth", ramp), processor).depth(images())
    torch.testing.assert_close(got[0, 0], torch.arange(columns, columns + width).float())


def test_a_frame_is_computed_once_while_windows_hold_it() -> None:
    model = Answering("depth_pro", torch.ones(8, 8))
    depth = MetricDepthModel(model, None)
    first = images(3)
    depth.depth_of_window(first, (1, 2, 3), [0, 2])
    assert len(model.shown) == 2
    again = np.concatenate([first[1:], images(1, seed=9)])
    depth.depth_of_window(again, (2, 3, 4), [1, 2])
    assert len(model.shown) == 3  # of stamp 3 it is known, of 4 not
    other = again.copy()
    other[1] += 1
    depth.depth_of_window(other, (2, 3, 4), [1])
    assert len(model.shown) == 4  # the same stamp, another film
    depth.forget_frames()
    depth.depth_of_window(other, (2, 3, 4), [1])
    assert len(model.shown) == 5


def test_models_that_do_not_say_metres_are_refused(public_parts: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="expected a metric model of Depth Anything, got a relative"
    ):
        load_metric_depth(public_parts / "depth_relative")
    config = DPTConfig(
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=32,
        fusion_hidden_size=8,
        neck_hidden_sizes=[8, 8, 8, 8],
        backbone_out_indices=[0, 1, 2, 3],
    )
    DPTForDepthEstimation(config).save_pretrained(tmp_path / "dpt")
    with pytest.raises(ValueError, match=r"says metres.*'dpt'"):
        load_metric_depth(tmp_path / "dpt")
    with pytest.raises(ValueError, match="metric_depth: expected a folder with config"):
        load_metric_depth(tmp_path)
    tiny_public.write_depth(tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="metric_depth: expected a depth-estimation model"):
        load_metric_depth(tmp_path / "torn")
