# SPDX-License-Identifier: Apache-2.0
"""VGGT from a file of its own layout, against the public implementation's numbers and by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny_public
import torch
from safetensors.torch import save_file

from vidllm_ros.network.camera_head import decode_pose
from vidllm_ros.network.concat_geometry import (
    MetricSample,
    VggtGeometry,
    VggtOutput,
    load_vggt_geometry,
    relative_depth,
    to_metres,
)

_spec = importlib.util.spec_from_file_location(
    "vggt_parity", Path(__file__).with_name("test_parity.py")
)
assert _spec is not None
assert _spec.loader is not None
parity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(parity)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(parity.golden_file()) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def answers(
    golden: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    salt = int(golden["salt"])
    weights = {
        key: parity.golden_tensor(key, shape, salt)
        for key, shape in parity.golden_shapes(parity.golden_file()).items()
    }
    file = tmp_path_factory.mktemp("vggt") / "model.safetensors"
    save_file(weights, file)
    model = load_vggt_geometry(file)
    with torch.inference_mode():
        said = model(torch.from_numpy(golden["images"]), with_points=True)
    assert said.points is not None
    assert said.points_confidence is not None
    return {
        "pose_enc": torch.stack(said.pose_encodings).numpy(),
        "depth": said.depth[..., None].numpy(),
        "depth_conf": said.depth_confidence.numpy(),
        "world_points": said.points.numpy(),
        "world_points_conf": said.points_confidence.numpy(),
    }


@pytest.mark.parametrize(
    "name", ["pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"]
)
def test_a_file_of_the_layout_gives_the_reference_numbers(
    name: str, golden: dict[str, np.ndarray], answers: dict[str, np.ndarray]
) -> None:
    theirs = golden[name].astype(np.float64)
    assert answers[name].shape == theirs.shape
    deviation = np.linalg.norm(answers[name] - theirs) / np.linalg.norm(theirs - theirs.mean())
    assert deviation < 1e-3


def made(depth: torch.Tensor, translation: list[list[float]]) -> VggtOutput:
    """Return VGGT's output for cameras without rotation."""
    frames = len(depth)
    encoding = torch.zeros(1, frames, 9)
    encoding[0, :, :3] = torch.tensor(translation)
    encoding[..., 6] = 1
    encoding[..., 7:] = 1.0
    size = (depth.shape[-2], depth.shape[-1])
    return VggtOutput(
        [encoding], depth[None], torch.full((1, *depth.shape), 3.0), None, None, size
    )


def test_scale_is_the_median_of_each_frames_least_squares() -> None:
    depth = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) + 1
    noise = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1))
    metric = depth * torch.tensor([2.0, 3.0, 7.0])[:, None, None] + noise
    output = made(depth, [[0, 0, 0], [1, 0, 0], [0, 2, 0]])
    by_frame = (depth * metric).sum((1, 2)) / (depth**2).sum((1, 2))  # weights are all 2
    got, confidence = to_metres(
        output, MetricSample([0, 1, 2], metric), "depth_head", "least_squares"
    )
    scale = float(by_frame.median())
    assert float(got.scale[0]) == pytest.approx(scale, rel=1e-6)
    torch.testing.assert_close(got.depth[0], depth * scale)
    # camera from world (1, 0, 0): the camera stands at (-1, 0, 0), in metres
    torch.testing.assert_close(got.T_world_camera[0, 1, :3, 3], torch.tensor([-scale, 0, 0]))
    assert got.K[0, 0, 1, 1] == pytest.approx(2 / np.tan(0.5))
    assert confidence.shape == (1, 3, 4, 6)


def test_scale_is_fitted_to_the_sampled_frames_alone() -> None:
    depth = torch.ones(4, 2, 2)
    output = made(depth, [[0, 0, 0]] * 4)
    sample = MetricSample([1, 3], torch.stack([2 * torch.ones(2, 2), 4 * torch.ones(2, 2)]))
    got, _ = to_metres(output, sample, "depth_head", "least_squares")
    assert float(got.scale[0]) == pytest.approx(3.0)


def test_without_a_sample_the_unit_stays() -> None:
    depth = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
    got, _ = to_metres(made(depth, [[0, 0, 0], [5, 0, 0]]), None, "depth_head", "none")
    torch.testing.assert_close(got.depth[0], depth)
    assert float(got.T_world_camera[0, 1, 0, 3]) == pytest.approx(-5.0)


def test_depth_that_means_nothing_sets_no_scale() -> None:
    output = made(torch.ones(1, 2, 2), [[0, 0, 0]])
    sample = MetricSample([0], torch.full((1, 2, 2), torch.nan))
    with pytest.raises(ValueError, match="depth_rel, depth_metric"):
        to_metres(output, sample, "depth_head", "least_squares")


def test_point_head_gives_depth_along_its_own_camera() -> None:
    encoding = torch.tensor([[[0.1, -0.2, 0.3, 0.1, 0.2, 0.0, 1.0, 1.0, 1.2]]])
    T_camera_world, _ = decode_pose(encoding, 4, 6)
    in_camera = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(2)) + 1
    rotation, shift = T_camera_world[0, 0, :3, :3], T_camera_world[0, 0, :3, 3]
    points = (in_camera - shift) @ rotation  # R^T (p - t)
    output = VggtOutput(
        [encoding], torch.ones(1, 1, 4, 6), torch.ones(1, 1, 4, 6), points[None, None],
        torch.full((1, 1, 4, 6), 2.0), (4, 6),
    )  # fmt: skip
    depth, confidence = relative_depth(output, "point_head")
    torch.testing.assert_close(depth[0, 0], in_camera[..., 2])
    assert float(confidence.min()) == 2.0
    with pytest.raises(ValueError, match="depth_from"):
        relative_depth(output, "track_head")


def test_sizes_are_read_off_and_half_precision_keeps_the_camera_head(public_parts: Path) -> None:
    model = load_vggt_geometry(public_parts / "vggt", dtype=torch.bfloat16)
    assert isinstance(model, VggtGeometry)
    assert model.config.width == tiny_public.WIDTH
    assert model.aggregator.camera_token.dtype == torch.bfloat16
    assert model.camera_head.embed_pose.weight.dtype == torch.float32
    images = torch.rand(1, 2, 3, 42, 56, generator=torch.Generator().manual_seed(3))
    exact = load_vggt_geometry(public_parts / "vggt")(images)
    with torch.inference_mode(), model.autocast():
        rough = model(images)
    torch.testing.assert_close(rough.depth, exact.depth, rtol=0.1, atol=0.1)


def test_another_checkpoint_and_a_torn_one_are_refused(public_parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="geometry: expected a checkpoint of VGGT"):
        load_vggt_geometry(public_parts / "clip")
    tensors = tiny_public.vggt_tensors()
    del tensors["camera_head.trunk_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"none for camera_head\.trunk_norm\.weight.*whole"):
        load_vggt_geometry(tmp_path)
    without_points = {n: t for n, t in tiny_public.vggt_tensors().items() if "point" not in n}
    save_file(without_points, tmp_path / "model.safetensors")
    model = load_vggt_geometry(tmp_path)
    with pytest.raises(ValueError, match="point head"):
        model(torch.rand(1, 1, 3, 28, 28), with_points=True)
