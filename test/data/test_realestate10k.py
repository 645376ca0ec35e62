# SPDX-License-Identifier: Apache-2.0
"""RealEstate10K's camera files: poses as published, wrong lines named."""

import numpy as np
import pytest
from geometry_sets import random_poses, write_re10k

from vidllm_ros.data import realestate10k as re10k


@pytest.fixture
def folder(tmp_path):
    write_re10k(tmp_path, "aaa", random_poses(12, 1))
    return tmp_path


def test_lines_become_poses(folder):
    cameras = re10k.load_camera_file(folder / "test" / "aaa.txt")
    assert cameras.name == "aaa"
    assert np.allclose(cameras.T_world_camera, random_poses(12, 1), atol=1e-9)
    assert cameras.stamps_us[:2] == (1_000_000, 1_033_367)
    assert cameras.K_norm[0].tolist() == [[0.5, 0, 0.5], [0, 0.9, 0.5], [0, 0, 1]]


def test_images_are_found_by_their_time(folder):
    assert re10k.image_of(folder, "test", "aaa", 1_033_367).name == "1033367.png"
    assert re10k.image_of(folder, "test", "aaa", 5) is None


def test_the_list_goes_before_the_folder(folder):
    write_re10k(folder, "bbb", random_poses(12, 2))
    assert re10k.list_sequences(folder) == ("aaa", "bbb")
    (folder / re10k.LIST_NAME).write_text("bbb\n")
    assert re10k.list_sequences(folder) == ("bbb",)
    (folder / re10k.LIST_NAME).write_text("bbb\nbbb\n")
    with pytest.raises(ValueError, match="line 2: bbb is listed twice"):
        re10k.list_sequences(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: " ".join(line.split()[:-1]), "line 4: expected 19 finite numbers, got 18"),
        (lambda line: line.replace(line.split()[7], "nan"), "line 4: expected 19 finite"),
        (lambda line: line.replace(line.split()[7], "9.0"), "line 4: expected a rotation"),
        (lambda line: line.replace(line.split()[0], "1000000"), "line 4: expected a time after"),
        (lambda line: "hello " + line, "line 4: expected numbers"),
    ],
)
def test_a_wrong_line_is_named(folder, change, said):
    file = folder / "test" / "aaa.txt"
    lines = file.read_text().splitlines()
    lines[3] = change(lines[3])
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=said):
        re10k.load_camera_file(file)


def test_an_empty_file_and_folder_are_named(tmp_path):
    (tmp_path / "x.txt").write_text("https://example.org\n")
    with pytest.raises(ValueError, match=r"x.txt: expected a line a frame"):
        re10k.load_camera_file(tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError, match="expected camera files"):
        re10k.list_sequences(tmp_path)
