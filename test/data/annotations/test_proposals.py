# SPDX-License-Identifier: Apache-2.0
"""Mask3D's proposals as boxes of the aligned world."""

import hand_made
import numpy as np
import pytest
from scipy import sparse

from vidllm_ros.data.annotations import proposals as m
from vidllm_ros.data.annotations.records import AnnotationError

SCENE = "scene0000_00"


@pytest.fixture
def root(tmp_path):
    hand_made.write_scan(tmp_path, SCENE)
    return tmp_path


def test_boxes_of_vertex_masks(root):
    hand_made.write_masks(root, SCENE, [[4, 5], [0, 1, 2, 3]])
    table, chairs = m.read_proposals(root, SCENE)
    assert np.allclose(table.aabb, hand_made.box_of(SCENE, 2), atol=1e-5)
    assert np.allclose(chairs.aabb, [0, 0, 0, 4, 1, 1], atol=1e-5)
    assert (table.row, chairs.row) == (0, 1)


def test_stored_zeros_are_no_vertices(root):
    path = hand_made.write_masks(root, SCENE, [[4, 5]])
    masks = sparse.csr_matrix(([1, 1, 0], ([0, 0, 0], [4, 5, 11])), (1, 12))
    assert masks.nnz == 3
    sparse.save_npz(path, masks)
    (table,) = m.read_proposals(root, SCENE)
    assert np.allclose(table.aabb, hand_made.box_of(SCENE, 2), atol=1e-5)


def test_only_the_first_fifty(root):
    hand_made.write_masks(root, SCENE, [[0, 1]] * 60)
    assert len(m.read_proposals(root, SCENE)) == 50


def test_none_where_there_is_no_file(root):
    assert m.read_proposals(root, SCENE) is None


def test_masks_of_another_mesh(root):
    path = hand_made.write_masks(root, SCENE, [[0]])
    sparse.save_npz(path, sparse.csr_matrix(np.ones((2, 5))))
    with pytest.raises(AnnotationError, match=r"one column a vertex of the mesh, got \(2, 5\)"):
        m.read_proposals(root, SCENE)


def test_an_empty_proposal_and_a_damaged_file(root):
    path = hand_made.write_masks(root, SCENE, [[0, 1], []])
    with pytest.raises(AnnotationError, match="row 1: expected vertices, got none"):
        m.read_proposals(root, SCENE)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(AnnotationError, match="expected a scipy sparse matrix"):
        m.read_proposals(root, SCENE)
