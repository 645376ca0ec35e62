# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidllm_ros.cli import ask, play, ros_processes
from vidllm_ros.cli.cameras import Playback
from vidllm_ros.streaming.window import WindowSettings


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    folder = tmp_path / "pretended"
    folder.mkdir()
    monkeypatch.setenv("PRETENDED_ROS", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    for module in (ros_processes, ask):
        monkeypatch.setattr(module, "ROS_PACKAGE", "pretended_ros")
    monkeypatch.setattr(ros_processes, "ROS_CLIENT", "json")
    return folder


def test_ask_passes_questions_and_options_on(pretended, capfd):
    assert ask.main(["is there a chair?", "and a bed?", "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["question"] for line in lines] == ["is there a chair?", "and a bed?"]


def test_ask_returns_the_clients_exit_code(pretended, capfd):
    (pretended / "node_is_busy").write_text("")
    assert ask.main(["is there a chair?", "--json"]) == 1


def test_play_sends_every_frame(pretended, tmp_path, capsys):
    (pretended / "node_arguments").write_text("")
    film = tmp_path / "film"
    film.mkdir()
    for index in range(5):
        cv2.imwrite(str(film / f"{index}.png"), np.full((20, 30, 3), index, np.uint8))
    assert play.main([str(film)]) == 0
    assert "film: 5 frames played" in capsys.readouterr().out
    frames = [json.loads(line) for line in (pretended / "frames.jsonl").read_text().splitlines()]
    assert [frame["shape"] for frame in frames] == [[20, 30, 3]] * 5


def test_play_repeats_and_renames(pretended, tmp_path, capsys):
    (pretended / "node_arguments").write_text("")
    film = tmp_path / "film"
    film.mkdir()
    for index in range(3):
        cv2.imwrite(str(film / f"{index}.png"), np.full((20, 30, 3), index, np.uint8))
    words = ["--loop", "2", "--rate", "7", "--image", "/front/image_raw", "--compressed"]
    assert play.main([str(film), *words, "--keep-stamps"]) == 0
    assert "film: 6 frames played" in capsys.readouterr().out
    frames = [json.loads(line) for line in (pretended / "frames.jsonl").read_text().splitlines()]
    stamps = [frame["original_ns"] for frame in frames]
    assert stamps[:3] == stamps[3:]
    words = Playback(7.0, 2, True, True, "/front/image_raw").options()
    assert words[words.index("--rate") + 1] == "7.0"
    assert words[words.index("--transport") + 1] == "compressed"
    assert words[words.index("--stamps") + 1] == "keep"
    assert words[words.index("--ros-args") :] == [
        *("--ros-args", "-r", "image:=/front/image_raw"),
        *("-r", "image/compressed:=/front/image_raw/compressed"),
        *("-r", "camera_info:=/front/camera_info"),
    ]
    assert "--rest" not in words  # stamps that jump back say enough
    assert Playback().options(5.0)[-2:] == ["--rate", "5.0"]
    looped = Playback(loops=0).options()
    rest_s = float(looped[looped.index("--rest") + 1])
    assert rest_s > WindowSettings.max_gap_s  # the node begins a new world


def test_play_that_nobody_hears_says_so(pretended, tmp_path, monkeypatch, capsys):
    (tmp_path / "0.png").write_bytes(cv2.imencode(".png", np.zeros((20, 30, 3)))[1].tobytes())
    monkeypatch.setenv("NOBODY_LISTENS", "1")
    assert play.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.strip() == "vidllm play: nobody subscribed"


def test_what_the_player_refuses_is_passed_on(pretended, tmp_path, monkeypatch, capsys):
    (tmp_path / "0.png").write_bytes(cv2.imencode(".png", np.zeros((20, 30, 3)))[1].tobytes())
    monkeypatch.setenv("PLAYER_REFUSES", "no such rule: '-r image:=a b'")
    assert play.main([str(tmp_path), "--image", "a b"]) == 1
    assert capsys.readouterr().err.strip() == "vidllm play: no such rule: '-r image:=a b'"


def test_a_topic_needs_a_bag(pretended, tmp_path, capsys):
    assert play.main(["--room", "1", "--topic", "/front"]) == 1
    assert "--topic: expected a bag as INPUT" in capsys.readouterr().err


def test_play_wants_one_source(capsys):
    assert play.main([]) != 0
    assert "expected a film or --room SEED" in capsys.readouterr().err


def test_play_of_a_torn_film_fails_with_its_sentence(pretended, tmp_path, capsys):
    (pretended / "node_arguments").write_text("")
    film = tmp_path / "film"
    film.mkdir()
    cv2.imwrite(str(film / "0.png"), np.zeros((20, 30, 3), np.uint8))
    (film / "1.png").write_bytes(b"torn")
    assert play.main([str(film)]) != 0
    assert "1.png: expected an image" in capsys.readouterr().err


def test_play_of_a_folder_whose_size_changes_publishes_nothing(pretended, tmp_path, capsys):
    (pretended / "node_arguments").write_text("")
    film = tmp_path / "film"
    film.mkdir()
    for index in range(6):
        height = 20 if index < 4 else 24
        cv2.imwrite(str(film / f"{index}.png"), np.full((height, 30, 3), index, np.uint8))
    assert play.main([str(film)]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("vidllm play: ")
    assert "4.png: expected 30 x 20 px as the images before it, got 30 x 24; keep" in said
    assert "\n" not in said
    assert not (pretended / "frames.jsonl").exists()
