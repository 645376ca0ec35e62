# SPDX-License-Identifier: Apache-2.0
"""What computes is found by path or name, and each reason it cannot is a sentence with its fix."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidllm_ros.network import acceleration, full_float32, memory
from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.network.concatenation import Concatenation
from vidllm_ros.streaming import loading, model_folders
from vidllm_ros.streaming.backend import StandInBackend
from vidllm_ros.streaming.loading import Fit, choose_device, choose_precision, load_backend
from vidllm_ros.streaming.model_folders import (
    BUNDLED_MODEL,
    LoadingError,
    bundled_folders,
    find_model,
)
from vidllm_ros.structures import Frames


def test_a_model_is_found_by_path_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    assert find_model(tmp_path / "tiny") == tmp_path / "tiny"
    monkeypatch.setattr(model_folders, "bundled_folders", lambda: [tmp_path])
    assert find_model("tiny") == tmp_path / "tiny"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/no/such/folder", "'/no/such/folder', which does not exist; name a folder that save_p"),
        ("~no_such_user/a", "'~no_such_user/a', which does not exist in {here}; name a folder"),
        ("no/such", "'no/such', which does not exist in {here}; name a folder that save_p"),
        ("large", "'large', which is neither bundled (tiny) nor a folder in {here}; name"),
        (BUNDLED_MODEL, "which the package lacks; check out models/ again"),
        ("{here}/file", "which is a file; name the folder it is in"),
        ("file", "which is a file; name the folder it is in"),
    ],
)
def test_a_model_that_is_not_found_has_one_cause_and_one_fix(
    model: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundled" / "tiny").mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_folders, "bundled_folders", lambda: [tmp_path / "bundled"])
    with pytest.raises(LoadingError) as caught:
        find_model(model.format(here=tmp_path))
    words = str(caught.value)
    assert words.startswith("model: expected a folder of weights or a bundled name, got '")
    assert says.format(here=tmp_path) in words
    assert words.count(";") == 1


def test_bundled_models_lie_beside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    assert bundled_folders() == [Path(__file__).resolve().parents[2] / "models"]
    assert find_model(BUNDLED_MODEL).joinpath("config.json").is_file()


def test_an_installed_model_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share" / "vidllm_ros" / "models"
    share.mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/no/such/prefix:{tmp_path}")
    assert bundled_folders()[0] == share
    assert len(bundled_folders()) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_said_with_the_fix() -> None:
    assert choose_device("auto").type == "cpu"
    with pytest.raises(LoadingError, match="sees none; install a CUDA build and driver, or set"):
        choose_device("cuda:0")


def test_a_device_that_means_nothing_is_refused() -> None:
    with pytest.raises(LoadingError, match="expected auto, cpu, cuda or cuda:N, got 'tpu'"):
        choose_device("tpu")


def test_a_gpu_of_a_higher_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(choose_device("cuda:1")) == "cuda:1"
    with pytest.raises(LoadingError, match="expected one of 2 GPUs, got 'cuda:2'"):
        choose_device("cuda:2")


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_precision("auto", cpu) is torch.float32
    assert choose_precision("bfloat16", cpu) is torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_precision("auto", gpu) is torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert choose_precision("auto", gpu) is torch.float32


def test_too_little_memory_is_said_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(LoadingError, match=r"memory: expected .* are free; take a smaller model"):
        load_backend("vidllm", tmp_path, "cpu")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LoadingError, match=r"config\.json"):
        load_backend("vidllm", tmp_path, "cpu")


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def set_field(name: str, value: object) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))

    return edit


@pytest.mark.parametrize("fit", [None, Fit(32)], ids=["whole", "fitting"])
@pytest.mark.parametrize(
    ("pattern", "damage", "words"),
    [
        ("*.safetensors", cut_in_half, "got a truncated or damaged file .*; copy it again"),
        ("config.json", cut_in_half, r"expected JSON in .*config\.json, got .*; copy it again"),
        ("config.json", lambda file: file.write_text("[1, 2]"), "expected an object .* got list"),
        ("config.json", set_field("image_size", "big"), r"in .*config\.json.*; copy the file"),
        ("config.json", set_field("language", 3), r"in .*config\.json.*; copy the file"),
        ("*.index.json", set_field("weight_map", [1]), "expected weight_map .* got list"),
        ("tokenizer.json", cut_in_half, r"expected JSON in .*tokenizer\.json"),
    ],
)
def test_a_damaged_file_is_said_in_words_on_both_ways_of_loading(
    tmp_path: Path, pattern: str, damage: Callable[[Path], None], words: str, fit: Fit | None
) -> None:
    folder = tmp_path / "nano"
    shutil.copytree(find_model(BUNDLED_MODEL), folder)
    damage(sorted(folder.glob(pattern))[0])
    with pytest.raises(LoadingError, match=f"^model: .*{words}"):
        load_backend("vidllm", folder, "cpu", fit=fit)


def test_memory_that_runs_out_while_loading_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_out(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setitem(loading._LOADERS, loading.BackendName.VIDLLM, runs_out)
    with pytest.raises(LoadingError, match="cannot be loaded on cpu: CUDA out of memory"):
        load_backend("vidllm", tmp_path, "cpu")


def test_the_stand_in_says_what_it_is() -> None:
    loaded = load_backend("standin", "no model is needed")
    assert isinstance(loaded.backend, StandInBackend)
    assert str(loaded) == "standin on cpu in float32"


def test_every_name_can_be_loaded() -> None:
    """A name without a loader would be accepted as a parameter and fail at configure."""
    names = set(loading.BackendName)
    assert names == {*loading._LOADERS, loading.BackendName.STANDIN}


def test_names_cost_no_torch() -> None:
    code = "import vidllm_ros.streaming.loading, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def concatenation(public_parts: Path, folder: Path, kind: str = "vggt_vlm") -> Path:
    language = "vlm" if kind == "vggt_vlm" else "llava_3d"
    places = (PartPlace(str(public_parts / name)) for name in ("vggt", language, "depth"))
    write_manifest(folder, Manifest(kind, *places))
    return folder


@pytest.mark.parametrize("kind", ["vggt_llava3d", "vggt_vlm"])
def test_a_concatenation_is_loaded_with_its_licences(
    kind: str, public_parts: Path, tmp_path: Path
) -> None:
    loaded = load_backend(kind, concatenation(public_parts, tmp_path, kind), "cpu")
    assert isinstance(loaded.backend, Concatenation)
    assert str(loaded) == f"{kind} on cpu in float32"
    assert loaded.notes[0].startswith("VGGT: ")
    assert "cc-by-nc-4.0" in loaded.notes[0]
    assert len(loaded.notes) == 3


def test_a_folder_of_another_backend_names_its_own(public_parts: Path, tmp_path: Path) -> None:
    folder = concatenation(public_parts, tmp_path)
    for name in ("vidllm", "vggt_llava3d"):
        with pytest.raises(LoadingError, match="set backend to vggt_vlm"):
            load_backend(name, folder, "cpu")
    with pytest.raises(LoadingError, match="vidllm concatenate"):
        load_backend("vggt_vlm", BUNDLED_MODEL, "cpu")


def test_a_concatenation_without_memory_or_a_part_is_refused(
    public_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = concatenation(public_parts, tmp_path)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(LoadingError, match="memory: expected"):
        load_backend("vggt_vlm", folder, "cpu")
    write_manifest(folder, Manifest("vggt_vlm", PartPlace("./a"), PartPlace("./b"), scale="none"))
    with pytest.raises(LoadingError, match=r"^geometry: expected a file, a folder or a hub id"):
        load_backend("vggt_vlm", folder, "cpu")


def test_a_gpu_asks_for_a_torch_that_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_float32, "why_not_full_float32", lambda: "expected it newer; do so")
    monkeypatch.setattr(loading, "choose_device", torch.device)
    with pytest.raises(LoadingError, match=r"^torch: expected it newer; do so$"):
        load_backend("vidllm", BUNDLED_MODEL, "cuda:1")
    assert load_backend("vidllm", BUNDLED_MODEL, "cpu").device == "cpu"


@pytest.mark.parametrize("fit", [None, Fit(8)])
@pytest.mark.parametrize("kind", ["vidllm", "vggt_vlm"])
def test_what_is_fast_on_a_gpu_is_switched_on_at_loading(
    kind: str,
    fit: Fit | None,
    public_parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same function as the bench's; a GPU's choice is pretended on the CPU."""
    model: Path | str = BUNDLED_MODEL
    if kind != "vidllm":
        model = concatenation(public_parts, tmp_path)

    def states(backend: Any) -> tuple[bool, tuple[str, ...]]:
        geometry = backend.geometry if kind == "vggt_vlm" else backend
        weight = geometry.depth_head.predictor[0].weight
        is_last = weight.is_contiguous(memory_format=torch.channels_last)
        return is_last and not weight.is_contiguous(), geometry.aggregator.kernels

    plain = load_backend(kind, model, "cpu", fit=fit)
    assert states(plain.backend) == (False, ())
    assert not any(line.startswith("speed") for line in plain.notes)
    choice = acceleration.Acceleration(channels_last=True, attention=True)
    monkeypatch.setattr(acceleration, "usual_acceleration", lambda device: choice)
    fast = load_backend(kind, model, "cpu", fit=fit)
    is_last, kernels = states(fast.backend)
    assert is_last
    assert kernels
    said = fast.notes[-1]
    assert said.startswith("speed: dense heads channels-last; attention by what is fastest here (")
    assert fast.notes[:-1] == plain.notes
    rng = np.random.default_rng(0)
    film = Frames(rng.integers(0, 255, (3, 60, 80, 3), dtype=np.uint8), (1, 2, 3), "camera")
    before, after = (loaded.backend.reconstruct(film) for loaded in (plain, fast))
    np.testing.assert_allclose(after.depth, before.depth, rtol=1e-3, atol=1e-4)
