# SPDX-License-Identifier: Apache-2.0
"""Depth, ids, normals and pictures agree with the room they show."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms import LABELS, generate_room, make_scene
from vidllm_ros.data.synthrooms.parts import TEXTURES
from vidllm_ros.data.synthrooms.raycast import build_caster, interleave
from vidllm_ros.data.synthrooms.render import (
    cast,
    intrinsics,
    pixel_directions,
    render,
    trace,
)
from vidllm_ros.data.synthrooms.rooms import Room
from vidllm_ros.data.synthrooms.shading import (
    SHADOWED_LIGHTS,
    Sensor,
    build_surfaces,
    cast_shadows,
    expose,
    noise_field,
    paint,
)
from vidllm_ros.data.synthrooms.textures import PATTERNS, FacePoints, noise_tables
from vidllm_ros.data.synthrooms.walk import Walk, make_walk


def world_points(sample: SceneSample, frame: int) -> np.ndarray:
    """Unproject a frame's depth, written out from the convention: (H, W, 3)."""
    depth = sample.depth[frame].astype(np.float64)
    height, width = depth.shape
    v, u = np.mgrid[0:height, 0:width]
    K = sample.K[frame]
    camera = np.stack(
        [(u - K[0, 2]) / K[0, 0] * depth, (v - K[1, 2]) / K[1, 1] * depth, depth], -1
    )
    T = sample.T_world_camera[frame]
    return camera @ T[:3, :3].T + T[:3, 3]


def test_depth_lands_on_the_objects(samples: list[SceneSample]) -> None:
    checked = 0
    for sample in samples[:8]:
        for frame in (0, 9):
            points = world_points(sample, frame)
            for item in sample.objects:
                mask = sample.instance_ids[frame] == item.object_id
                z, w = item.box.quat_xyzw[2:]
                c, s = w * w - z * z, 2 * z * w
                local = (points[mask] - item.box.center) @ np.array(
                    [[c, -s, 0], [s, c, 0], [0, 0, 1]]
                )
                assert (np.abs(local) <= np.asarray(item.box.size) / 2 + 1e-3).all()
                checked += int(mask.sum())
    assert checked > 2000


def test_floor_pixels_lie_on_the_floor(samples: list[SceneSample]) -> None:
    for sample in samples[:6]:
        floor = sample.label_ids[3] == LABELS.index("floor")
        heights = world_points(sample, 3)[floor][:, 2]
        np.testing.assert_allclose(heights, 0.0, atol=2e-3)
        assert (sample.instance_ids[3][floor] == -1).all()


def test_labels_and_instances_agree(samples: list[SceneSample]) -> None:
    for sample in samples[:6]:
        for item in sample.objects:
            labels = np.unique(sample.label_ids[sample.instance_ids == item.object_id])
            assert [LABELS[i] for i in labels] == [item.label]


def test_normals_face_the_camera_and_are_unit() -> None:
    room = generate_room(11)
    walk = make_walk(room, 2, 11)
    found = render(room, walk, 20, 30, with_normals=True)
    assert found.normals is not None
    np.testing.assert_allclose(np.linalg.norm(found.normals, axis=-1), 1, atol=1e-5)
    K = found.K[0]
    v, u = np.mgrid[0:20, 0:30]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((20, 30))], -1)
    for frame in range(2):
        world = rays @ walk.T_world_camera[frame, :3, :3].T
        assert ((world * found.normals[frame]).sum(-1) < 1e-4).all()
    floor = found.label_ids == LABELS.index("floor")
    np.testing.assert_allclose(found.normals[floor], [[0, 0, 1]] * int(floor.sum()), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(84, 112), (112, 112), (30, 64)])
def test_intrinsics_follow_size_and_field_of_view(height: int, width: int) -> None:
    K = intrinsics(math.radians(60), height, width)
    assert K[0, 2] == width / 2
    assert K[1, 2] == height / 2
    assert K[0, 0] == K[1, 1] == pytest.approx(width / 2 / math.tan(math.radians(30)))


def test_shapes_and_values(samples: list[SceneSample]) -> None:
    wide = make_scene(12, frames=3, height=20, width=50)
    assert wide.frames.images.shape == (3, 20, 50, 3)
    for sample in [*samples, wide]:
        assert np.isfinite(sample.depth).all()  # rooms are closed
        assert sample.depth.min() > 0.1
        assert sample.depth.max() < 11
        assert sample.depth.dtype == np.float32
        assert sample.instance_ids.dtype == np.int32
        assert sample.label_ids.dtype == np.int16
        assert sample.label_ids.min() >= 0
        images = sample.frames.images
        assert 60 < images.mean() < 200
        assert images.std() > 15


def test_colours_show_in_the_pictures(samples: list[SceneSample]) -> None:
    """Mean pictures of red, green and blue things have that channel largest."""
    channel = {"red": 0, "green": 1, "blue": 2}
    right = total = 0
    for sample in samples:
        for item in sample.objects:
            if item.color not in channel or item.label in ("bookshelf", "bed", "picture"):
                continue
            pixels = sample.frames.images[sample.instance_ids == item.object_id].mean(0)
            right += int(np.argmax(pixels)) == channel[item.color]
            total += 1
    assert total > 15
    assert right / total > 0.95


def test_painting_by_texture_equals_painting_all_with_every_texture() -> None:
    """The plain twin: every pattern on every point, then each point takes its own."""
    room = generate_room(1_000_005)
    surfaces = build_surfaces(room, torch.device("cpu"))
    points = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) * 3 - 1
    faces = torch.arange(4000) % (6 * len(room.boxes))
    frames, material = surfaces.frames[:, faces], surfaces.materials[:, faces]
    footprint = torch.full((4000,), 0.004)
    u = (points * frames[3:6]).sum(0) - frames[9]
    v = (points * frames[6:9]).sum(0) - frames[10]
    everything = FacePoints(
        u + material[9], v + material[10], v, material[6], material[7], footprint, faces // 6
    )
    color = torch.zeros(3, 4000)
    for index, name in enumerate(TEXTURES):
        share, gain = PATTERNS[name](everything, noise_tables("cpu"))
        mixed = material[:3] + share * (material[3:6] - material[:3])
        color = torch.where(surfaces.textures[faces] == index, mixed * gain, color)
    found, glow = paint(surfaces, faces, points, frames, footprint)
    off = (found - color).abs().amax(0)
    assert (off > 1e-4).float().mean() < 0.01  # a point on a cell's edge may fall to either side
    torch.testing.assert_close(glow, material[8])


def test_trace_finds_what_render_finds_without_pictures() -> None:
    room = generate_room(12)
    walk = make_walk(room, 5, 12)
    full, bare = render(room, walk, 20, 30), trace(room, walk, 20, 30)
    np.testing.assert_array_equal(full.depth, bare.depth)
    np.testing.assert_array_equal(full.instance_ids, bare.instance_ids)
    np.testing.assert_array_equal(full.label_ids, bare.label_ids)
    np.testing.assert_array_equal(full.K, bare.K)


def test_two_lights_cast_shadows() -> None:
    room = generate_room(3)
    assert len(room.lights) >= 2
    walk = make_walk(room, 4, 3)
    bare = replace(room, ambient=(0.0, 0.0, 0.0))
    for index in range(SHADOWED_LIGHTS):
        alone = replace(bare, lights=(room.lights[index],))
        assert lit_share(alone, walk, True) < lit_share(alone, walk, False) - 0.02


def lit_share(room: Room, walk: Walk, with_shadows: bool) -> float:
    """Return the share of points that the room's one light reaches."""
    K = intrinsics(walk.fov_x_rad, 24, 32)
    device = torch.device("cpu")
    rays = cast(
        torch.from_numpy(walk.T_world_camera.astype(np.float32)),
        pixel_directions(K, 24, 32, device),
    )
    caster = build_caster(room.boxes)
    hits = caster.first_hits(interleave(rays[0]), interleave(rays[1]))
    points = rays[0] + rays[1] * hits.distance
    normals = build_surfaces(room, device).frames[:3, hits.faces]
    lamp = torch.tensor(room.lights[0].position)
    facing = ((lamp[:, None] - points) * normals).sum(0).clamp(min=0)
    strength = (facing > 0).float()
    if with_shadows:
        strength = cast_shadows(caster, points, normals, lamp, strength)
    return float((strength > 0.5).float().mean())


def test_sensor_exposes_to_its_brightness_and_adds_noise() -> None:
    light = torch.full((4, 3, 16, 16), 0.3)
    sensor = Sensor(brightness=0.5, balance=(1.0, 1.0, 1.0), noise=0.02, vignette=0.0)
    images = expose(light, sensor, np.zeros(4), np.ones(4), np.random.default_rng(0))
    assert images.shape == (4, 16, 16, 3)
    assert images.mean() == pytest.approx(127.5, abs=1)
    assert images.std() == pytest.approx(0.02 * 255, rel=0.1)
    brighter = expose(light, sensor, np.zeros(4), np.full(4, 1.2), np.random.default_rng(0))
    assert brighter.mean() > images.mean() + 5
    field = noise_field(np.random.default_rng(0), 3, 8, 8)
    assert not np.array_equal(field[0], field[1])
    with pytest.raises(ValueError, match="at least 2 px"):
        render(generate_room(11), make_walk(generate_room(11), 1, 11), 1, 1)
