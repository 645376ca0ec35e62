# SPDX-License-Identifier: Apache-2.0
"""A walk through an empty box of a room, as a network with known errors would reconstruct it."""

from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.geometry.camera import K_from_fov
from vidllm_ros.geometry.transforms import (
    T_WORLD_OPTICAL_LEVEL,
    invert_transform,
    make_transform,
    transform_points,
)
from vidllm_ros.streaming.session import Session, SessionSettings
from vidllm_ros.streaming.window import WindowSettings
from vidllm_ros.structures import Answer, GroundedBox, Reconstruction, SceneContext

HEIGHT, WIDTH = 42, 56
PERIOD_NS = 200_000_000
ROOM_LOW, ROOM_HIGH = np.array([-3.0, -2.5, -1.4]), np.array([3.0, 2.5, 1.3])
K = K_from_fov(0.9, 1.1, HEIGHT, WIDTH)
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
WINDOWS = WindowSettings(size=16, stride=4, min_frames=8, min_shared=4, min_motion=0.0)
CHAIR = GroundedBox("chair", 0.8, np.array([1.5, 0.5, -1.0]), np.array([0.5, 0.6, 0.8]))


@dataclass(frozen=True)
class Errors:
    """How wrong a window is: every window draws its own.

    Attributes:
        scale: spread of a window's scale, a share.
        turn_rad, shift_m: of each pose.
        depth: noise of each pixel, a share.
        wild_frames: share of the frames that lie somewhere else.
    """

    scale: float = 0.0
    turn_rad: float = 0.0
    shift_m: float = 0.0
    depth: float = 0.0
    wild_frames: float = 0.0


def true_pose(i):
    """T_room_camera of frame i: once around, looking about, level at the start."""
    angle = i * 0.03
    R = Rotation.from_euler("zyx", [angle + 0.3 * np.sin(i * 0.1), 0.1 * np.sin(i * 0.13), 0])
    center = [1.2 * np.sin(angle), 0.9 * (1 - np.cos(angle)), 0.1 * np.sin(i * 0.07)]
    level = T_WORLD_OPTICAL_LEVEL[:3, :3]
    return make_transform(R.as_matrix() @ level, center)


@cache
def true_depth(i):
    """Depth of the walls in frame i, (H, W), m."""
    T_room_camera = true_pose(i)
    v, u = np.indices((HEIGHT, WIDTH))
    rays = np.stack(
        [(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((HEIGHT, WIDTH))], -1
    )
    direction = rays @ T_room_camera[:3, :3].T
    center = T_room_camera[:3, 3]
    with np.errstate(divide="ignore"):
        to_walls = np.where(direction > 0, ROOM_HIGH - center, ROOM_LOW - center) / direction
    return to_walls.min(axis=-1)


@dataclass
class RoomBackend:
    """Reconstructs from the stamps alone: frame i is the one of stamp i * PERIOD_NS."""

    errors: Errors = field(default_factory=Errors)
    seed: int = 0
    fails: bool = False
    boxes: tuple[GroundedBox, ...] = (CHAIR,)

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)

    def reconstruct(self, frames):
        if self.fails:
            raise MemoryError("simulated: out of memory")
        return self.window([stamp // PERIOD_NS for stamp in frames.stamps_ns])

    def window(self, places):
        rng, errors = self.rng, self.errors
        truth = np.stack([true_pose(i) for i in places])
        poses = invert_transform(truth[0]) @ truth
        count = len(places)
        scale = np.exp(rng.normal(0, errors.scale)) if errors.scale else 1.0
        turn = Rotation.from_rotvec(rng.normal(0, 1, (count, 3)) * errors.turn_rad).as_matrix()
        poses = poses @ make_transform(turn, rng.normal(0, 1, (count, 3)) * errors.shift_m)
        wild = rng.uniform(size=count) < errors.wild_frames
        poses[wild, :3, 3] += rng.normal(0, 1, (int(wild.sum()), 3))
        poses[:, :3, 3] *= scale
        poses = invert_transform(poses[0]) @ poses
        depth = np.stack([true_depth(int(i)) for i in places])
        depth *= scale * np.exp(rng.normal(0, 1, depth.shape) * errors.depth)
        stamps = tuple(int(i) * PERIOD_NS for i in places)
        scene = SceneContext(torch.zeros(1, 2), torch.ones(1, 3), stamps, poses)
        return Reconstruction(
            images=np.full((count, HEIGHT, WIDTH, 3), 120, np.uint8),
            stamps_ns=stamps,
            depth=depth.astype(np.float32),
            valid=np.ones(depth.shape, bool),
            confidence=np.ones(depth.shape, np.float32),
            K=np.tile(K, (count, 1, 1)),
            T_world_camera=poses,
            scale=scale,
            scale_spread=0.0,
            scene=scene,
        )

    def detect(self, scene):
        """The boxes of the room, in the window's world."""
        T_window_room = invert_transform(true_pose(scene.stamps_ns[0] // PERIOD_NS))
        return tuple(transform_box(T_window_room, box) for box in self.boxes)

    def answer(self, scene, question):
        return Answer(f"heard {question}", 0.7, self.detect(scene), scene.stamps_ns)

    def ground(self, scene, phrase):
        return self.detect(scene)

    def describe(self, scene, box):
        return Answer("a chair", 0.5, (box,), scene.stamps_ns)


def trajectory_error_m(poses_map, places):
    """RMS distance of camera centres once the first camera is laid on its true pose, m."""
    truth = np.stack([true_pose(i) for i in places])
    T = truth[0] @ invert_transform(poses_map[0])
    off = transform_points(T, poses_map[:, :3, 3]) - truth[:, :3, 3]
    return float(np.sqrt((off**2).sum(axis=1).mean()))


@pytest.fixture
def room():
    """The names above: tests cannot import this file."""
    return SimpleNamespace(
        Backend=RoomBackend,
        Errors=Errors,
        CHAIR=CHAIR,
        IMAGE=IMAGE,
        WINDOWS=WINDOWS,
        PERIOD_NS=PERIOD_NS,
        true_pose=true_pose,
        trajectory_error_m=trajectory_error_m,
    )


@pytest.fixture
def make_session(room):
    def make(backend=None, **changes):
        settings = SessionSettings(window=WINDOWS, voxel_m=0.1, map_frame="home", **changes)
        return Session(backend or room.Backend(), settings)

    return make


@pytest.fixture
def walk(room):
    """Add frames first..first + count and process each window that is ready."""

    def run(session, count, first=0, process=True):
        results = []
        for i in range(first, first + count):
            if session.add_frame(i * room.PERIOD_NS, IMAGE).is_ready and process:
                results.append(session.process_next())
        return results

    return run
