# SPDX-License-Identifier: Apache-2.0
"""Need follows the files and the number format; what is free is measured."""

from __future__ import annotations

from pathlib import Path

import torch

from vidllm_ros.network.memory import (
    WORKING_ROOM,
    free_bytes,
    needed_bytes,
    resident_bytes,
    stored_weights,
)


def test_need_follows_files_and_format(tmp_path: Path) -> None:
    assert needed_bytes(tmp_path, torch.float32) == 0
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(bytes(500))
    (tmp_path / "notes.txt").write_bytes(bytes(999))
    assert needed_bytes(tmp_path, torch.bfloat16) == 1000 * (1 + WORKING_ROOM)
    assert needed_bytes(tmp_path, torch.float32) == 2000 * (1 + WORKING_ROOM)


def test_free_memory_is_that_of_the_machine() -> None:
    assert 0 < free_bytes("cpu") < 2**50


def test_stored_weights_are_what_loading_takes(build_tiny, tmp_path: Path) -> None:
    model = build_tiny()
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    found = stored_weights(tmp_path, torch.float32)
    assert found.geometry + found.language == 4 * sum(p.numel() for p in model.parameters())
    assert found.language == 4 * sum(p.numel() for p in model.language.parameters())
    assert found.tables == 4 * model.language.model.get_input_embeddings().weight.numel()
    half = stored_weights(tmp_path, torch.bfloat16)
    camera = 4 * sum(p.numel() for p in model.camera_head.parameters())
    assert 2 * (half.geometry - camera) == found.geometry - camera
    assert half.language * 2 == found.language


def test_resident_memory_follows_what_is_held() -> None:
    before = resident_bytes()
    held = torch.ones(20_000_000)
    assert resident_bytes() - before > 0.9 * 4 * held.numel()
