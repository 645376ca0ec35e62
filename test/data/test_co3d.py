# SPDX-License-Identifier: Apache-2.0
"""Co3Dv2's annotations: which sequences count, and PyTorch3D's cameras as poses."""

import gzip
import json

import numpy as np
import pytest
from geometry_sets import pytorch3d_viewpoint, random_poses, write_co3d, write_jgz

from vidllm_ros.data import co3d


@pytest.fixture
def folder(tmp_path):
    good, short, poor = random_poses(50, 1), random_poses(49, 2), random_poses(50, 3)
    write_co3d(
        tmp_path, {"apple": {"b": (0.9, good), "a_short": (0.9, short), "a_poor": (0.5, poor)}}
    )
    return tmp_path


def edit(file, change):
    records = json.loads(gzip.decompress(file.read_bytes()))
    change(records)
    write_jgz(file, records)


def test_there_are_41_seen_categories():
    assert len(set(co3d.SEEN_CATEGORIES)) == len(co3d.SEEN_CATEGORIES) == 41
    assert "ball" not in co3d.SEEN_CATEGORIES


def test_quality_above_one_half_and_fifty_frames(folder):
    sequences = co3d.load_category(folder, "apple")
    assert [sequence.name for sequence in sequences] == ["b"]
    assert np.allclose(sequences[0].T_world_camera, random_poses(50, 1))
    assert sequences[0].images[3] == "apple/b/images/frame000003.jpg"
    assert co3d.categories_of(folder) == ("apple",)


def test_a_pytorch3d_camera_sees_the_same_point():
    pose = random_poses(1, 5)[0]
    view = pytorch3d_viewpoint(pose)
    R, T = np.array(view["R"]), np.array(view["T"])
    point = np.array([0.3, -1.2, 2.0])
    left, up, forward = point @ R + T
    found = np.linalg.inv(co3d.pose_from_pytorch3d(R, T)) @ [*point, 1.0]
    assert np.allclose(found[:3], [-left, -up, forward])


def test_translations_out_of_all_measure_leave_the_sequence_out(folder):
    def change(records):
        records[0]["viewpoint"]["T"] = [1e5, 1.0, 0.0]

    edit(folder / "apple" / "frame_annotations.jgz", change)
    assert co3d.load_category(folder, "apple") == []


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("frame", lambda r: r[2]["viewpoint"].pop("R"), "record 2.*viewpoint.R"),
        ("frame", lambda r: r[2]["viewpoint"].update(T=[0, 0]), "record 2.*viewpoint.T"),
        ("frame", lambda r: r[2]["viewpoint"].update(T=[0, 0, float("nan")]), "finite"),
        ("frame", lambda r: r[2]["viewpoint"].update(R=np.ones((3, 3)).tolist()), "a rotation"),
        ("frame", lambda r: r.append(r[2]), "there twice"),
        ("frame", lambda r: r.pop(7), "expected frame 7 of b"),
        ("frame", lambda r: r[2].pop("image"), "image.path"),
        ("sequence", lambda r: r.append(r[0]), "sequence b is there twice"),
        ("sequence", lambda r: r[0].pop("sequence_name"), "record 0.*sequence_name"),
    ],
)
def test_a_wrong_record_is_named(folder, file, change, said):
    path = folder / "apple" / f"{file}_annotations.jgz"
    edit(path, change)
    with pytest.raises(ValueError, match=said) as error:
        co3d.load_category(folder, "apple")
    assert path.name in str(error.value)


def test_torn_files_and_missing_ones_are_named(folder):
    path = folder / "apple" / "frame_annotations.jgz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"frame_annotations.jgz: expected JSON"):
        co3d.load_category(folder, "apple")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="expected folders like apple"):
        co3d.categories_of(folder)


def test_a_repeated_frame_of_a_set_list_is_named(folder):
    path = folder / "apple" / "set_lists" / "set_lists_fewview_dev.json"
    lists = json.loads(path.read_text())
    lists["test"].append(lists["test"][4])
    path.write_text(json.dumps(lists))
    with pytest.raises(ValueError, match="frame 4 of b is listed twice"):
        co3d.load_category(folder, "apple")
    path.write_text(json.dumps({"train": []}))
    with pytest.raises(ValueError, match="expected field 'test'"):
        co3d.load_category(folder, "apple")
