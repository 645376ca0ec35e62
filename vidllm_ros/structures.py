# SPDX-License-Identifier: Apache-2.0
"""The frozen dataclasses that cross folders; shapes are checked when they are built.

Everything here is plain numpy or torch: no clock, no topic, no file. Frames are named as in
docs/conventions.md: `T_a_b` maps coordinates in b to a, quaternions are x y z w, lengths are
metres.
Next: geometry/ for the functions over these arrays, network/vidllm.py for what fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float32] | NDArray[np.float64]


def check_shape(name: str, array: np.ndarray | torch.Tensor, shape: Sequence[int | None]) -> None:
    """Raise unless `array` has this shape; None in `shape` accepts any length.

    Raises:
        ValueError: the shape differs.
    """
    actual = tuple(array.shape)
    fits = len(actual) == len(shape) and all(
        want is None or want == got for want, got in zip(shape, actual, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name}: expected shape ({wanted}), got {actual}")


@dataclass(frozen=True)
class Corners:
    """Points of the scene that one image shows, under numbers that stay from image to image.

    Attributes:
        ids: (n,), each once.
        uv: where they are, (n, 2), px, integer pixel centres; may lie outside of a cropped image.
    """

    ids: NDArray[np.int64]
    uv: NDArray[np.float64]

    def __post_init__(self) -> None:
        check_shape("uv", self.uv, (len(self.ids), 2))


@dataclass(frozen=True)
class Frames:
    """A run of camera images of one size, oldest first.

    Attributes:
        images: RGB, (S, H, W, 3), uint8.
        stamps_ns: acquisition times, one an image, never decreasing.
        frame_id: the optical frame (x right, y down, z forward; REP 103) the images were taken in.
        K: intrinsics of these images, (S, 3, 3), px, or None where the camera is uncalibrated.
        corners: followed through the film these frames were chosen from, one entry an image, or
            None where nobody followed any.
    """

    images: NDArray[np.uint8]
    stamps_ns: tuple[int, ...]
    frame_id: str = "camera_optical_frame"
    K: NDArray[np.float64] | None = None
    corners: tuple[Corners, ...] | None = None

    def __post_init__(self) -> None:
        check_shape("images", self.images, (None, None, None, 3))
        if self.images.dtype != np.uint8:
            raise TypeError(f"images: expected uint8 RGB, got {self.images.dtype}; convert first")
        if len(self.images) == 0:
            raise ValueError("images: expected at least one image, got none")
        if len(self.stamps_ns) != len(self.images):
            raise ValueError(
                f"stamps_ns: expected {len(self.images)}, one an image, got {len(self.stamps_ns)}"
            )
        if self.K is not None:
            check_shape("K", self.K, (len(self.images), 3, 3))
        if self.corners is not None and len(self.corners) != len(self.images):
            raise ValueError(
                f"corners: expected {len(self.images)}, one an image, got {len(self.corners)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Sequence[int]) -> Frames:
        """Return the frames at these indices, in this order."""
        chosen = list(indices)
        return Frames(
            images=self.images[chosen],
            stamps_ns=tuple(self.stamps_ns[i] for i in chosen),
            frame_id=self.frame_id,
            K=None if self.K is None else self.K[chosen],
            corners=None if self.corners is None else tuple(self.corners[i] for i in chosen),
        )


@dataclass(frozen=True)
class GroundedBox:
    """A metric oriented box with a name.

    Attributes:
        label: what it is, in words.
        score: how sure the network is, 0 to 1.
        center: (3,), m, in the frame its holder names.
        size: full edge lengths along the box's own axes, (3,), m.
        quat_xyzw: rotation from the box's axes to the holder's frame, (4,), unit, w >= 0.
        object_id: stable name of the object over time; empty before tracking.
        last_seen_ns: stamp of the newest frame that shows it; 0 where unknown.
    """

    label: str
    score: float
    center: FloatArray
    size: FloatArray
    quat_xyzw: FloatArray = field(default_factory=lambda: np.array([0.0, 0.0, 0.0, 1.0]))
    object_id: str = ""
    last_seen_ns: int = 0

    def __post_init__(self) -> None:
        check_shape("center", self.center, (3,))
        check_shape("size", self.size, (3,))
        check_shape("quat_xyzw", self.quat_xyzw, (4,))
        if not (np.isfinite(self.center).all() and np.isfinite(self.size).all()):
            raise ValueError(f"{self.label}: box is not finite: {self.center}, {self.size}")
        if (np.asarray(self.size, float) < 0).any():
            raise ValueError(f"size: expected edge lengths >= 0 m, got {self.size}")


@dataclass(frozen=True)
class SceneContext:
    """What a question needs of a window: pooled 3D patches, on the network's device.

    Attributes:
        tokens: 3D patches after pooling, before the projector, (M, C); with SIGHT more channels
            where the network has `scene_places` (network/scene_places.py), fine ones too.
        positions: centre of each token, (M, 3), m, in the scene's frame.
        stamps_ns: stamps of the window's frames, (S,).
        T_world_camera: camera poses in the window's world, (S, 4, 4), m.
        T_world_scene: from the scene's frame to the window's world, (4, 4), m; the two are the
            same unless the network reads scenes along the room (network/scene_frame.py).
        fine: tokens (M', C) and positions (M', 3) that are pooled less, where the box decoder
            reads those; else None.
        extent_m: distance of the farthest token from the window's origin.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    stamps_ns: tuple[int, ...]
    T_world_camera: NDArray[np.float64]
    T_world_scene: NDArray[np.float64] = field(default_factory=lambda: np.eye(4), kw_only=True)
    fine: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_shape("T_world_scene", self.T_world_scene, (4, 4))
        if self.fine is not None:
            check_shape("fine tokens", self.fine[0], (None, None))
            check_shape("fine positions", self.fine[1], (len(self.fine[0]), 3))
        check_shape("tokens", self.tokens, (None, None))
        check_shape("positions", self.positions, (len(self.tokens), 3))
        check_shape("T_world_camera", self.T_world_camera, (len(self.stamps_ns), 4, 4))

    @property
    def extent_m(self) -> float:
        return float(self.positions.norm(dim=-1).max()) if len(self.positions) else 0.0


@dataclass(frozen=True)
class Reconstruction:
    """Metric geometry of one window, in the window's world: the first camera's optical frame.

    Attributes:
        images: the images the network saw, (S, H, W, 3), uint8 RGB.
        stamps_ns: one a frame.
        depth: z along the optical axis, (S, H, W), m, float32; meaningless where not valid.
        valid: which depths mean something, (S, H, W).
        confidence: of the depth, (S, H, W), >= 1 (VGGT's 1 + exp), higher is surer.
        K: intrinsics of `images`, (S, 3, 3), px; the network puts cx at W/2 and cy at H/2.
        T_world_camera: poses, (S, 4, 4), m; the first is the identity up to the network's error.
        scale: metres per unit of the relative reconstruction, median over sampled frames.
        scale_spread: inter-quartile range of the per-frame scales over their median.
        scene: what questions are asked of.
        frame_id: optical frame of the images.
    """

    images: NDArray[np.uint8]
    stamps_ns: tuple[int, ...]
    depth: NDArray[np.float32]
    valid: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    K: NDArray[np.float64]
    T_world_camera: NDArray[np.float64]
    scale: float
    scale_spread: float
    scene: SceneContext
    frame_id: str = "camera_optical_frame"

    def __post_init__(self) -> None:
        check_shape("images", self.images, (None, None, None, 3))
        frames, height, width = self.images.shape[:3]
        for name in ("depth", "valid", "confidence"):
            check_shape(name, getattr(self, name), (frames, height, width))
        check_shape("K", self.K, (frames, 3, 3))
        check_shape("T_world_camera", self.T_world_camera, (frames, 4, 4))


@dataclass(frozen=True)
class Answer:
    """Words with their evidence.

    Attributes:
        text: the answer.
        confidence: geometric mean probability of its tokens, 0 to 1.
        boxes: the objects it rests on, best first, in the frame its giver names.
        stamps_ns: the frames it saw.
    """

    text: str
    confidence: float
    boxes: tuple[GroundedBox, ...]
    stamps_ns: tuple[int, ...]
