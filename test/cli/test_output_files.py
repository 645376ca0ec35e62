# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest

from vidllm_ros.cli import output_files
from vidllm_ros.cli.command import UserError


def test_json_holds_numpy_values_and_no_nan(tmp_path):
    path = tmp_path / "report.json"
    content = {
        "a": np.float32(1.5),
        "b": np.arange(3),
        "c": [float("nan"), np.int64(2)],
        3: (True,),
    }
    output_files.write_json(path, content)
    assert json.loads(path.read_text()) == {"a": 1.5, "b": [0, 1, 2], "c": [None, 2], "3": [True]}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        output_files.write_json(path, {"a": object()})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_targets_are_checked_before_the_work(tmp_path):
    output_files.check_file_target("--ply", tmp_path / "new" / "a.ply", ".ply")
    output_files.check_folder_target("--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--ply: expected a file ending in \.ply, got .*a\.txt"):
        output_files.check_file_target("--ply", tmp_path / "a.txt", ".ply")
    with pytest.raises(UserError, match="--out: expected a folder"):
        output_files.check_folder_target("--out", tmp_path / "file")
    with pytest.raises(UserError, match="--ply: expected a writable place"):
        output_files.check_file_target("--ply", tmp_path / "file" / "a.ply", ".ply")


def test_a_place_that_refuses_files_is_refused_even_to_root(tmp_path, monkeypatch):
    if Path("/proc").is_dir():
        with pytest.raises(UserError, match="--out: expected a writable place, got /proc/x"):
            output_files.check_folder_target("--out", Path("/proc/x"))

    def full(dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_files, "TemporaryFile", full)
    with pytest.raises(UserError, match="--ply: expected a writable place"):
        output_files.check_file_target("--ply", tmp_path / "a.ply", ".ply")
