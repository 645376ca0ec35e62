# SPDX-License-Identifier: Apache-2.0
"""What a session needs of a network, and a stand-in that keeps the contract without one.

`VidLLM` satisfies `Backend` as it is. The stand-in exists to try launch files, transport and the
node's life cycle; it sees nothing, says so in every answer and is never a default.
Next: session.py, the only caller.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch

from vidllm_ros.geometry.camera import K_from_fov, unproject
from vidllm_ros.geometry.image import resize_frames
from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction, SceneContext

STAND_IN = "stand-in"


class Backend(Protocol):
    """A network that reconstructs windows and answers about them; called by one thread.

    Boxes are in the window's world, the optical frame of its first camera. Frames are named by
    their stamps, so a backend may keep what it computed of a frame for the next window. A backend
    that can do with less memory is a `ThriftyBackend` as well.
    """

    def reconstruct(self, frames: Frames) -> Reconstruction:
        """Return metric geometry and the scene that questions are asked of."""
        ...

    def answer(self, scene: SceneContext, question: str) -> Answer:
        """Answer in words, with the boxes the answer rests on."""
        ...

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]:
        """Find the objects of the label vocabulary."""
        ...

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        """Find what a phrase names, best first; nothing found is an empty tuple."""
        ...

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer:
        """Say what stands in a box."""
        ...


@runtime_checkable
class ThriftyBackend(Protocol):
    """What a session uses of a backend that has it: frames made small once, memory given back.

    Without these a session keeps frames as they come and, short of memory, computes fewer of them.
    """

    def prepare(self, frames: Frames, shrink: float = 1.0) -> Frames:
        """Bring frames to the size the network sees; any thread may call it.

        Args:
            frames: of any size; prepared ones come back as they are.
            shrink: share of that size.

        Raises:
            ValueError: the frames cannot be used.
        """
        ...

    def reconstruct(self, frames: Frames, shrink: float = 1.0) -> Reconstruction:
        """As `Backend.reconstruct`, with smaller images."""
        ...

    def forget_frames(self) -> None:
        """Give back the memory of frames seen before."""
        ...


def uses_corners(backend: Backend) -> bool:
    """Say whether a backend reads `Frames.corners`; one that says nothing of it is given them."""
    return bool(getattr(backend, "uses_corners", True))


class StandInBackend:
    """A backend without a network: a wall two metres ahead of a camera that slides sideways.

    Deterministic in the frames' stamps and sizes alone.
    """

    image_size = 112
    patch_size = 14
    wall_m = 2.0
    speed_m_s = 0.05
    fov_rad = 1.0
    uses_corners = False

    def reconstruct(self, frames: Frames) -> Reconstruction:
        """Return the wall, seen by cameras that move right at constant speed.

        Raises:
            ValueError: the images are smaller than a patch.
        """
        small = resize_frames(frames, self.image_size, self.patch_size, "width")
        count, height, width = small.images.shape[:3]
        fov_w = 2 * np.arctan(np.tan(self.fov_rad / 2) * width / height)
        K = np.tile(K_from_fov(self.fov_rad, fov_w, height, width), (count, 1, 1))
        poses = np.tile(np.eye(4), (count, 1, 1))
        elapsed_s = (np.array(frames.stamps_ns) - frames.stamps_ns[0]) * 1e-9
        poses[:, 0, 3] = self.speed_m_s * elapsed_s
        depth = np.full((count, height, width), self.wall_m, np.float32)
        wall = unproject(depth[0], K[0])[:: self.patch_size, :: self.patch_size].reshape(-1, 3)
        scene = SceneContext(
            tokens=torch.zeros(len(wall), 1),
            positions=torch.from_numpy(np.ascontiguousarray(wall)),
            stamps_ns=small.stamps_ns,
            T_world_camera=poses,
        )
        return Reconstruction(
            images=small.images,
            stamps_ns=small.stamps_ns,
            depth=depth,
            valid=np.ones(depth.shape, bool),
            confidence=np.ones(depth.shape, np.float32),
            K=K,
            T_world_camera=poses,
            scale=1.0,
            scale_spread=0.0,
            scene=scene,
            frame_id=frames.frame_id,
        )

    def answer(self, scene: SceneContext, question: str) -> Answer:
        text = f"{STAND_IN}: no network looked at these {len(scene.stamps_ns)} frames"
        return Answer(f"{text} to answer: {question}", 0.0, self.detect(scene), scene.stamps_ns)

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]:
        return self.ground(scene, STAND_IN)

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        # It stands still in the room, so windows that begin later see it farther left.
        travelled_m = self.speed_m_s * (scene.stamps_ns[0] % 10_000_000_000) * 1e-9
        center = np.array([0.25 - travelled_m, 0.0, self.wall_m])
        return (GroundedBox(phrase, 1.0, center, np.array([0.5, 0.5, 0.1])),)

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer:
        text = f"{STAND_IN}: no network looked at the box at {np.round(box.center, 2).tolist()} m"
        return Answer(text, 0.0, (box,), scene.stamps_ns)
