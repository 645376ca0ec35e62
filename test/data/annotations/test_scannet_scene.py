# SPDX-License-Identifier: Apache-2.0
"""Instance boxes from mesh, segments and aggregation, in the aligned world."""

import hand_made
import numpy as np
import pytest

from vidllm_ros.data.annotations import scannet_scene as m
from vidllm_ros.data.annotations.ply import read_vertices
from vidllm_ros.data.annotations.records import AnnotationError, Entry

SCENE = "scene0000_00"


@pytest.fixture
def folder(tmp_path):
    return hand_made.write_scan(tmp_path, SCENE)


@pytest.fixture
def asker(tmp_path):
    return Entry(tmp_path / "refer.json", "record 4 (ann_id '0')", {"object_id": "2"})


def aggregation(folder):
    return folder / f"{SCENE}.aggregation.json"


def test_boxes_are_those_of_the_aligned_world(tmp_path, folder):
    scene = m.read_scene(tmp_path, SCENE)
    assert np.allclose(scene.T_aligned_scan, hand_made.ALIGNMENT)
    assert [item.label for item in scene.instances] == [
        name for name, _ in hand_made.SCENES[SCENE]
    ]
    for item in scene.instances:
        assert np.allclose(item.aabb, hand_made.box_of(SCENE, item.object_id), atol=1e-5)


def test_alignment_matters_here(tmp_path, folder):
    raw = read_vertices(folder / f"{SCENE}_vh_clean_2.ply")
    unaligned = np.concatenate([raw[:2].min(0), raw[:2].max(0)])
    assert not np.allclose(unaligned, hand_made.box_of(SCENE, 0), atol=0.1)


def test_a_segment_of_two_groups_belongs_to_the_last(tmp_path, folder, asker):
    def claim(value):
        value["segGroups"][1]["segments"] += [10, 0]  # all of object 0

    hand_made.change_json(aggregation(folder), claim)
    scene = m.read_scene(tmp_path, SCENE)
    assert scene.instances[0].aabb is None
    assert np.allclose(scene.instances[1].aabb, [0, 0, 0, 4, 1, 1], atol=1e-5)
    with pytest.raises(AnnotationError, match=r"record 4 .*object 0 \('chair'\).*no vertices"):
        scene.box(0, asker)


def test_object_ids_are_the_aggregations_own(tmp_path, folder, asker):
    def renumber(value):
        for group in value["segGroups"]:
            group["objectId"] += 30

    hand_made.change_json(aggregation(folder), renumber)
    scene = m.read_scene(tmp_path, SCENE)
    assert np.allclose(scene.box(32, asker), hand_made.box_of(SCENE, 2), atol=1e-5)
    with pytest.raises(AnnotationError, match=r"refer.json: record 4 .*object_id: .*got 2"):
        scene.box(2, asker)


def test_a_box_of_zero_size_is_refused_with_the_record_that_asks(tmp_path, folder, asker):
    hand_made.change_json(
        aggregation(folder), lambda value: value["segGroups"][2].update(segments=[40])
    )
    with pytest.raises(AnnotationError, match=r"refer.json: record 4 .*whose box has a volume"):
        m.read_scene(tmp_path, SCENE).box(2, asker)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["segGroups"][1].update(objectId=0), r"record 1 .*objectId: .*0 again"),
        (lambda v: v["segGroups"][1].update(segments=[7]), r"record 1 .*segments: .*got 7"),
        (lambda v: v["segGroups"][1].update(label=""), r"record 1 .*label: expected a string"),
        (lambda v: v["segGroups"][1].pop("segments"), r"record 1 .*segments: .*no such field"),
        (lambda v: v.pop("segGroups"), r"segGroups: expected a list under this name"),
    ],
)
def test_aggregations_that_are_wrong(tmp_path, folder, change, said):
    hand_made.change_json(aggregation(folder), change)
    with pytest.raises(AnnotationError, match=said):
        m.read_scene(tmp_path, SCENE)


def test_segments_of_another_mesh(tmp_path, folder):
    path = folder / f"{SCENE}_vh_clean_2.0.010000.segs.json"
    hand_made.change_json(path, lambda value: value["segIndices"].pop())
    with pytest.raises(AnnotationError, match="each of the mesh's 12 vertices, got 11"):
        m.read_scene(tmp_path, SCENE)
    hand_made.write_json(path, {"segIndices": ["a"] * 12})
    with pytest.raises(AnnotationError, match="segIndices: expected a list of integers"):
        m.read_scene(tmp_path, SCENE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sceneType = Office\n", "expected this line, got none"),
        ("axisAlignment = 1 0 0\n", "expected 16 numbers"),
        ("axisAlignment = " + "2 " * 16, "expected a rigid motion"),
        ("axisAlignment = " + "nan " * 16, "expected a rigid motion"),
    ],
)
def test_alignments_that_are_wrong(tmp_path, folder, text, said):
    (folder / f"{SCENE}.txt").write_text(text)
    with pytest.raises(AnnotationError, match=said):
        m.read_scene(tmp_path, SCENE)


def test_missing_scenes_and_files(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="scene0009_00: expected its scan in"):
        m.read_scene(tmp_path, "scene0009_00")
    aggregation(folder).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"aggregation.json: expected the scan's instances"
    ):
        m.read_scene(tmp_path, SCENE)
