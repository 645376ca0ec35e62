# SPDX-License-Identifier: Apache-2.0
"""Render a walk through a room: pictures and exact depth, ids and poses.

Pixel centres are integers (u = 0 .. W - 1) and the principal point is at W/2, H/2, as in the rest
of the project. Depth is z along the optical axis. Rays leave with unit z, so the caster's distance
is the depth. Next: questions.py, which asks about what is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidllm_ros.data.synthrooms.raycast import Hits, build_caster, interleave
from vidllm_ros.data.synthrooms.rooms import Room
from vidllm_ros.data.synthrooms.shading import (
    SENSOR_STREAM,
    Surfaces,
    build_surfaces,
    draw_sensor,
    expose,
    shade_hits,
)
from vidllm_ros.data.synthrooms.walk import Walk

FRAMES_AT_ONCE_CPU = 8


@dataclass(frozen=True)
class Rendering:
    """What a walk saw; S frames of H x W.

    Attributes:
        images: uint8 RGB, (S, H, W, 3).
        depth: (S, H, W), m, NaN where nothing was met.
        instance_ids: (S, H, W), -1 for structure and clutter.
        label_ids: index into LABELS, (S, H, W), -1 where nothing was met.
        normals: of the surfaces, in the room's world, (S, H, W, 3), or None where not asked for.
        K: (S, 3, 3), px.
    """

    images: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instance_ids: NDArray[np.int32]
    label_ids: NDArray[np.int16]
    normals: NDArray[np.float32] | None
    K: NDArray[np.float64]


def intrinsics(fov_x_rad: float, height: int, width: int) -> NDArray[np.float64]:
    """Return K of square pixels with this horizontal field of view, (3, 3)."""
    focal = width / 2 / math.tan(fov_x_rad / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def render(
    room: Room,
    walk: Walk,
    height: int,
    width: int,
    backend: str = "auto",
    device: str | torch.device | None = None,
    with_normals: bool = False,
) -> Rendering:
    """Render every pose of the walk; deterministic in the room, the walk and the backend."""
    if height < 2 or width < 2:
        raise ValueError(f"height, width: expected at least 2 px each, got {height} x {width}")
    caster = build_caster(room.boxes, backend, device)
    surfaces = build_surfaces(room, caster.device)
    K = intrinsics(walk.fov_x_rad, height, width)
    poses = torch.from_numpy(walk.T_world_camera.astype(np.float32)).to(caster.device)
    pixels = pixel_directions(K, height, width, caster.device)
    frames = len(poses)
    step = FRAMES_AT_ONCE_CPU if caster.device.type == "cpu" else frames
    light, depth, faces = [], [], []
    for start in range(0, frames, step):
        chunk = poses[start : start + step]
        rays = cast(chunk, pixels)
        hits: Hits = caster.first_hits(interleave(rays[0]), interleave(rays[1]))
        shape = (len(chunk), height, width)
        pixel_rad = 1.0 / float(K[0, 0])
        colors = shade_hits(room, surfaces, caster, rays, hits, pixel_rad)
        light.append(colors.reshape(3, *shape).transpose(0, 1))
        depth.append(hits.distance.reshape(shape))
        faces.append(hits.faces.reshape(shape))
    sensor_rng = np.random.default_rng([room.seed, SENSOR_STREAM])
    sensor = draw_sensor(sensor_rng)
    images = expose(torch.cat(light), sensor, walk.blur, walk.exposure, sensor_rng)
    return assemble(surfaces, images, torch.cat(depth), torch.cat(faces), K, with_normals)


def trace(
    room: Room,
    walk: Walk,
    height: int,
    width: int,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> Rendering:
    """Return what `render` does, truth and all, but with black pictures: a third of the time."""
    caster = build_caster(room.boxes, backend, device)
    surfaces = build_surfaces(room, caster.device)
    K = intrinsics(walk.fov_x_rad, height, width)
    pixels = pixel_directions(K, height, width, caster.device)
    poses = torch.from_numpy(walk.T_world_camera.astype(np.float32)).to(caster.device)
    hits = [
        caster.first_hits(*(interleave(rows) for rows in cast(pose[None], pixels)))
        for pose in poses
    ]
    shape = (len(poses), height, width)
    depth = torch.stack([hit.distance for hit in hits]).reshape(shape)
    faces = torch.stack([hit.faces for hit in hits]).reshape(shape)
    return assemble(surfaces, np.zeros((*shape, 3), np.uint8), depth, faces, K, False)


def assemble(
    surfaces: Surfaces,
    images: NDArray[np.uint8],
    depth: Tensor,
    faces: Tensor,
    K: NDArray[np.float64],
    with_normals: bool,
) -> Rendering:
    """Look up what each face belongs to."""
    missed = faces < 0
    face = faces.clamp(min=0).ravel()
    ids = surfaces.object_ids.index_select(0, face).view_as(faces).masked_fill_(missed, -1)
    labels = surfaces.label_ids.index_select(0, face).view_as(faces).masked_fill_(missed, -1)
    normals = None
    if with_normals:
        rows = surfaces.frames[:3].index_select(1, face).t()
        normals = rows.reshape(*faces.shape, 3).cpu().numpy()
    return Rendering(
        images=images,
        depth=depth.masked_fill(missed, torch.nan).cpu().numpy(),
        instance_ids=ids.cpu().numpy(),
        label_ids=labels.cpu().numpy(),
        normals=normals,
        K=np.repeat(K[None], len(images), 0),
    )


def pixel_directions(
    K: NDArray[np.float64], height: int, width: int, device: torch.device
) -> Tensor:
    """Return the direction of each pixel in the optical frame with unit z, (3, H W)."""
    v, u = np.mgrid[0:height, 0:width]
    grid = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)])
    return torch.from_numpy(grid.reshape(3, -1).astype(np.float32)).to(device)


def cast(poses: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return origins and directions in the room of every pixel of every pose, (3, S H W) each."""
    rotation = poses[:, :3, :3].transpose(0, 1)[..., None]  # (row, S, column, 1)
    directions = pixels[0] * rotation[:, :, 0]  # (3, S, HW)
    directions = torch.addcmul(directions, pixels[1], rotation[:, :, 1])
    directions = torch.addcmul(directions, pixels[2], rotation[:, :, 2])
    origins = poses[:, :3, 3].t()[:, :, None].expand_as(directions)
    return origins.reshape(3, -1), directions.reshape(3, -1)
