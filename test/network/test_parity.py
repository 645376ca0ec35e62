# SPDX-License-Identifier: Apache-2.0
"""Our reconstruction half against numbers of the public VGGT implementation.

Weights are made from VGGT's key names by the golden files' rule, converted by `convert_vggt`, and
every stored array is compared. `VIDLLM_GOLDEN=FILE.npz` holds the network against another file of
this form.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import convert_vggt
from vidllm_ros.network.dense_head import build_depth_head, build_point_head
from vidllm_ros.network.encoder import Encoder

GOLDEN_FOLDER = Path(__file__).resolve().parents[3] / "shared" / "golden"
TOLERANCE = 1e-3


def golden_file() -> Path:
    chosen = os.environ.get("VIDLLM_GOLDEN")
    if chosen:
        path = Path(chosen)
        if not path.is_file():
            raise FileNotFoundError(f"VIDLLM_GOLDEN: expected a .npz file, got {path}")
        return path
    path = GOLDEN_FOLDER / "vggt_small.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers of VGGT are not there: {path}; set VIDLLM_GOLDEN=FILE.npz")
    return path


def golden_shapes(path: Path) -> dict[str, list[int]]:
    candidates = (
        path.with_name(f"{path.stem}_keys.json"),
        path.with_name("vggt_small_keys.json"),
        GOLDEN_FOLDER / "vggt_small_keys.json",
    )
    for candidate in candidates:
        if candidate.is_file():
            return json.loads(candidate.read_text())
    raise FileNotFoundError(f"expected the key file of {path} at one of {candidates}")


def golden_tensor(key: str, shape: list[int], salt: int) -> torch.Tensor:
    rng = np.random.RandomState((zlib.crc32(key.encode()) + salt) % 2**31)
    n = rng.standard_normal(shape).astype(np.float32)
    if key.endswith("gamma"):
        n = 0.2 + 0.05 * n
    elif len(shape) >= 2:
        n = n * 1.2 / np.sqrt(np.prod(shape[1:]))
    elif key.endswith(".weight"):
        n = 1 + 0.1 * n
    else:
        n = 0.02 * n
    return torch.from_numpy(n.astype(np.float32))


def golden_config() -> VidLLMConfig:
    return VidLLMConfig(
        encoder={
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "image_size": 518,
        },
        image_size=518,
        aggregator_depth=4,
        aggregator_heads=6,
        aggregator_layers=(0, 1, 2, 3),
        encoder_layers=(2, 5, 8, 11),
        camera_trunk_depth=4,
        camera_heads=6,
        camera_mlp_ratio=4,
        dense_features=64,
        dense_channels=(48, 96, 192, 192),
    )


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(golden_file()) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def ours(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    config = golden_config()
    salt = int(golden["salt"])
    weights = {
        key: golden_tensor(key, shape, salt) for key, shape in golden_shapes(golden_file()).items()
    }
    converted, report = convert_vggt(weights, config)
    assert not report.missing
    assert not report.left_over
    modules = torch.nn.ModuleDict(
        {
            "encoder": Encoder(config),
            "aggregator": Aggregator(config),
            "camera_head": CameraHead(config),
            "depth_head": build_depth_head(config),
            "point_head": build_point_head(config),
        }
    ).eval()
    modules.load_state_dict(converted, strict=True)
    images = torch.from_numpy(golden["images"])
    image_size = (images.shape[-2], images.shape[-1])
    with torch.inference_mode():
        encoded = modules["encoder"](images)
        mixed = modules["aggregator"](encoded.patch_tokens, encoded.grid)
        poses = modules["camera_head"](mixed.last)
        levels = mixed.patch_levels(config.aggregator_layers)
        depth = modules["depth_head"](levels, encoded.grid, image_size)
        points = modules["point_head"](levels, encoded.grid, image_size)
    answers = {
        "patch_tokens": encoded.patch_tokens.flatten(0, 1),
        "aggregated_first": mixed.levels[0],
        "aggregated_last": mixed.last,
        "pose_enc": torch.stack(poses),
        "depth": depth.values[..., None],
        "depth_conf": depth.confidence,
        "world_points": points.values,
        "world_points_conf": points.confidence,
    }
    return {
        "patch_start_idx": np.asarray(mixed.patch_start),
        **{name: answer.numpy() for name, answer in answers.items()},
    }


@pytest.mark.parametrize(
    "name",
    [
        "patch_tokens",
        "aggregated_first",
        "aggregated_last",
        "pose_enc",
        "depth",
        "depth_conf",
        "world_points",
        "world_points_conf",
    ],
)
def test_array_agrees_with_the_reference(
    name: str, golden: dict[str, np.ndarray], ours: dict[str, np.ndarray]
) -> None:
    theirs = golden[name].astype(np.float64)
    assert ours[name].shape == theirs.shape
    deviation = np.linalg.norm(ours[name] - theirs) / np.linalg.norm(theirs - theirs.mean())
    print(f"{name}: {deviation:.2e}")
    assert deviation < TOLERANCE


def test_every_stored_array_is_compared(
    golden: dict[str, np.ndarray], ours: dict[str, np.ndarray]
) -> None:
    assert set(golden) - {"images", "salt"} <= set(ours)
    assert int(golden["patch_start_idx"]) == int(ours["patch_start_idx"])
