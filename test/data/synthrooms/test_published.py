# SPDX-License-Identifier: Apache-2.0
"""The readers of the real benchmarks read what is written here, and find the same truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vidllm_ros.data.annotations.labels import class_of_name, load_classes
from vidllm_ros.data.annotations.multi3drefer import load_multi3drefer
from vidllm_ros.data.annotations.scannet_scene import read_scene
from vidllm_ros.data.annotations.scanqa import load_scanqa
from vidllm_ros.data.annotations.scanrefer import load_scanrefer
from vidllm_ros.data.annotations.sqa3d import load_sqa3d
from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.scannet_frames import (
    list_scenes,
    load_mesh_vertices,
    load_scannet_view,
    mesh_file,
)
from vidllm_ros.data.synthrooms import OBJECT_LABELS, make_scene
from vidllm_ros.data.synthrooms.published import main, scene_name, write_published
from vidllm_ros.data.synthrooms.published_words import alternatives, eval_type, tokens
from vidllm_ros.geometry.boxes import box_corners

SEEDS = (1_000_000, 1_000_002)
SIZE = (6, 42, 56)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"), SEEDS, *SIZE)


@pytest.fixture(scope="module")
def rooms() -> dict[str, SceneSample]:
    return {scene_name(seed): make_scene(seed, *SIZE) for seed in SEEDS}


def test_scanqa_is_read_unchanged(folder: Path, rooms: dict[str, SceneSample]) -> None:
    found = load_scanqa(folder, "val")
    expected = [
        (name, q.question, q.answers, q.object_ids)
        for name, room in rooms.items()
        for q in room.questions
    ]
    assert [(q.scene_id, q.question, q.answers, q.object_ids) for q in found] == expected
    raw = json.loads((folder / "ScanQA_v1.0_val.json").read_text())
    assert set(raw[0]) == {
        *("scene_id", "question_id", "question", "answers", "object_ids", "object_names")
    }
    assert raw[0]["question_id"] == "val-synth1000000-0"


def test_sqa3d_is_read_unchanged(folder: Path, rooms: dict[str, SceneSample]) -> None:
    found = load_sqa3d(folder, "val")
    expected = [s for room in rooms.values() for s in room.situations]
    assert [(s.situation, s.question, s.answers) for s in found] == [
        (s.situation, s.question, s.answers) for s in expected
    ]
    for item, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(item.position, truth.position)
        np.testing.assert_allclose(item.quat_xyzw, truth.quat_xyzw)
        assert len(item.alternatives) == 1
        assert item.alternatives[0] != item.situation
        assert alternatives(truth) == item.alternatives


def test_scans_hold_the_objects_and_their_boxes(
    folder: Path, rooms: dict[str, SceneSample]
) -> None:
    for name, room in rooms.items():
        scene = read_scene(folder, name)
        np.testing.assert_array_equal(scene.T_aligned_scan, np.eye(4))
        assert [(i.object_id, i.label) for i in scene.instances] == [
            (item.object_id, item.label) for item in room.objects
        ]
        for instance, item in zip(scene.instances, room.objects, strict=True):
            corners = np.asarray(box_corners(item.box.center, item.box.size, item.box.quat_xyzw))
            assert instance.aabb is not None
            inside = instance.aabb[:3] >= corners.min(0) - 1e-4
            assert inside.all()
            assert (instance.aabb[3:] <= corners.max(0) + 1e-4).all()
            if min(abs(item.box.quat_xyzw[2]), abs(item.box.quat_xyzw[3])) < 1e-6:
                np.testing.assert_allclose(instance.aabb[:3], corners.min(0), atol=1e-4)
                np.testing.assert_allclose(instance.aabb[3:], corners.max(0), atol=1e-4)


def test_scanrefer_and_multi3drefer_are_read_unchanged(
    folder: Path, rooms: dict[str, SceneSample]
) -> None:
    referred = load_scanrefer(folder, "val")
    assert len(referred) > 20
    for item in referred:
        target = rooms[item.scene_id].object(item.object_id)
        assert target.label in item.description
    many = load_multi3drefer(folder, "val")
    expected = [(n, r.phrase, r.object_ids) for n, room in rooms.items() for r in room.references]
    assert [(m.scene_id, m.description, m.object_ids) for m in many] == expected
    kinds = {m.eval_type for m in many}
    assert {"zt_wo_d", "st_wo_d", "st_w_d", "mt"} <= kinds
    raw = json.loads((folder / "ScanRefer_filtered_val.json").read_text())
    assert isinstance(raw[0]["object_id"], str)
    assert isinstance(raw[0]["ann_id"], str)
    assert len({(r["scene_id"], r["object_id"], r["ann_id"]) for r in raw}) == len(raw)


def test_every_class_is_in_the_label_table(folder: Path) -> None:
    table = load_classes(folder)
    for label in OBJECT_LABELS:
        expected = "others" if label == "trash can" else label
        assert class_of_name(table, label.replace(" ", "_")) == expected


def test_posed_images_are_read_unchanged(folder: Path, rooms: dict[str, SceneSample]) -> None:
    assert list_scenes(folder, "val") == tuple(rooms)
    for name, room in rooms.items():
        view = load_scannet_view(folder, name, 6)
        np.testing.assert_allclose(view.T_scan_camera, room.T_world_camera, atol=1e-7)
        assert view.frames.K is not None
        np.testing.assert_allclose(view.frames.K, room.K, atol=1e-6)
        np.testing.assert_allclose(view.load_depths(), room.depth, atol=6e-4)
        away = np.abs(view.frames.images.astype(int) - room.frames.images).mean()
        assert away < 8  # JPEG
        extracted = folder / "scans" / name
        for kind in ("color", "depth", "pose"):
            assert len(list((extracted / kind).iterdir())) == 6
        vertices = load_mesh_vertices(mesh_file(folder, name))
        low, high = vertices.min(0), vertices.max(0)
        assert (high - low < 7.5).all()
        v, u = np.mgrid[0:42:5, 0:56:5]
        depth, K = room.depth[2][v, u], room.K[2]
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], -1)
        points = (rays * depth[..., None]) @ room.T_world_camera[2, :3, :3].T
        points = (points + room.T_world_camera[2, :3, 3]).reshape(-1, 3)
        gaps = [np.sqrt(((vertices - p) ** 2).sum(1).min()) for p in points]
        assert np.max(gaps) < 0.12  # the mesh has a point near every point that is seen


def test_files_of_a_split_and_its_command(tmp_path: Path) -> None:
    words = ["--out", str(tmp_path), "--start", "2000003", "--count", "1", "--frames", "2"]
    assert main([*words, "--height", "28", "--width", "42"]) == 0
    for name in (
        "ScanQA_v1.0_test_w_obj.json",
        "v1_balanced_questions_test_scannetv2.json",
        "v1_balanced_sqa_annotations_test_scannetv2.json",
        "ScanRefer_filtered_test.json",
        "multi3drefer_train_val/multi3drefer_test.json",
    ):
        assert (tmp_path / name).is_file(), name
    assert (tmp_path / "ScanRefer_filtered_test.txt").read_text() == "synth2000003_00\n"
    with pytest.raises(ValueError, match="one split"):
        write_published(tmp_path, [999_999, 1_000_000])


def test_small_parts() -> None:
    assert tokens("There is a red chair, 1.5 m.") == [
        *("there", "is", "a", "red", "chair", ",", "1.5", "m", ".")
    ]
    assert [eval_type(0, 0), eval_type(0, 2)] == ["zt_wo_d", "zt_w_d"]
    assert [eval_type(1, 1), eval_type(1, 2), eval_type(3, 3)] == ["st_wo_d", "st_w_d", "mt"]
