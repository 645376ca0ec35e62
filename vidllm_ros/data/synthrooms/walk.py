# SPDX-License-Identifier: Apache-2.0
"""Lead a hand-held camera through a room: smooth, a little shaky, clear of furniture.

Several walks are drawn; the one that sees the most objects from a fair distance wins, so that a
window shows most of its room. One walk in six is hard: it stands still and turns, or ends before
one thing so close that it fills the picture, or ends before a bare wall.
Next: raycast.py, which finds what each pixel sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.synthrooms.layout import rectangle_corners
from vidllm_ros.data.synthrooms.rooms import Room

CELL_M = 0.05
CLEARANCE_M = 0.3
WALK_STREAM = 11
KIND_STREAM = 12
CANDIDATES = 14
HARD_SHARES = {"turn": 0.06, "close-up": 0.05, "blank wall": 0.05}  # of all rooms
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Walk:
    """Poses and the lens.

    Attributes:
        T_world_camera: camera's optical frame in the room, (S, 4, 4), m.
        fov_x_rad: horizontal field of view.
        blur: how much of a pixel's colour comes from its neighbours, (S,), 0 to 0.3.
        exposure: brightness of each frame against the first, (S,).
        kind: "walk", or one of `HARD_SHARES`.
    """

    T_world_camera: Floats
    fov_x_rad: float
    blur: Floats
    exposure: Floats
    kind: str = "walk"


@dataclass(frozen=True)
class Gaze:
    """Where a hard walk ends up looking: heading and pitch, rad.

    Attributes:
        score: how well it serves the walk's kind, about 0 to 1.
    """

    yaw: float
    pitch: float
    score: float


class NoRoomToWalkError(ValueError):
    """The furniture leaves no floor to walk on."""


def free_floor(room: Room) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return how far each floor cell is from walls and furniture, m, and the corner.

    Returns:
        (rows along y, columns along x) of CELL_M, and the world x, y of the first cell's centre.
    """
    length, width, _ = room.size
    columns, rows = int(length / CELL_M), int(width / CELL_M)
    first = (-(columns - 1) * CELL_M / 2, -(rows - 1) * CELL_M / 2)
    free = np.ones((rows + 2, columns + 2), np.uint8)
    free[[0, -1]] = 0
    free[:, [0, -1]] = 0
    for rectangle in room.obstacles:
        corners = np.array(rectangle_corners(rectangle))
        pixels = np.round((corners - first) / CELL_M).astype(np.int32) + 1
        cv2.fillConvexPoly(free, pixels, 0)
    distance = cv2.distanceTransform(free, cv2.DIST_L2, 5)[1:-1, 1:-1]
    return distance.astype(np.float32) * np.float32(CELL_M), first


def walk_kind(seed: int) -> str:
    """Return the kind of a seed's walk, the same for all attempts, so that shares hold."""
    draw = float(np.random.default_rng([seed, KIND_STREAM]).random())
    for kind, share in HARD_SHARES.items():
        if draw < share:
            return kind
        draw -= share
    return "walk"


def make_walk(room: Room, frames: int, seed: int, attempt: int = 0) -> Walk:
    """Return the walk of a seed.

    Raises:
        NoRoomToWalkError: there is less than half a square metre to stand on.
    """
    rng = np.random.default_rng([seed, WALK_STREAM, attempt])
    distance, first = free_floor(room)
    open_cells = (distance > CLEARANCE_M + CELL_M).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(open_cells, connectivity=4)
    if count < 2 or stats[1:, cv2.CC_STAT_AREA].max() * CELL_M**2 < 0.5:
        raise NoRoomToWalkError(f"room {room.seed}: no floor to walk on")
    region = regions == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    fov_x = math.radians(float(rng.uniform(50, 80)))
    kind = walk_kind(seed)
    most_m = {"turn": 0.0, "walk": 3.2}.get(kind, 1.6)
    best, best_score = None, -math.inf
    for _ in range(CANDIDATES):
        path = draw_path(rng, region, first, frames, rng.uniform(min(1.0, most_m), most_m))
        if path is None:
            continue
        yaw, gaze = draw_yaw(rng, room, path), None
        score = score_walk(room, path, yaw, fov_x) + float(rng.normal(0, 0.7))
        if kind in GAZES:
            gaze = GAZES[kind](room, path[-1], fov_x)
            yaw = gaze.yaw + (1 - settle(frames)) * (yaw - yaw[-1])
            score += 12 * gaze.score
        if score > best_score:
            best, best_score = (path, yaw, gaze), score
    if best is None:
        raise NoRoomToWalkError(f"room {room.seed}: no path of {frames} frames found")
    poses = shake(rng, *best)
    exposure = np.exp(np.cumsum(rng.normal(0, 0.012, frames)))
    blur = np.clip(rng.normal(0.12, 0.05, frames), 0.02, 0.28)
    return Walk(poses, fov_x, blur, exposure / exposure[0], kind)


def settle(frames: int) -> Floats:
    """Return how far the gaze of a hard walk has come to rest, (frames,), 0 to 1, smoothly."""
    t = np.clip((np.linspace(0, 1, frames) - 0.2) / 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def gaze_close(room: Room, end: Floats, fov_x: float) -> Gaze:
    """Look at the nearest thing on the floor."""
    best = Gaze(0.0, 0.0, -1.0)
    for item in room.objects:
        center, size = np.asarray(item.box.center, float), np.asarray(item.box.size, float)
        if center[2] - size[2] / 2 > 0.3 or size[2] < 0.35 or item.label == "curtain":
            continue
        offset = center[:2] - end
        away = float(np.hypot(*offset))
        clear = max(away - float(max(size[:2])) / 2, 0.1)
        if 1.5 - clear > best.score:
            drop = 1.4 - center[2] - 0.25 * size[2]  # its upper half, from the eyes' height
            pitch = -math.atan2(drop, max(away, 0.3))
            heading = math.atan2(offset[1], offset[0])
            best = Gaze(heading, min(max(pitch, -0.6), 0.05), 1.5 - clear)
    return best


def gaze_blank(room: Room, end: Floats, fov_x: float) -> Gaze:
    """Look where the fewest objects and the nearest wall are."""
    centers = np.array([item.box.center[:2] for item in room.objects]) - end
    reach = np.array([max(item.box.size[:2]) / 2 for item in room.objects])
    away = np.hypot(centers[:, 0], centers[:, 1]).clip(0.2)
    half = np.arctan2(reach, away)
    bearing = np.arctan2(centers[:, 1], centers[:, 0])
    headings = np.linspace(-math.pi, math.pi, 48, endpoint=False)
    off = np.abs((bearing - headings[:, None] + math.pi) % (2 * math.pi) - math.pi)
    cover = (fov_x / 2 + half - off).clip(0, None)
    covered = np.minimum(cover, 2 * half).sum(1) / fov_x  # (48,)
    ahead = wall_distance(room, end[None], headings[:, None])[:, 0]
    scores = 1.0 - covered - 0.15 * ahead
    index = int(np.argmax(scores))
    return Gaze(float(headings[index]), -0.05, float(scores[index]))


GAZES = {"close-up": gaze_close, "blank wall": gaze_blank}


def draw_path(
    rng: np.random.Generator,
    region: NDArray[np.bool_],
    first: tuple[float, float],
    frames: int,
    travel_m: float,
) -> Floats | None:
    """Return a smooth path on the open floor of about this length, (frames, 2), or None."""
    cells = np.argwhere(region)
    for _ in range(6):
        start = cells[int(rng.integers(len(cells)))][::-1] * CELL_M + np.array(first)
        heading = float(rng.uniform(-math.pi, math.pi))
        bends = heading + np.cumsum(rng.normal(0, 0.5, 4))
        steps = np.stack([np.cos(bends), np.sin(bends)], -1) * travel_m / 4
        nodes = np.concatenate([start[None], start + np.cumsum(steps, 0)])
        path = catmull_rom(nodes, frames)
        grid = np.round((path - first) / CELL_M).astype(int)
        inside = ((grid >= 0) & (grid < np.array(region.shape)[::-1])).all()
        if inside and region[grid[:, 1], grid[:, 0]].all():
            return path
        travel_m *= 0.9
    return None


def catmull_rom(nodes: Floats, count: int) -> Floats:
    """Return `count` points, evenly spaced in the parameter, of a curve through the nodes."""
    padded = np.concatenate([2 * nodes[:1] - nodes[1:2], nodes, 2 * nodes[-1:] - nodes[-2:-1]])
    position = np.linspace(0, len(nodes) - 1, count)
    index = np.minimum(position.astype(int), len(nodes) - 2)
    t = (position - index)[:, None]
    p0, p1, p2, p3 = (padded[index + k] for k in range(4))
    return 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )


def draw_yaw(rng: np.random.Generator, room: Room, path: Floats) -> Floats:
    """Return where the camera looks, (frames,), rad: a sweep about something worth seeing."""
    target = room.objects[int(rng.integers(len(room.objects)))].box.center[:2]
    middle = len(path) // 2
    aim = target * rng.uniform(0.3, 1.0)
    center = math.atan2(aim[1] - path[middle, 1], aim[0] - path[middle, 0])
    sweep = math.radians(float(rng.uniform(50, 220))) * float(rng.choice([-1, 1]))
    t = np.linspace(0, 1, len(path))
    sway = rng.normal(0, 0.15) * np.sin(2 * math.pi * (t * rng.uniform(0.7, 1.6) + rng.random()))
    ease = t + rng.uniform(0, 0.12) * np.sin(2 * math.pi * t)
    return center + sweep * (ease - 0.5) + sway


def score_walk(room: Room, path: Floats, yaw: Floats, fov_x: float) -> float:
    """Return how much of the room the walk shows: objects well in view, less what is too near."""
    centers = np.array([item.box.center[:2] for item in room.objects])
    sizes = np.array([item.box.size.max() for item in room.objects])
    offset = centers[None] - path[:, None]
    away = np.hypot(offset[..., 0], offset[..., 1])
    bearing = np.arctan2(offset[..., 1], offset[..., 0]) - yaw[:, None]
    bearing = np.abs((bearing + math.pi) % (2 * math.pi) - math.pi)
    seen = (bearing < fov_x * 0.45) & (away > 0.6 * sizes[None] + 0.3)
    near = wall_distance(room, path, yaw) < 1.2
    shown = (seen.sum(0) >= 2).sum() + 0.2 * seen.sum(1).mean() + 0.4 * min(seen[0].sum(), 5)
    travel = np.hypot(*np.diff(path, axis=0).T).sum()
    return float(shown - 6.0 * near.mean() + 0.8 * min(travel, 2.0))


def wall_distance(room: Room, xy: Floats, yaw: Floats) -> Floats:
    """Return how far the wall ahead is from places (S, 2) along headings that broadcast, m."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    ahead_x = (room.size[0] / 2 - xy[:, 0] * np.sign(cos)) / np.abs(cos).clip(0.05)
    ahead_y = (room.size[1] / 2 - xy[:, 1] * np.sign(sin)) / np.abs(sin).clip(0.05)
    return np.minimum(ahead_x, ahead_y)


def smooth_noise(rng: np.random.Generator, frames: int, columns: int) -> Floats:
    """Return noise of unit size whose neighbours agree, (frames, columns)."""
    kernel = np.array([1.0, 2.0, 3.0, 2.0, 1.0])
    raw = rng.normal(0, 1, (frames + len(kernel) - 1, columns))
    windows = np.lib.stride_tricks.sliding_window_view(raw, len(kernel), axis=0)
    return windows @ (kernel / np.linalg.norm(kernel))


def shake(rng: np.random.Generator, path: Floats, yaw: Floats, gaze: Gaze | None = None) -> Floats:
    """Return poses (S, 4, 4) with a hand's height, tilt and tremor."""
    frames = len(path)
    noise = smooth_noise(rng, frames, 6)
    step = np.sin(2 * math.pi * (np.linspace(0, rng.uniform(1, 4), frames) + rng.random()))
    height = rng.uniform(1.15, 1.65) + 0.012 * step + 0.01 * noise[:, 0]
    drift = np.radians(rng.normal(0, 3.0)) * np.linspace(-1, 1, frames)
    pitch = np.radians(rng.uniform(-23, -7)) + drift + np.radians(0.7) * noise[:, 1]
    if gaze is not None:
        rest = settle(frames)
        pitch = (1 - rest) * pitch + rest * (gaze.pitch + np.radians(0.7) * noise[:, 1])
    roll = np.radians(rng.normal(0, 1.5)) + np.radians(0.6) * noise[:, 2]
    yaw = yaw + np.radians(0.8) * noise[:, 3]
    xy = path + 0.008 * noise[:, 4:6]
    return poses_from_angles(np.column_stack([xy, height]), yaw, pitch, roll)


def poses_from_angles(position: Floats, yaw: Floats, pitch: Floats, roll: Floats) -> Floats:
    """Return camera-to-world poses from angles in the z-up room, (S, 4, 4).

    Yaw turns from +x to +y, pitch up is positive, roll turns the image about the optical axis.
    """
    forward = np.stack(
        [np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], -1
    )
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], -1)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, 0] = c * right + s * down
    poses[:, :3, 1] = c * down - s * right
    poses[:, :3, 2] = forward
    poses[:, :3, 3] = position
    return poses
