# SPDX-License-Identifier: Apache-2.0
"""Mask3D's proposals in the form LEO publishes: `mask/{scene}.mask.npz`, boxes of vertex masks.

A sparse matrix, instances by vertices of `{s}_vh_clean_2.ply`, best first; the field uses its
first 50 rows. A proposal's box is the range of its vertices in the axis-aligned world.
Next: labels.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from vidllm_ros.data.annotations.records import AnnotationError
from vidllm_ros.data.annotations.scannet_scene import (
    aligned_vertices,
    read_axis_alignment,
    scan_folder,
)

MASK_FOLDERS = ("mask", "scannet/mask")
MOST = 50
LAYOUT = "mask/{scene}.mask.npz    Mask3D proposals (optional): scipy sparse, proposals x vertices"
MAX_CACHED = 512


@dataclass(frozen=True)
class MaskProposal:
    """One detected instance.

    Attributes:
        row: its row in the published matrix.
        aabb: (6,), min x y z, max x y z, m, axis-aligned world.
    """

    row: int
    aabb: NDArray[np.float64]


def find_proposals(data_dir: Path, scene_id: str) -> Path | None:
    """Return the proposals' file of a scene, None where the data has none."""
    for folder in MASK_FOLDERS:
        path = data_dir / folder / f"{scene_id}.mask.npz"
        if path.is_file():
            return path
    return None


def read_proposals(data_dir: Path, scene_id: str) -> tuple[MaskProposal, ...] | None:
    """Read the boxes of a scene's first 50 proposals, None where the data has no file for it.

    Raises:
        AnnotationError: the matrix does not fit the mesh, or a proposal is empty.
    """
    return _read_proposals(data_dir.resolve(), scene_id)


@lru_cache(maxsize=MAX_CACHED)
def _read_proposals(data_dir: Path, scene_id: str) -> tuple[MaskProposal, ...] | None:
    path = find_proposals(data_dir, scene_id)
    if path is None:
        return None
    try:
        masks = sparse.load_npz(path).tocsr()
        masks.eliminate_zeros()  # stored zeros are no vertices
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise AnnotationError(
            f"{path}: expected a scipy sparse matrix, got {error}; download it again"
        ) from error
    folder = scan_folder(data_dir, scene_id)
    alignment = read_axis_alignment(folder / f"{scene_id}.txt")
    vertices = aligned_vertices(folder, alignment)
    if masks.shape[1] != len(vertices):
        raise AnnotationError(
            f"{path}: shape: expected (proposals, {len(vertices)}), one column a vertex of the "
            f"mesh, got {masks.shape}; masks and mesh belong to different meshes"
        )
    found = []
    for row in range(min(masks.shape[0], MOST)):
        own = vertices[masks.indices[masks.indptr[row] : masks.indptr[row + 1]]]
        if not len(own):
            raise AnnotationError(
                f"{path}: row {row}: expected vertices, got none; remove the empty proposal"
            )
        found.append(MaskProposal(row, np.concatenate([own.min(0), own.max(0)])))
    return tuple(found)
