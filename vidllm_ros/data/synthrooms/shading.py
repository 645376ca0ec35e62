# SPDX-License-Identifier: Apache-2.0
"""Light what the rays have found, then spoil it the way a camera does.

Lambert under a few point lights, one of which casts shadows, plus ambient light that corners and
the foot of furniture get less of. Colours are squared on the way in and rooted on the way out, a
cheap stand-in for the display's gamma. The sensor adds exposure, white balance, blur, vignetting
and noise.
All of it is PyTorch and runs where the rays are.
Next: render.py, which makes a sample of a room and a walk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidllm_ros.data.synthrooms.parts import TEXTURE_IDS, TEXTURES
from vidllm_ros.data.synthrooms.raycast import Hits, RayCaster, interleave
from vidllm_ros.data.synthrooms.rooms import Room
from vidllm_ros.data.synthrooms.textures import PATTERNS, FacePoints, NoiseTables, noise_tables
from vidllm_ros.data.synthrooms.vocabulary import LABEL_IDS

SENSOR_STREAM = 21
SHADOWED_LIGHTS = 2
FRAMES_AT_ONCE = 4  # pictures whose light the sensor reads together; few stay in the cache


@dataclass(frozen=True)
class Surfaces:
    """Tables of a room's faces, F = 6 N of them, on the renderer's device; one column a face.

    Attributes:
        frames: normal, direction of u, direction of v in the room, u and v at the room's origin
            (`u = point . u_axis - origin_u`), (11, F).
        materials: rgb squared, second rgb squared, `BoxSet.pattern`, (11, F).
        textures, boxes, object_ids, label_ids: (F,) each.
    """

    frames: Tensor
    materials: Tensor
    textures: Tensor
    boxes: Tensor
    object_ids: Tensor
    label_ids: Tensor


def build_surfaces(room: Room, device: torch.device) -> Surfaces:
    """Return the tables; grain runs along the longer edge of each face, walls' u is horizontal."""
    boxes = room.boxes
    count = len(boxes)
    axes = np.swapaxes(boxes.rotations, 1, 2)  # (N, axis, world)
    normals = np.stack([-axes, axes], 2).reshape(count * 6, 3)
    halves = boxes.halves
    pairs = np.array([[1, 2], [0, 2], [0, 1]])  # in-face axes of each face axis
    longer_second = halves[:, pairs[:, 1]] > halves[:, pairs[:, 0]]  # (N, 3)
    hung = np.isin(boxes.textures, [TEXTURE_IDS[name] for name in ("landscape", "sky")])
    hung |= boxes.label_ids == LABEL_IDS["wall"]
    swap = longer_second & ~hung[:, None]
    first = np.where(swap, pairs[None, :, 1], pairs[None, :, 0])
    second = np.where(swap, pairs[None, :, 0], pairs[None, :, 1])
    rows = np.arange(count)[:, None]
    u_axes, v_axes = axes[rows, first], axes[rows, second]  # (N, 3, 3)
    centers = boxes.centers[:, None]
    origins = np.stack([(u_axes * centers).sum(-1), (v_axes * centers).sum(-1)], -1)
    in_face = np.concatenate([u_axes, v_axes, origins], -1)  # (N, 3, 8)
    in_face = np.repeat(in_face, 2, axis=1).reshape(count * 6, 8)
    materials = np.concatenate([boxes.rgb**2, boxes.second_rgb**2, boxes.pattern], 1)

    def table(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return Surfaces(
        frames=table(np.concatenate([normals, in_face], 1).T.astype(np.float32)),
        materials=table(np.repeat(materials, 6, axis=0).T.astype(np.float32)),
        textures=table(np.repeat(boxes.textures, 6)),
        boxes=table(np.repeat(np.arange(count), 6)),
        object_ids=table(np.repeat(boxes.object_ids, 6)),
        label_ids=table(np.repeat(boxes.label_ids, 6)),
    )


def shade_hits(
    room: Room,
    surfaces: Surfaces,
    caster: RayCaster,
    rays: tuple[Tensor, Tensor],
    hits: Hits,
    pixel_rad: float,
) -> Tensor:
    """Return the light each ray brings back, (3, R), linear; 1 is white under full light.

    Rays are origins and directions, (3, R) each; `pixel_rad` is the angle one pixel spans. Vectors
    are kept as three rows, several times as fast as rows of three.
    """
    distance = torch.where(hits.faces < 0, torch.ones_like(hits.distance), hits.distance)
    faces = hits.faces.clamp(min=0)
    origins, directions = rays
    points = torch.addcmul(origins, directions, distance)  # (3, R)
    frames = surfaces.frames.index_select(1, faces)
    normals = frames[0:3]
    slant = dot(normals, directions).neg().clamp(min=0.15)
    footprint = distance * pixel_rad * slant.rsqrt()
    albedo, glow = paint(surfaces, faces, points, frames, footprint)
    light = ambient_light(room, points, normals)
    for index, lamp in enumerate(room.lights):
        position = torch.tensor(lamp.position, dtype=torch.float32, device=points.device)
        to_lamp = position[:, None] - points
        square = dot(to_lamp, to_lamp)
        facing = (dot(normals, to_lamp) * square.rsqrt()).clamp(min=0)
        strength = facing / (1 + square / lamp.reach_m**2)
        if index < SHADOWED_LIGHTS:
            strength = cast_shadows(caster, points, normals, position, strength)
        for channel in range(3):
            light[channel].add_(strength, alpha=lamp.rgb[channel])
    return albedo * (light + glow)


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner product of vectors kept as three rows, (3, R) each."""
    total = first[0] * second[0]
    return total.addcmul_(first[1], second[1]).addcmul_(first[2], second[2])


def cast_shadows(
    caster: RayCaster, points: Tensor, normals: Tensor, lamp: Tensor, strength: Tensor
) -> Tensor:
    """Return the lamp's strength at each point, most of it gone where something is between."""
    lit = (strength > 0.01).nonzero()[:, 0]
    start = points.index_select(1, lit).add_(normals.index_select(1, lit), alpha=2e-3)
    way = (lamp[:, None] - start) * 0.97
    blocked = caster.is_blocked(interleave(start), interleave(way))
    kept = strength.index_select(0, lit) * (1 - 0.85 * blocked.to(strength.dtype))
    return strength.index_copy(0, lit, kept)


def paint(
    surfaces: Surfaces, faces: Tensor, points: Tensor, frames: Tensor, footprint: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the linear colour, (3, R), and the glow, (R,), of points on faces."""
    materials = surfaces.materials
    u = dot(points, frames[3:6]) - frames[9]
    v = dot(points, frames[6:9]) - frames[10]
    textures = surfaces.textures.index_select(0, faces)
    share, gain = torch.zeros_like(u), torch.ones_like(u)
    noise: NoiseTables = noise_tables(str(points.device))
    present = torch.bincount(textures, minlength=len(TEXTURES)).nonzero()[:, 0]
    for index in present.tolist():
        rows = (textures == index).nonzero()[:, 0]
        here = faces.index_select(0, rows)
        pattern = materials[6:].index_select(1, here)
        height = v.index_select(0, rows)
        part = FacePoints(
            u=u.index_select(0, rows) + pattern[3],
            v=height + pattern[4],
            height=height,
            period=pattern[0],
            strength=pattern[1],
            footprint=footprint.index_select(0, rows),
            seed=surfaces.boxes.index_select(0, here),
        )
        part_share, part_gain = PATTERNS[TEXTURES[index]](part, noise)
        share.index_copy_(0, rows, part_share)
        gain.index_copy_(0, rows, part_gain)
    colors = materials[:6].index_select(1, faces)
    return torch.lerp(colors[:3], colors[3:], share) * gain, materials[8].index_select(0, faces)


def ambient_light(room: Room, points: Tensor, normals: Tensor) -> Tensor:
    """Return light from everywhere, less of it near other surfaces, (3, R)."""
    length, width, height = room.size
    aside = 1 - normals.abs()
    dim = 1 - 0.3 * aside[0] * torch.exp((points[0].abs() - length / 2) / 0.3)
    dim = dim * (1 - 0.3 * aside[1] * torch.exp((points[1].abs() - width / 2) / 0.3))
    upright = torch.minimum(points[2], height - points[2]).clamp(min=0)
    dim = dim * (1 - 0.35 * aside[2] * torch.exp(upright / -0.25))
    dim = dim * (0.85 + 0.15 * normals[2])
    color = torch.tensor(room.ambient, dtype=torch.float32, device=points.device)
    return color[:, None] * dim


@dataclass(frozen=True)
class Sensor:
    """How a camera spoils what it sees; drawn once a walk.

    Attributes:
        brightness: the mean a picture is exposed to, display space.
        balance: gain of each channel.
        noise: deviation of the noise of a mid-gray pixel, display space.
        vignette: light lost in the corners.
    """

    brightness: float
    balance: tuple[float, float, float]
    noise: float
    vignette: float


def draw_sensor(rng: np.random.Generator) -> Sensor:
    tint = rng.normal(0, 0.03, 2)
    return Sensor(
        brightness=float(rng.uniform(0.42, 0.58)),
        balance=(1 + float(tint[0]), 1.0, 1 + float(tint[1])),
        noise=float(rng.uniform(0.004, 0.022)),
        vignette=float(rng.uniform(0.0, 0.2)),
    )


def expose(
    light: Tensor,
    sensor: Sensor,
    blur: NDArray[np.float64],
    exposure: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Return pictures of linear light (S, 3, H, W) as uint8 RGB, (S, H, W, 3).

    `blur` is the share of each pixel that comes from its neighbours, `exposure` the gain, (S,)
    each.
    """
    device = light.device
    frames, _, height, width = light.shape

    def column(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(device)[:, None, None, None]

    level = light.clamp(0, 4).sqrt().mean()
    x = torch.linspace(-1, 1, width, device=device)[None, :]
    y = torch.linspace(-1, 1, height, device=device)[:, None]
    corner = 1 - sensor.vignette * (x * x + y * y) / 2
    balance = torch.tensor(sensor.balance, dtype=torch.float32, device=device)[:, None, None]
    gain = balance * corner * (sensor.brightness / level) ** 2  # (3, H, W)
    exposures, shares = column(exposure), column(0.5 * blur)
    grain = torch.from_numpy(noise_field(rng, frames, height, width)).to(device)
    pictures = []
    for start in range(0, frames, FRAMES_AT_ONCE):
        rows = slice(start, start + FRAMES_AT_ONCE)
        image = (light[rows] * gain * exposures[rows]).clamp_(0, 1).sqrt_()
        smooth(image, shares[rows])
        image = torch.addcmul(image, grain[rows], 0.6 + 0.8 * image, value=sensor.noise)
        pictures.append(image.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8))
    return torch.cat(pictures).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def smooth(image: Tensor, share: Tensor) -> None:
    """Let each pixel of (S, 3, H, W), in place, take this share from each neighbour."""
    for axis in (2, 3):
        last = image.shape[axis] - 1
        flow = image.diff(dim=axis) * share
        image.narrow(axis, 0, last).add_(flow)
        image.narrow(axis, 1, last).sub_(flow)


def noise_field(
    rng: np.random.Generator, frames: int, height: int, width: int
) -> NDArray[np.float32]:
    """Return normal noise, (S, 3, H, W): one long row, cut at a random place for each frame.

    Drawing every number anew takes longer than everything else the sensor does.
    """
    size = height * width * 3
    row = rng.standard_normal(2 * size, dtype=np.float32)
    starts = rng.integers(0, size, frames)
    return np.stack([row[s : s + size] for s in starts]).reshape(frames, 3, height, width)
