# SPDX-License-Identifier: Apache-2.0
"""Find the first box each ray meets: Embree on a CPU, slab tests in PyTorch anywhere.

All backends answer with the index of the face (box * 6 + axis * 2 + positive side) and the
multiple of the ray's direction at which it is met. With directions of unit z in the camera that
multiple is the depth. Open3D and embreex both run Embree over two triangles a face; the PyTorch
caster tests rays against oriented boxes exactly and needs nothing else, so it runs where only a
GPU is at hand. Next: shading.py.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidllm_ros.data.synthrooms.rooms import BoxSet

BACKENDS = ("embreex", "open3d", "torch")
PAIR_BUDGET = 6_000_000  # ray-box pairs the PyTorch caster holds at once on a CPU

# The two triangles of each face: -x, +x, -y, +y, -z, +z over corners numbered 4 i + 2 j + k.
_QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
_TRIANGLES = np.array([[(q[0], q[1], q[2]), (q[0], q[2], q[3])] for q in _QUADS])  # (6, 2, 3)


@dataclass(frozen=True)
class Hits:
    """What rays meet first.

    Attributes:
        distance: multiple of the direction, (R,), inf where nothing is met.
        faces: box * 6 + axis * 2 + side, (R,), int32; -1 where nothing is met.
    """

    distance: Tensor
    faces: Tensor


class RayCaster(Protocol):
    """Answers rays against one room; rays are float32 tensors (R, 3) on `device`."""

    device: torch.device

    def first_hits(self, origins: Tensor, directions: Tensor) -> Hits: ...

    def is_blocked(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Return whether something lies strictly between origin and origin + direction, (R,)."""
        ...


def choose_backend(backend: str = "auto", device: str | torch.device | None = None) -> str:
    """Return the caster to use: Embree if there is one, else PyTorch; PyTorch on any GPU named.

    Raises:
        ValueError: no such backend.
    """
    if backend != "auto":
        if backend not in BACKENDS:
            raise ValueError(f"backend: expected auto or one of {BACKENDS}, got {backend!r}")
        return backend
    if device is not None and torch.device(device).type != "cpu":
        return "torch"
    for name in ("embreex", "open3d"):
        if importlib.util.find_spec(name) is not None:
            return name
    return "torch"


def build_caster(
    boxes: BoxSet, backend: str = "auto", device: str | torch.device | None = None
) -> RayCaster:
    """Return a caster for these boxes."""
    name = choose_backend(backend, device)
    if name == "torch":
        default = "cuda" if torch.cuda.is_available() else "cpu"
        return TorchCaster(boxes, torch.device(device or default))
    return EmbreexCaster(boxes) if name == "embreex" else Open3dCaster(boxes)


def triangulate(boxes: BoxSet) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return vertices (8 N, 3) and triangles (12 N, 3); triangle // 2 is the face."""
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], np.float32)
    local = signs[None] * boxes.halves[:, None]  # (N, 8, 3)
    world = np.einsum("nij,nkj->nki", boxes.rotations, local) + boxes.centers[:, None]
    triangles = _TRIANGLES.reshape(1, 12, 3) + 8 * np.arange(len(boxes))[:, None, None]
    return world.reshape(-1, 3).astype(np.float32), triangles.reshape(-1, 3)


class EmbreexCaster:
    """Embree through embreex: quick to import."""

    device = torch.device("cpu")

    def __init__(self, boxes: BoxSet) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        vertices, triangles = triangulate(boxes)
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(self._scene, vertices, triangles.astype(np.int32))

    def first_hits(self, origins: Tensor, directions: Tensor) -> Hits:
        found = self._scene.run(_array(origins), _array(directions), output=True)
        triangle = torch.from_numpy(found["primID"])
        distance = torch.from_numpy(found["tfar"]).masked_fill_(triangle < 0, torch.inf)
        return Hits(distance, triangle >> 1)  # -1 stays -1

    def is_blocked(self, origins: Tensor, directions: Tensor) -> Tensor:
        reach = np.ones(len(origins), np.float32)
        found = self._scene.run(_array(origins), _array(directions), reach, query="OCCLUDED")
        return torch.from_numpy(found) >= 0


class Open3dCaster:
    """Embree through Open3D's RaycastingScene; importing Open3D takes seconds."""

    device = torch.device("cpu")

    def __init__(self, boxes: BoxSet) -> None:
        import open3d

        tensor: Any = open3d.core.Tensor
        vertices, triangles = triangulate(boxes)
        self._tensor = tensor
        self._scene = open3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(tensor(vertices), tensor(triangles.astype(np.uint32)))
        self._threads = torch.get_num_threads()

    def first_hits(self, origins: Tensor, directions: Tensor) -> Hits:
        found = self._scene.cast_rays(self._rays(origins, directions), nthreads=self._threads)
        distance = torch.from_numpy(found["t_hit"].numpy())
        triangle = torch.from_numpy(found["primitive_ids"].numpy().astype(np.int32))
        return Hits(distance, torch.where(torch.isinf(distance), -1, triangle >> 1))

    def is_blocked(self, origins: Tensor, directions: Tensor) -> Tensor:
        rays = self._rays(origins, directions)
        found = self._scene.test_occlusions(rays, tnear=0.0, tfar=1.0, nthreads=self._threads)
        return torch.from_numpy(found.numpy())

    def _rays(self, origins: Tensor, directions: Tensor) -> Any:
        return self._tensor(np.concatenate([_array(origins), _array(directions)], 1))


class TorchCaster:
    """Slab tests of every ray against every box, a chunk at a time."""

    def __init__(self, boxes: BoxSet, device: torch.device) -> None:
        self.device = device
        rotations = torch.from_numpy(boxes.rotations).to(device)
        self._centers = torch.from_numpy(boxes.centers).to(device)
        self._halves = torch.from_numpy(boxes.halves).to(device)
        self._to_box = rotations.transpose(1, 2).contiguous()  # world axes to the box's
        self._shift = torch.einsum("nij,nj->ni", self._to_box, self._centers)
        self._chunk = PAIR_BUDGET * (1 if device.type == "cpu" else 16) // max(len(boxes), 1)

    def first_hits(self, origins: Tensor, directions: Tensor) -> Hits:
        distances, faces = [], []
        for start in range(0, len(origins), self._chunk):
            rows = slice(start, start + self._chunk)
            enter, axis, sign = self._slabs(origins[rows], directions[rows])
            distance, box = enter.min(1)
            pick = box[:, None]
            side = (sign.gather(1, pick)[:, 0]).long()
            face = box * 6 + axis.gather(1, pick)[:, 0].long() * 2 + side
            distances.append(distance)
            faces.append(torch.where(torch.isinf(distance), -1, face).int())
        return Hits(torch.cat(distances), torch.cat(faces))

    def is_blocked(self, origins: Tensor, directions: Tensor) -> Tensor:
        blocked = []
        for start in range(0, len(origins), self._chunk):
            rows = slice(start, start + self._chunk)
            enter, _, _ = self._slabs(origins[rows], directions[rows])
            blocked.append((enter < 1.0).any(1))
        return torch.cat(blocked)

    def _slabs(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each ray and box (R, N): entry (inf if missed), its axis, positive side."""
        enter = torch.full((1, 1), -torch.inf, device=self.device)
        leave = torch.full((1, 1), torch.inf, device=self.device)
        axis = torch.zeros((1, 1), dtype=torch.int8, device=self.device)
        sign = torch.zeros((1, 1), dtype=torch.bool, device=self.device)
        for i in range(3):
            o = _along(origins, self._to_box[:, i]) - self._shift[:, i]  # (R, N)
            d = _along(directions, self._to_box[:, i])
            d = torch.where(d.abs() < 1e-12, torch.full_like(d, 1e-12), d)
            inverse = 1.0 / d
            half = self._halves[:, i] * inverse.abs()
            middle = -o * inverse
            near, far = middle - half, middle + half
            later = near > enter
            enter = torch.where(later, near, enter)
            axis = torch.where(later, torch.full_like(axis, i), axis)
            sign = torch.where(later, d < 0, sign)
            leave = torch.minimum(leave, far)
        missed = (enter > leave) | (enter <= 0)
        return enter.masked_fill(missed, torch.inf), axis, sign


def _along(vectors: Tensor, axes: Tensor) -> Tensor:
    """Return the length of each vector along each axis, (R, N); no matmul, so never in TF32."""
    total = vectors[:, 0:1] * axes[:, 0]
    total = torch.addcmul(total, vectors[:, 1:2], axes[:, 1])
    return torch.addcmul(total, vectors[:, 2:3], axes[:, 2])


def interleave(rows: Tensor) -> Tensor:
    """Return vectors kept as three rows, (3, R), as one vector a row, (R, 3)."""
    if rows.device.type != "cpu":
        return rows.t().contiguous()
    merged = cv2.merge([row.contiguous().numpy() for row in rows])  # a transpose, but faster
    return torch.from_numpy(merged.reshape(-1, 3))


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.numpy(), np.float32)
