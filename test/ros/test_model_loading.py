# SPDX-License-Identifier: Apache-2.0
"""What computes is found by path or name, and each reason it cannot is a sentence with its fix."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

pytest.importorskip("ament_index_python")

from vidllm_ros.ros import model_loading
from vidllm_ros.ros.model_loading import (
    ModelError,
    choose_device,
    choose_precision,
    find_model,
    load_backend,
    memory_free_bytes,
    memory_used_bytes,
    release_memory,
)
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.streaming.backend import StandInBackend

pytestmark = pytest.mark.ros


def test_a_model_is_found_by_path_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    assert find_model(str(tmp_path / "tiny")) == tmp_path / "tiny"
    monkeypatch.setattr(model_loading, "_bundled_folders", lambda: [tmp_path])
    assert find_model("tiny") == tmp_path / "tiny"
    with pytest.raises(ModelError, match=r"got 'large'; looked at .*set the parameter model"):
        find_model("large")


def test_bundled_models_are_those_of_the_source_tree() -> None:
    assert Path(__file__).resolve().parents[2] / "models" in model_loading._bundled_folders()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_said_with_the_fix() -> None:
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ModelError, match="sees none; install a CUDA build and driver, or set"):
        choose_device("cuda:0")
    assert choose_precision("auto", torch.device("cpu")) is torch.float32
    assert choose_precision("bfloat16", torch.device("cpu")) is torch.bfloat16


def test_too_little_memory_is_said_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr(model_loading, "memory_free_bytes", lambda _: 1000)
    with pytest.raises(ModelError, match=r"memory: expected .* are free; take a smaller model"):
        load_backend(NodeParameters(model=str(tmp_path), device="cpu"))


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_backend(NodeParameters(model=str(tmp_path), device="cpu"))


def test_the_stand_in_says_what_it_is() -> None:
    loaded = load_backend(NodeParameters(backend="standin"))
    assert isinstance(loaded.backend, StandInBackend)
    assert str(loaded) == "standin on cpu in float32"


def test_memory_is_measured() -> None:
    before = memory_used_bytes("cpu")
    ballast = mmap.mmap(-1, 50_000_000)  # fresh pages: the heap may have free ones left
    ballast.write(b"x" * 50_000_000)
    grown = memory_used_bytes("cpu")
    assert grown - before > 40_000_000
    del ballast
    assert grown - release_memory("cpu") > 40_000_000
    assert memory_free_bytes("cpu") > 0
