# SPDX-License-Identifier: Apache-2.0
"""Vertices of PLY meshes, whole or refused; Open3D reads the same where the file is whole."""

import hand_made
import numpy as np
import open3d as o3d
import pytest

from vidllm_ros.data.annotations import ply as m
from vidllm_ros.data.annotations.records import AnnotationError

POINTS = np.random.default_rng(3).normal(size=(12, 3))


@pytest.fixture
def path(tmp_path):
    hand_made.write_ply(tmp_path / "mesh.ply", POINTS)
    return tmp_path / "mesh.ply"


def test_the_same_as_open3d(path):
    found = m.read_vertices(path)
    assert np.allclose(found, POINTS, atol=1e-6)
    assert np.array_equal(found, np.asarray(o3d.io.read_triangle_mesh(str(path)).vertices))


@pytest.mark.parametrize("as_text", [True, False])
def test_what_open3d_writes(tmp_path, as_text):
    mesh = o3d.geometry.TriangleMesh.create_box()
    o3d.io.write_triangle_mesh(str(tmp_path / "box.ply"), mesh, write_ascii=as_text)
    assert np.allclose(m.read_vertices(tmp_path / "box.ply"), np.asarray(mesh.vertices))


def test_files_that_are_cut_off(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])  # Open3D would give zeros for the rest
    with pytest.raises(AnnotationError, match="expected 12 as its header says, got 6"):
        m.read_vertices(path)
    path.write_bytes(whole[:60])
    with pytest.raises(AnnotationError, match="expected a PLY file"):
        m.read_vertices(path)
    with pytest.raises(FileNotFoundError, match="the scan's mesh"):
        m.read_vertices(path.with_name("gone.ply"))


def test_files_that_are_something_else(path):
    whole = path.read_bytes()
    for old, new, said in (
        (b"ply\nformat", b"solid\nfmt", "expected a PLY file"),
        (b"vertex 12", b"vertex 0", "expected 0 as its header says"),
        (b"float z", b"float w", "expected x, y and z"),
        (b"property float x", b"property list x y", "plain vertex properties"),
        (b"element vertex", b"element edges", "'element vertex' first"),
    ):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(AnnotationError, match=said):
            m.read_vertices(path)


def test_a_vertex_that_is_not_finite(path):
    points = POINTS.copy()
    points[4, 1] = np.nan
    hand_made.write_ply(path, points)
    with pytest.raises(AnnotationError, match="vertex 4: expected finite"):
        m.read_vertices(path)
