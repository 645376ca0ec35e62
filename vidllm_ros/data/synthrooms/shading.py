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

from vidllm_ros.data.synthrooms.raycast import Hits, RayCaster
from vidllm_ros.data.synthrooms.rooms import Room
from vidllm_ros.data.synthrooms.textures import PATTERNS, FacePoints, NoiseTables, noise_tables

SENSOR_STREAM = 21


@dataclass(frozen=True)
class Surfaces:
    """Tables of a room's boxes and faces on the renderer's device.

    Attributes:
        normals: of each face, (6 N, 3).
        u_axes, v_axes: directions of u and v on each face in the room, (6 N, 3).
        origins: u, v at the room's origin, (6 N, 2): `u = point . u_axis - origin_u`.
        materials: (N, 11): rgb squared, second rgb squared, period, strength, glow, offsets.
        textures: (N,).
    """

    normals: Tensor
    u_axes: Tensor
    v_axes: Tensor
    origins: Tensor
    materials: Tensor
    textures: Tensor


def build_surfaces(room: Room, device: torch.device) -> Surfaces:
    """Return the tables; grain runs along the longer edge of each face, walls' u is horizontal."""
    boxes = room.boxes
    count = len(boxes)
    axes = np.swapaxes(boxes.rotations, 1, 2)  # (N, axis, world)
    normals = np.stack([-axes, axes], 2).reshape(count * 6, 3)
    halves = boxes.halves
    pairs = np.array([[1, 2], [0, 2], [0, 1]])  # in-face axes of each face axis
    longer_second = halves[:, pairs[:, 1]] > halves[:, pairs[:, 0]]  # (N, 3)
    hung = np.isin(boxes.textures, [list(PATTERNS).index(n) for n in ("landscape", "sky")])
    hung |= boxes.label_ids == 0  # walls
    swap = longer_second & ~hung[:, None]
    first = np.where(swap, pairs[None, :, 1], pairs[None, :, 0])
    second = np.where(swap, pairs[None, :, 0], pairs[None, :, 1])
    rows = np.arange(count)[:, None]
    u_axes, v_axes = axes[rows, first], axes[rows, second]  # (N, 3, 3)
    origins = np.stack(
        [(u_axes * boxes.centers[:, None]).sum(-1), (v_axes * boxes.centers[:, None]).sum(-1)], -1
    )
    materials = np.concatenate([boxes.rgb**2, boxes.second_rgb**2, boxes.pattern], 1)

    def on_faces(values: NDArray[np.float32]) -> Tensor:
        doubled = np.repeat(values, 2, axis=1).reshape(count * 6, -1)
        return torch.from_numpy(np.ascontiguousarray(doubled)).to(device)

    return Surfaces(
        torch.from_numpy(np.ascontiguousarray(normals)).to(device),
        on_faces(u_axes),
        on_faces(v_axes),
        on_faces(origins),
        torch.from_numpy(materials.astype(np.float32)).to(device),
        torch.from_numpy(boxes.textures).to(device),
    )


def shade_hits(
    room: Room,
    surfaces: Surfaces,
    caster: RayCaster,
    rays: tuple[Tensor, Tensor],
    hits: Hits,
    pixel_rad: float,
) -> Tensor:
    """Return the light each ray brings back, (R, 3), linear; 1 is white under full light.

    Rays are origins and directions, (R, 3) each; `pixel_rad` is the angle one pixel spans.
    """
    origins, directions = rays
    distance = torch.where(hits.faces < 0, torch.ones_like(hits.distance), hits.distance)
    faces = hits.faces.clamp(min=0)
    points = origins + directions * distance[:, None]
    normals = surfaces.normals[faces]
    slant = (normals * directions).sum(1).neg().clamp(min=0.15)
    footprint = distance * pixel_rad / slant.sqrt()
    albedo, glow = paint(surfaces, faces, points, footprint)
    light = ambient_light(room, points, normals)
    for index, lamp in enumerate(room.lights):
        position = torch.tensor(lamp.position, dtype=torch.float32, device=points.device)
        to_lamp = position - points
        square = (to_lamp * to_lamp).sum(1)
        facing = ((normals * to_lamp).sum(1) * square.rsqrt()).clamp(min=0)
        strength = facing / (1 + square / lamp.reach_m**2)
        if index == 0:
            lit = strength > 0.01
            start = points[lit] + normals[lit] * 2e-3
            blocked = caster.is_blocked(start, (position - start) * 0.97)
            strength[lit] = strength[lit] * (1 - 0.85 * blocked.float())
        rgb = torch.tensor(lamp.rgb, dtype=torch.float32, device=points.device)
        light = light + strength[:, None] * rgb
    return albedo * (light + glow[:, None])


def paint(
    surfaces: Surfaces, faces: Tensor, points: Tensor, footprint: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the linear colour, (R, 3), and the glow, (R,), of points on faces."""
    boxes = faces // 6
    material = surfaces.materials[boxes]
    origin = surfaces.origins[faces]
    u = (points * surfaces.u_axes[faces]).sum(1) - origin[:, 0]
    v = (points * surfaces.v_axes[faces]).sum(1) - origin[:, 1]
    textures = surfaces.textures[boxes]
    share, gain = torch.zeros_like(u), torch.ones_like(u)
    noise: NoiseTables = noise_tables(str(points.device))
    for index, pattern in enumerate(PATTERNS.values()):
        rows = (textures == index).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        chosen = material[rows]
        part = FacePoints(
            u=u[rows] + chosen[:, 9],
            v=v[rows] + chosen[:, 10],
            height=v[rows],
            period=chosen[:, 6],
            strength=chosen[:, 7],
            footprint=footprint[rows],
            seed=boxes[rows],
        )
        share[rows], gain[rows] = pattern(part, noise)
    rgb, second = material[:, 0:3], material[:, 3:6]
    return (rgb + (second - rgb) * share[:, None]) * gain[:, None], material[:, 8]


def ambient_light(room: Room, points: Tensor, normals: Tensor) -> Tensor:
    """Return light from everywhere, less of it near other surfaces, (R, 3)."""
    length, width, height = room.size
    across = normals.abs()
    dim = 1 - 0.3 * (1 - across[:, 0]) * torch.exp((points[:, 0].abs() - length / 2) / 0.3)
    dim = dim * (1 - 0.3 * (1 - across[:, 1]) * torch.exp((points[:, 1].abs() - width / 2) / 0.3))
    upright = torch.minimum(points[:, 2], height - points[:, 2]).clamp(min=0)
    dim = dim * (1 - 0.35 * (1 - across[:, 2]) * torch.exp(upright / -0.25))
    dim = dim * (0.85 + 0.15 * normals[:, 2])
    color = torch.tensor(room.ambient, dtype=torch.float32, device=points.device)
    return dim[:, None] * color


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
    """Return pictures of linear light (S, H, W, 3) as uint8 RGB.

    `blur` is the share of each pixel that comes from its neighbours, `exposure` the gain, (S,)
    each.
    """
    device = light.device
    frames, height, width, _ = light.shape

    def column(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(device)[:, None, None, None]

    level = light.clamp(0, 4).sqrt().mean()
    gain = (sensor.brightness / level) ** 2 * column(exposure)
    x = torch.linspace(-1, 1, width, device=device)[None, :]
    y = torch.linspace(-1, 1, height, device=device)[:, None]
    corner = (1 - sensor.vignette * (x * x + y * y) / 2)[None, :, :, None]
    balance = torch.tensor(sensor.balance, dtype=torch.float32, device=device)
    image = (light * gain * corner * balance).clamp(0, 1).sqrt()
    image = smooth(smooth(image, column(blur), 1), column(blur), 2)
    grain = torch.from_numpy(noise_field(rng, frames, height, width)).to(device)
    image = image + grain * sensor.noise * (0.6 + 0.8 * image)
    return (image * 255 + 0.5).clamp(0, 255).to(torch.uint8).cpu().numpy()


def smooth(image: Tensor, share: Tensor, axis: int) -> Tensor:
    """Return the image with this share of each pixel taken from its two neighbours on an axis."""
    last = image.shape[axis] - 1
    before = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, last)], axis)
    after = torch.cat([image.narrow(axis, 1, last), image.narrow(axis, last, 1)], axis)
    return image + share * (0.5 * (before + after) - image)


def noise_field(
    rng: np.random.Generator, frames: int, height: int, width: int
) -> NDArray[np.float32]:
    """Return normal noise, (S, H, W, 3): one long row, cut at a random place for each frame.

    Drawing every number anew takes longer than everything else the sensor does.
    """
    size = height * width * 3
    row = rng.standard_normal(2 * size, dtype=np.float32)
    starts = rng.integers(0, size, frames)
    return np.stack([row[s : s + size] for s in starts]).reshape(frames, height, width, 3)
