# SPDX-License-Identifier: Apache-2.0
"""All casters find the same faces at the same depth, and they are the right ones."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from vidllm_ros.data.synthrooms.raycast import build_caster, choose_backend, interleave
from vidllm_ros.data.synthrooms.render import cast, intrinsics, pixel_directions, render
from vidllm_ros.data.synthrooms.rooms import BoxSet, generate_room
from vidllm_ros.data.synthrooms.walk import make_walk

EMBREE = [name for name in ("embreex", "open3d") if importlib.util.find_spec(name)]
ALL = [*EMBREE, "torch"]


def two_boxes() -> BoxSet:
    """Return a unit cube at (3, 0, 0) and one turned by 45 degrees about z at (0, 3, 0)."""
    c = np.sqrt(0.5)
    return BoxSet(
        centers=np.array([[3, 0, 0], [0, 3, 0]], np.float32),
        halves=np.full((2, 3), 0.5, np.float32),
        rotations=np.array([np.eye(3), [[c, -c, 0], [c, c, 0], [0, 0, 1]]], np.float32),
        object_ids=np.array([0, 1], np.int32),
        label_ids=np.zeros(2, np.int16),
        textures=np.zeros(2, np.int64),
        rgb=np.ones((2, 3), np.float32),
        second_rgb=np.ones((2, 3), np.float32),
        pattern=np.ones((2, 5), np.float32),
    )


@pytest.mark.parametrize("backend", ALL)
def test_known_rays(backend: str) -> None:
    caster = build_caster(two_boxes(), backend, "cpu")
    origins = torch.zeros(5, 3)
    origins[4] = torch.tensor([3.0, 0.1, 5.0])
    ways = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0.0, 1.0, 0.001], [-1, 0, 0], [0, 0, -1.0]])
    ways[1, 0] = 0.05  # left of the edge that points at the origin
    hits = caster.first_hits(origins, ways)
    assert hits.distance[0] == pytest.approx(1.25, abs=1e-6)
    assert hits.faces[0] == 0  # box 0, axis 0, negative side
    edge = 3 - np.sqrt(0.5)
    assert hits.distance[1] == pytest.approx(edge / 0.95, abs=1e-5)  # y = edge + x on that face
    assert hits.faces[1] == 6 + 2  # box 1, axis 1 (turned to -x +y), negative side
    assert hits.faces[3] == -1
    assert torch.isinf(hits.distance[3])
    assert hits.distance[4] == pytest.approx(4.5, abs=1e-6)
    assert hits.faces[4] == 5
    blocked = caster.is_blocked(origins, ways)
    assert blocked.tolist() == [False, False, False, False, False]
    assert caster.is_blocked(origins, ways * 6).tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("other", EMBREE)
def test_casters_agree_in_a_room(other: str) -> None:
    room = generate_room(1_000_003)
    walk = make_walk(room, 3, room.seed)
    K = intrinsics(walk.fov_x_rad, 30, 40)
    poses = torch.from_numpy(walk.T_world_camera.astype(np.float32))
    rows = cast(poses, pixel_directions(K, 30, 40, torch.device("cpu")))
    rays = [interleave(row) for row in rows]
    exact = build_caster(room.boxes, "torch", "cpu").first_hits(*rays)
    found = build_caster(room.boxes, other).first_hits(*rays)
    assert torch.isfinite(exact.distance).all()
    same = found.faces == exact.faces
    assert same.float().mean() > 0.998  # edges may fall to either side
    torch.testing.assert_close(found.distance[same], exact.distance[same], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("other", EMBREE)
def test_backends_render_the_same_room(other: str) -> None:
    room = generate_room(1_000_004)
    walk = make_walk(room, 2, room.seed)
    first = render(room, walk, 24, 32, "torch", "cpu")
    second = render(room, walk, 24, 32, other)
    assert (first.instance_ids == second.instance_ids).mean() > 0.995
    assert (first.label_ids == second.label_ids).mean() > 0.995
    away = np.abs(first.images.astype(int) - second.images)
    assert (away > 2).mean() < 0.01  # shadow edges, silhouettes


def test_rows_become_vectors() -> None:
    rows = torch.arange(30.0).reshape(3, 10)
    assert torch.equal(interleave(rows), rows.t())
    assert interleave(rows[:, 3:7]).is_contiguous()
    assert torch.equal(interleave(rows[:, 3:7]), rows[:, 3:7].t())


def test_backend_is_chosen_by_name_and_device() -> None:
    assert choose_backend("torch") == "torch"
    assert choose_backend("auto", "cuda") == "torch"
    assert choose_backend("auto") in ALL
    with pytest.raises(ValueError, match="expected auto or one of"):
        choose_backend("opengl")
