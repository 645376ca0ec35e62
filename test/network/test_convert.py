# SPDX-License-Identifier: Apache-2.0
"""Public key layouts into ours: nothing lost, nothing made up, wrong shapes refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidllm_ros.network import convert
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import (
    convert_dinov2,
    convert_vggt,
    load_vggt,
    reconstruction_shapes,
)
from vidllm_ros.network.encoder import Encoder
from vidllm_ros.network.presets import paper_config

VGGT_1B = Path(__file__).resolve().parents[3] / "shared" / "golden" / "vggt_1b_keys.json.gz"


def small_config(point_head: bool = True) -> VidLLMConfig:
    return VidLLMConfig(
        encoder={"hidden_size": 24, "num_attention_heads": 3},
        dense_features=16,
        dense_channels=(8, 12, 16, 16),
        point_head=point_head,
    )


def to_vggt(name: str) -> str:
    """Our name in VGGT's words, written independently of the converter's rules."""
    for ours, theirs in (
        ("camera_head.empty_pose", "camera_head.empty_pose_tokens"),
        ("camera_head.modulation.", "camera_head.poseLN_modulation.1."),
        ("encoder.backbone.embeddings.position_embeddings", "aggregator.patch_embed.pos_embed"),
        ("encoder.backbone.embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("encoder.backbone.layernorm", "norm"),
        ("encoder.backbone.embeddings.", ""),
        ("encoder.backbone.encoder.layer.", "blocks."),
    ):
        if name.startswith(ours):
            name = name.replace(ours, theirs, 1)
            if ours.startswith("encoder") and not name.startswith("aggregator"):
                name = "aggregator.patch_embed." + name
    for level in range(4):
        name = name.replace(f"decoder.reduces.{level}.", f"scratch.layer{level + 1}_rn.")
        name = name.replace(f"decoder.fusions.{level}.", f"scratch.refinenet{level + 1}.")
    for ours, theirs in (
        ("skip_unit", "resConfUnit1"),
        ("out_unit", "resConfUnit2"),
        ("decoder.output_conv", "scratch.output_conv1"),
        ("predictor", "scratch.output_conv2"),
        ("decoder.resizes", "resize_layers"),
        ("decoder.", ""),
        ("attention.o_proj", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
    ):
        name = name.replace(ours, theirs)
    return name


def vggt_like(shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return random weights of our network and the same weights as VGGT would store them."""
    generator = torch.Generator().manual_seed(0)
    ours = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            stacked = [ours[name.replace(".q_proj.", f".{p}_proj.")] for p in "qkv"]
            theirs[to_vggt(name).replace("attention.q_proj", "attn.qkv")] = torch.cat(stacked)
        else:
            theirs[to_vggt(name)] = tensor
    return ours, theirs


def test_published_checkpoint_fits_the_paper_size() -> None:
    if not VGGT_1B.is_file():
        pytest.skip(f"list of VGGT-1B's keys is not there: {VGGT_1B}")
    with gzip.open(VGGT_1B) as file:
        shapes = json.load(file)
    assert len(shapes) == 1797
    source = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    converted, report = convert_vggt(source, paper_config())
    assert report.missing == ()
    assert {key.name for key in report.left_over} == {n for n in shapes if "track_head." in n}
    assert len(report.left_over) == 394
    assert {name: tuple(t.shape) for name, t in converted.items()} == reconstruction_shapes(
        paper_config()
    )
    assert "encoder.backbone.embeddings.mask_token" in converted
    parameters = sum(tensor.numel() for tensor in converted.values())
    assert parameters == pytest.approx((1256.54 - 65.941) * 1e6, rel=1e-5)
    text = str(report)
    assert all(name in text for name in shapes)


def test_every_tensor_arrives_where_it_belongs() -> None:
    ours, theirs = vggt_like(reconstruction_shapes(small_config()))
    converted, report = convert_vggt(theirs, small_config())
    assert report.missing == report.left_over == ()
    assert converted.keys() == ours.keys()
    for name, tensor in ours.items():
        assert torch.equal(converted[name], tensor), name
    stacked = next(u for u in report.used if u.source.name.endswith("blocks.0.attn.qkv.weight"))
    assert stacked.source.shape == (72, 24)
    assert [target.shape for target in stacked.targets] == [(24, 24)] * 3


def test_report_names_what_is_missing_and_what_is_left_over() -> None:
    _, theirs = vggt_like(reconstruction_shapes(small_config()))
    gone = theirs.pop("aggregator.patch_embed.blocks.2.attn.qkv.bias")
    theirs["track_head.tracker.weight"] = torch.zeros(3, 2)
    theirs["aggregator.patch_embed.something"] = torch.zeros(1)
    theirs["depth_head.scratch.refinenet4.resConfUnit1.conv1.bias"] = torch.zeros(16)
    _, report = convert_vggt(theirs, small_config())
    layer = "encoder.backbone.encoder.layer.2.attention"
    assert [(m.name, m.shape) for m in report.missing] == [
        (f"{layer}.{part}_proj.bias", (len(gone) // 3,)) for part in "qkv"
    ]
    assert [str(entry) for entry in report.left_over] == [
        "track_head.tracker.weight (3, 2)",
        "aggregator.patch_embed.something (1,)",
        "depth_head.scratch.refinenet4.resConfUnit1.conv1.bias (16,)",
    ]


def test_point_head_is_left_over_where_it_is_not_built() -> None:
    _, theirs = vggt_like(reconstruction_shapes(small_config()))
    converted, report = convert_vggt(theirs, small_config(point_head=False))
    assert report.missing == ()
    assert {e.name for e in report.left_over} == {n for n in theirs if n.startswith("point_head")}
    assert not any(name.startswith("point_head") for name in converted)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("aggregator.camera_token", "aggregator.camera_token"),
        ("depth_head.scratch.layer2_rn.weight", "depth_head.decoder.reduces.1.weight"),
        (
            "aggregator.patch_embed.blocks.0.attn.qkv.weight",
            "encoder.backbone.encoder.layer.0.attention.k_proj.weight",
        ),
    ],
)
def test_other_shape_is_an_error_that_names_both_sides(source: str, target: str) -> None:
    _, theirs = vggt_like(reconstruction_shapes(small_config()))
    right = tuple(theirs[source].shape)
    theirs[source] = torch.zeros(5, 7)
    with pytest.raises(ValueError, match="use a config of the checkpoint's sizes") as error:
        convert_vggt(theirs, small_config())
    assert f"{source} (5, 7)" in str(error.value)
    assert target in str(error.value)
    assert right != (5, 7)


def test_names_of_transformers_4_are_detected() -> None:
    """Where the installed library uses its version 4 names, the converter follows them."""
    shapes = reconstruction_shapes(small_config())
    _, theirs = vggt_like(shapes)
    renames = tuple(zip(convert._ATTENTION_V5, convert._ATTENTION_V4, strict=True))
    old: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        for v5, v4 in renames:
            name = name.replace(f".{v5}.", f".{v4}.")
        old[name] = shape
    assert old.keys() != shapes.keys()
    converted, report = convert._convert(theirs, old)
    assert report.missing == report.left_over == ()
    layer = "encoder.backbone.encoder.layer.1.attention"
    qkv = theirs["aggregator.patch_embed.blocks.1.attn.qkv.weight"]
    assert torch.equal(converted[f"{layer}.attention.value.weight"], qkv[48:])
    assert f"{layer}.output.dense.weight" in converted


@pytest.mark.parametrize("layout", ["v4", "v5", "original"])
@pytest.mark.parametrize("prefix", ["", "dinov2_with_registers."])
def test_dinov2_checkpoints_fit_the_encoder(layout: str, prefix: str) -> None:
    shapes = reconstruction_shapes(small_config())
    ours, theirs = vggt_like({k: v for k, v in shapes.items() if k.startswith("encoder.")})
    if layout == "original":
        source = {n.removeprefix("aggregator.patch_embed."): t for n, t in theirs.items()}
    else:
        source = {prefix + n.removeprefix("encoder.backbone."): t for n, t in ours.items()}
    if layout == "v4":
        for v5, v4 in zip(convert._ATTENTION_V5, convert._ATTENTION_V4, strict=True):
            source = {name.replace(f".{v5}.", f".{v4}."): t for name, t in source.items()}
    converted, report = convert_dinov2(source, small_config())
    assert report.missing == report.left_over == ()
    assert converted.keys() == ours.keys()
    assert all(torch.equal(converted[name], ours[name]) for name in ours)
    Encoder(small_config()).load_state_dict(
        {name.removeprefix("encoder."): tensor for name, tensor in converted.items()}
    )


def test_something_else_is_not_taken_for_dinov2() -> None:
    with pytest.raises(ValueError, match="expected DINOv2 with registers"):
        convert_dinov2({"model.weight": torch.zeros(2)}, small_config())


def test_load_reports_what_vggt_does_not_have() -> None:
    config = small_config(point_head=False)
    model = nn.ModuleDict({"encoder": Encoder(config), "adapter": nn.Linear(2, 3)})
    ours, theirs = vggt_like(
        {n: s for n, s in reconstruction_shapes(config).items() if n.startswith("encoder.")}
    )
    before = model["adapter"].weight.detach().clone()
    report = load_vggt(model, theirs)
    assert [m.name for m in report.missing] == ["adapter.weight", "adapter.bias"]
    assert torch.equal(model["adapter"].weight, before)
    for name, tensor in model["encoder"].state_dict().items():
        assert torch.equal(tensor, ours[f"encoder.{name}"]), name
