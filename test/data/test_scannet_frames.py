# SPDX-License-Identifier: Apache-2.0
"""ScanNet's posed frames and mesh: read, sampled over frames with a pose, wrong files named."""

import numpy as np
import pytest
from geometry_sets import wall, write_ply, write_scannet

from vidllm_ros.data import scannet_frames as sf

SCENE = "scene0707_00"


@pytest.fixture
def folder(tmp_path):
    write_scannet(tmp_path, SCENE)
    return tmp_path


def test_frames_come_with_pose_depth_and_K(folder):
    posed = sf.load_scannet_view(folder, SCENE)
    assert len(posed.frames) == 3
    assert posed.frames.K[0, 0, 0] == 32.0
    assert posed.T_scan_camera[2, :3, 3].tolist() == [0.2, 0, 1]
    depths = posed.load_depths()
    assert depths[0].shape == (48, 64)
    assert depths[0][0, 0] == 2.0
    assert posed.frames.stamps_ns == tuple(i * sf.FRAME_NS for i in range(3))


def test_frames_without_a_pose_are_left_out_before_sampling(folder):
    write_scannet(folder, SCENE, lost=0)
    posed = sf.load_scannet_view(folder, SCENE, count=2)
    assert posed.frames.stamps_ns == (sf.FRAME_NS, 2 * sf.FRAME_NS)


def test_depth_intrinsics_follow_the_image_where_they_are_missing(folder):
    (folder / "posed_images" / SCENE / "depth_intrinsic.txt").unlink()
    assert np.allclose(sf.load_scannet_view(folder, SCENE).K_depth[0], [32, 0, 31.5])


def test_what_is_missing_or_torn_is_named(folder):
    place = folder / "posed_images" / SCENE
    with pytest.raises(FileNotFoundError, match="scene0000_00: no such scene"):
        sf.load_scannet_view(folder, "scene0000_00")
    depth = place / "00001.png"
    whole = depth.read_bytes()
    depth.write_bytes(whole[:30])
    with pytest.raises(ValueError, match=r"00001.png: expected 16 bit"):
        sf.load_scannet_view(folder, SCENE).load_depths()
    depth.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"00001.png: expected a PNG"):
        sf.load_scannet_view(folder, SCENE).load_depths()
    depth.unlink()
    with pytest.raises(FileNotFoundError, match=r"00001.png: no such file"):
        sf.load_scannet_view(folder, SCENE)
    depth.write_bytes(whole)
    pose = place / "00001.txt"
    words = pose.read_text()
    pose.write_text("1 2 3")
    with pytest.raises(ValueError, match=r"00001.txt: expected 4 x 4 numbers, got 3"):
        sf.load_scannet_view(folder, SCENE)
    pose.write_text(words.replace(words.split()[0], "nan"))
    with pytest.raises(ValueError, match=r"00001.txt: expected a rigid"):
        sf.load_scannet_view(folder, SCENE)


def test_scenes_and_meshes(folder):
    assert sf.list_scenes(folder) == (SCENE,)
    (folder / "scannetv2_test.txt").write_text(f"{SCENE}\nscene0708_00\n")
    assert sf.list_scenes(folder) == (SCENE, "scene0708_00")
    (folder / "scannetv2_test.txt").write_text(f"{SCENE}\n{SCENE}\n")
    with pytest.raises(ValueError, match=f"{SCENE} is listed twice"):
        sf.list_scenes(folder)
    with pytest.raises(FileNotFoundError, match=r"scene0708_00_vh_clean_2.ply: no such mesh"):
        sf.mesh_file(folder, "scene0708_00")


def test_a_mesh_that_is_torn_or_not_finite_is_named(folder):
    file = sf.mesh_file(folder, SCENE)
    whole = file.read_text()
    assert len(sf.load_mesh_vertices(file)) == 2 * len(wall(2.0)) + 2
    for torn in ("ply\n", whole[: len(whole) // 2]):
        file.write_text(torn)
        with pytest.raises(ValueError, match=file.name):
            sf.load_mesh_vertices(file)
    write_ply(file, np.array([[0.0, 0, 0], [1, np.nan, 0], [0, 1, 0]]))
    with pytest.raises(ValueError, match=f"{file.name}.*finite"):
        sf.load_mesh_vertices(file)
