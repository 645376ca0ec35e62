# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vidllm_ros.cli import infer

STANDIN = ["--backend", "standin"]


@pytest.fixture
def film(tmp_path):
    """Return a maker of folders of images of a moving square."""

    def make(count, size=(84, 112)):
        folder = tmp_path / f"film-{count}"
        folder.mkdir()
        for index in range(count):
            image = np.full((*size, 3), 60, np.uint8)
            image[20:40, index : index + 20] = (20, 30, 200)
            cv2.imwrite(str(folder / f"{index:04d}.png"), image)
        return folder

    return make


def test_answer_cloud_report_and_pictures(film, tmp_path, capsys):
    ply, report = tmp_path / "new" / "out.ply", tmp_path / "out.json"
    pictures = tmp_path / "pictures"
    words = ["--ask", "is there a chair?", "--ask", "what is red?", "--ply", str(ply)]
    words += ["--json", str(report), "--pictures", str(pictures), *STANDIN]
    assert infer.main([str(film(40)), *words]) == 0
    shown = capsys.readouterr()
    assert "32 frames" in shown.out
    assert "Q: what is red?" in shown.out
    assert "stand-in" in shown.out
    assert shown.err == ""
    header = ply.read_bytes()[:400].split(b"end_header")[0].decode()
    assert int(header.split("element vertex ")[1].split()[0]) > 100
    content = json.loads(report.read_text())
    assert content["frames"] == 32
    assert [entry["question"] for entry in content["questions"]] == [
        "is there a chair?",
        "what is red?",
    ]
    assert np.array(content["T_world_camera"]).shape == (32, 4, 4)
    first = np.array(content["T_world_camera"][0])
    np.testing.assert_allclose(first[:3, 2], [1, 0, 0], atol=0.2)  # it looks along x, z is up
    assert sorted(path.name for path in pictures.iterdir()) == ["frames.png", "overview.png"]


def test_fewer_frames_are_used_and_said(film, capsys):
    assert infer.main([str(film(3)), *STANDIN]) == 0
    shown = capsys.readouterr()
    assert "3 frames where 32 were wanted" in shown.err
    assert ": 3 frames," in shown.out


def _text(folder):
    path = folder / "text.mp4"
    path.write_bytes(b"this is no film\n" * 100)
    return path


def _tiny(folder):
    cv2.imwrite(str(folder / "tiny.png"), np.zeros((1, 1, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "missing.mp4", "missing.mp4"),
        (lambda folder: folder, "bad"),
        (_text, "text.mp4"),
        (_tiny, "1 x 1"),
    ],
    ids=["missing", "empty folder", "text as mp4", "1x1"],
)
def test_bad_input_is_one_sentence_and_writes_nothing(make, said, tmp_path, capsys):
    folder = tmp_path / "bad"
    folder.mkdir()
    ply = tmp_path / "out" / "out.ply"
    assert infer.main([str(make(folder)), "--ply", str(ply), "--ask", "what?", *STANDIN]) != 0
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert not ply.parent.exists()


@pytest.fixture
def bag(tmp_path):
    """Return a bag of two cameras; the front one has 4 frames of 28 x 42, the rear one 2."""
    store = get_typestore(Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/Image"
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, count in (("/front/image_raw", 4), ("/rear/image_raw", 2)):
            connection = writer.add_connection(name, kind, typestore=store)
            for index in range(count):
                stamp = store.types["builtin_interfaces/msg/Time"](1 + index, 0)
                head = store.types["std_msgs/msg/Header"](stamp, "camera_optical_frame")
                pixels = np.full(28 * 42 * 3, 40 * index, np.uint8)
                message = store.types[kind](head, 28, 42, "rgb8", 0, 42 * 3, pixels)
                writer.write(connection, (1 + index) * 10**9, store.serialize_cdr(message, kind))
    return tmp_path / "bag"


def test_a_bag_of_two_cameras_wants_a_topic(bag, capsys):
    assert infer.main([str(bag), *STANDIN]) == 1
    said = capsys.readouterr().err
    assert "/front/image_raw, /rear/image_raw" in said
    assert "--topic" in said
    assert infer.main([str(bag), "--topic", "/rear/image_raw", *STANDIN]) == 0
    assert ": 2 frames," in capsys.readouterr().out
    assert infer.main([str(bag), "--topic", "/none", *STANDIN]) == 1
    assert "got /none" in capsys.readouterr().err


def test_bad_output_is_refused_before_anything_is_read(tmp_path, capsys):
    assert infer.main([str(tmp_path / "missing"), "--ply", "out.txt"]) != 0
    assert "--ply: expected a file ending in .ply" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["missing", "empty"])
def test_bad_model_is_one_sentence(model, film, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert infer.main([str(film(4)), "--frames", "4", "--model", str(tmp_path / model)]) != 0
    shown = capsys.readouterr().err
    assert model in shown
    assert len(shown.strip().splitlines()) == 1


def test_bad_device_is_one_sentence(film, capsys):
    words = ["--frames", "2", "--model", "x", "--device", "abacus"]
    assert infer.main([str(film(2)), *words]) != 0
    assert "device: expected auto, cpu, cuda or cuda:N, got 'abacus'" in capsys.readouterr().err


def test_the_network_itself(film, tiny_checkpoint, tmp_path, capsys):
    report, ply = tmp_path / "out.json", tmp_path / "out.ply"
    words = ["--model", str(tiny_checkpoint), "--device", "cpu", "--frames", "4"]
    words += ["--ask", "is there a table?", "--json", str(report), "--ply", str(ply)]
    assert infer.main([str(film(6)), *words]) == 0, capsys.readouterr().err
    content = json.loads(report.read_text())
    assert content["backend"] == "vidllm"
    assert content["frames"] == 4
    assert content["scale"] > 0
    assert len(content["questions"]) == 1
    assert "stand-in" not in content["questions"][0]["answer"]
    assert b"element vertex" in ply.read_bytes()[:300]


def test_a_truncated_model_is_one_sentence(film, tiny_checkpoint, tmp_path, capsys):
    folder = tmp_path / "torn"
    shutil.copytree(tiny_checkpoint, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert infer.main([str(film(4)), "--frames", "4", "--model", str(folder)]) != 0
    shown = capsys.readouterr().err
    assert "truncated" in shown
    assert len(shown.strip().splitlines()) == 1
