# SPDX-License-Identifier: Apache-2.0
"""NYUv2's test set in both forms, and every way in which a file can be off."""

import numpy as np
import pytest
from geometry_sets import NYU_SIZE, write_image, write_nyuv2
from scipy.io import savemat

from vidllm_ros.data.nyuv2 import NyuTestSet

LIST = "nyudepthv2_test_files_with_gt.txt"


@pytest.fixture
def folder(tmp_path):
    write_nyuv2(tmp_path, [np.full(NYU_SIZE, 2.5), np.full(NYU_SIZE, 4.0)])
    return tmp_path


def test_a_listed_image_has_its_depth_in_metres(folder):
    images = NyuTestSet(folder)
    assert [image.name for image in images.images] == [
        "bathroom/rgb_00000.jpg",
        "bathroom/rgb_00001.jpg",
    ]
    assert images.images[0].focal_px == 518.8579
    assert images.depth("bathroom/rgb_00001.jpg")[0, 0] == 4.0
    assert images.colour("bathroom/rgb_00000.jpg").shape == (480, 640, 3)


def test_lines_without_depth_are_left_out(folder):
    with (folder / LIST).open("a") as file:
        file.write("bathroom/rgb_00002.jpg None 518.8579\n")
    assert len(NyuTestSet(folder).images) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bathroom/rgb_00009.jpg bathroom/sync_depth_00009.png 518.8", "line 3"),
        ("bathroom/rgb_00000.jpg bathroom/sync_depth_00000.png 518.8", "listed twice"),
        ("bathroom/rgb_00001.jpg", "colour, depth and focal"),
        ("bathroom/rgb_00001.jpg bathroom/sync_depth_00001.png far", "focal length"),
    ],
)
def test_a_wrong_line_is_named(folder, line, said):
    with (folder / LIST).open("a") as file:
        file.write(line + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        NyuTestSet(folder)
    assert LIST in str(error.value)


def test_torn_or_strange_images_are_named(folder):
    depth = folder / "test" / "bathroom" / "sync_depth_00000.png"
    whole = depth.read_bytes()
    depth.write_bytes(whole[:40])
    images = NyuTestSet(folder)
    with pytest.raises(ValueError, match=r"sync_depth_00000.png: expected 16 bit"):
        images.depth("bathroom/rgb_00000.jpg")
    write_image(depth, np.full((48, 64), 1000, np.uint16))
    with pytest.raises(ValueError, match=r"sync_depth_00000.png: expected \(480, 640\)"):
        images.depth("bathroom/rgb_00000.jpg")
    (folder / "test" / "bathroom" / "rgb_00001.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"rgb_00001.jpg: expected an image"):
        images.colour("bathroom/rgb_00001.jpg")


def test_an_empty_folder_says_what_it_wants(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nyu_depth_v2_labeled.mat"):
        NyuTestSet(tmp_path)


def write_mat(folder, depths, chosen):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        shape = (len(depths), 3, NYU_SIZE[1], NYU_SIZE[0])
        file["images"] = np.full(shape, 200, np.uint8)
        file["rawDepths"] = np.stack([depth.T for depth in depths]).astype(np.float32)
    savemat(folder / "splits.mat", {"testNdxs": np.array(chosen)[:, None]})


def test_the_published_mat_gives_the_same(tmp_path):
    depth = np.full(NYU_SIZE, 3.0)
    depth[100, 200] = 1.5  # row, column: the file has them the other way round
    write_mat(tmp_path, [np.full(NYU_SIZE, 9.0), depth], [2])
    images = NyuTestSet(tmp_path)
    assert [image.name for image in images.images] == ["labeled/00001"]
    assert images.depth("labeled/00001")[100, 200] == 1.5
    colour = images.colour("labeled/00001")
    assert colour[7, 7].tolist() == [200] * 3
    assert colour[6, 300].tolist() == colour[474, 300].tolist() == [0] * 3
    assert colour[300, 632].tolist() == [0] * 3


def test_nan_depth_and_foreign_splits_are_named(tmp_path):
    depth = np.full(NYU_SIZE, 3.0)
    depth[0, 0] = np.nan
    write_mat(tmp_path, [depth], [1])
    with pytest.raises(ValueError, match=r"rawDepths\[0\]: expected depth >= 0 m, got 1"):
        NyuTestSet(tmp_path).depth("labeled/00000")
    savemat(tmp_path / "splits.mat", {"testNdxs": np.array([[2]])})
    with pytest.raises(ValueError, match=r"splits.mat, testNdxs: expected numbers from 1 to 1"):
        NyuTestSet(tmp_path)
