# SPDX-License-Identifier: Apache-2.0
"""Need follows the files and the number format; what is free is measured."""

from __future__ import annotations

from pathlib import Path

import torch

from vidllm_ros.network.memory import WORKING_ROOM, free_bytes, needed_bytes


def test_need_follows_files_and_format(tmp_path: Path) -> None:
    assert needed_bytes(tmp_path, torch.float32) == 0
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(bytes(500))
    (tmp_path / "notes.txt").write_bytes(bytes(999))
    assert needed_bytes(tmp_path, torch.bfloat16) == 1000 * (1 + WORKING_ROOM)
    assert needed_bytes(tmp_path, torch.float32) == 2000 * (1 + WORKING_ROOM)


def test_free_memory_is_that_of_the_machine() -> None:
    assert 0 < free_bytes("cpu") < 2**50
