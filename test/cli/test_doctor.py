# SPDX-License-Identifier: Apache-2.0
"""Each thing that can be wrong is found, named with its fix, and counted in the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vidllm_ros.cli import doctor, doctor_camera, doctor_machine
from vidllm_ros.cli.doctor_camera import check_camera, judge
from vidllm_ros.cli.doctor_findings import Finding, Level
from vidllm_ros.network import concat_account, full_float32
from vidllm_ros.network.concat_account import ConcatenationAccount
from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.network.memory_plan import Weights
from vidllm_ros.streaming import host_memory, loading, memory_rungs, model_folders
from vidllm_ros.streaming.window_types import WindowSettings

NANO = Path(__file__).parents[2] / "models" / "vidllm-nano"
IMAGE = "sensor_msgs/msg/Image"
CAMERA = {
    "node": "camera",
    "type": IMAGE,
    "reliability": "best_effort",
    "fits": True,
    "reason": "",
}
GOOD: dict[str, Any] = {
    "topic": "/image",
    "wanted_type": IMAGE,
    "seconds": 3.0,
    "publishers": [CAMERA],
    "elsewhere": [],
    "frames": 30,
    "rate_hz": 10.0,
    "frame": {
        "encoding": "rgb8",
        "frame_id": "cam",
        "age_s": 0.02,
        "width": 64,
        "height": 48,
        "problem": "",
    },
    "camera_info": {
        "width": 64,
        "height": 48,
        "is_calibrated": True,
        "frame_id": "cam",
        "problem": "",
    },
    "parent": "base_link",
    "transforms": 3,
    "ask_services": ["/robot1/ask"],
}


def found(what: str, **changes: Any) -> Finding:
    heard = dict(GOOD)
    for key, value in changes.items():
        old = GOOD[key]
        merges = isinstance(old, dict) and isinstance(value, dict)
        heard[key] = {**old, **value} if merges else value
    return next(finding for finding in judge(heard) if finding.what == what)


def test_a_good_camera_is_all_well() -> None:
    assert {finding.level for finding in judge(GOOD)} == {Level.OK}
    assert len(list(judge(GOOD))) == 5


@pytest.mark.parametrize(
    ("what", "changes", "level", "words"),
    [
        ("publishers", {"publishers": []}, "fail", "nobody publishes /image"),
        (
            "publishers",
            {"publishers": [], "elsewhere": ["/a"]},
            "fail",
            "remap image to one of /a",
        ),
        ("publishers", {"publishers": [{**CAMERA, "type": "x/msg/Y"}]}, "fail", "carries x/msg/Y"),
        (
            "publishers",
            {"publishers": [{**CAMERA, "fits": False, "reason": "DURABILITY"}]},
            "fail",
            "incompatible QoS: DURABILITY",
        ),
        ("publishers", {"frames": 0}, "fail", "sent nothing in 3 s"),
        ("publishers", {"publishers": [CAMERA, CAMERA]}, "warn", "keep one"),
        ("frames", {"frame": {"problem": "step: torn"}}, "fail", "step: torn"),
        ("frames", {"frame": {"age_s": 9.0}}, "warn", "use_sim_time"),
        ("frames", {"frame": {"age_s": -9.0}}, "warn", "9.0 s before their stamp"),
        ("frames", {"frame": {"frame_id": ""}}, "warn", "without a frame_id"),
        ("frames", {"rate_hz": 0.5}, "warn", "0.5 Hz"),
        ("camera_info", {"camera_info": None}, "warn", "none: intrinsics are estimated"),
        ("camera_info", {"camera_info": {"is_calibrated": False}}, "warn", "uncalibrated"),
        ("camera_info", {"camera_info": {"width": 32}}, "fail", "is for 32x48, frames are 64x48"),
        ("camera_info", {"camera_info": {"frame_id": "b"}}, "warn", "not that of the images"),
        ("camera_info", {"camera_info": {"problem": "D: 3 values"}}, "warn", "D: 3 values"),
        ("tf", {"parent": ""}, "warn", "cam is in no tree"),
        ("tf", {"parent": "", "transforms": 0}, "ok", "no TF here"),
        ("node", {"ask_services": []}, "warn", "vidllm.launch.py"),
    ],
)
def test_each_fault_has_its_line(
    what: str, changes: dict[str, Any], level: str, words: str
) -> None:
    finding = found(what, **changes)
    assert finding.level.value == level
    assert words in f"{finding.words}; {finding.fix}"
    assert "\n" not in finding.words + finding.fix
    assert finding.fix or finding.level is Level.OK


def test_without_ros_it_says_what_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "find_spec", lambda _: None)
    monkeypatch.setattr(doctor_camera, "find_spec", lambda _: None)
    assert doctor_machine.check_ros().level is Level.SKIPPED
    (finding,) = check_camera("/image", "", False, 1.0)
    assert finding.level is Level.SKIPPED
    (finding,) = check_camera("", "", False, 1.0)
    assert "--image" in finding.fix


def test_a_camera_that_cannot_be_looked_at_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_camera, "find_spec", lambda _: object())
    monkeypatch.setattr(doctor_camera, "ROS_PACKAGE", "no_such")
    (finding,) = check_camera("/image", "", False, 1.0)
    assert finding.level is Level.FAIL
    assert finding.words.startswith("could not be looked at: ")
    assert "No module named 'no_such'" in finding.words


def test_damaged_weights_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nano = Path(__file__).resolve().parents[2] / "models" / "vidllm-nano"
    broken = tmp_path / "broken"
    shutil.copytree(nano, broken)
    shard = sorted(broken.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:1000])
    assert doctor.main(["--model", str(broken), "--device", "cpu", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (weights,) = [line for line in lines if line["what"] == "weights"]
    assert weights["level"] == "fail"
    assert "truncated or damaged" in weights["words"]


def test_the_bundled_model_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "M parameters, boxes from score" in out
    assert "MiB needed" in out
    assert "fail" not in out


def test_memory_that_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": torch.zeros(2**19 - 64, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    monkeypatch.setattr("vidllm_ros.network.memory.free_bytes", lambda _: 2**20)
    finding = doctor_machine.check_memory(tmp_path, "cpu")
    assert (finding.level, finding.words) == (
        Level.FAIL,
        "5 MiB needed, 1 MiB free on cpu",
    )
    monkeypatch.setattr("vidllm_ros.network.memory.free_bytes", lambda _: 8 * 2**20)
    finding = doctor_machine.check_memory(tmp_path, "cpu")
    assert finding.level is Level.WARN
    assert "window_size" not in finding.fix  # it does not enter the estimate


def test_a_host_without_room_on_the_way_to_a_gpu_fails_as_configure_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = [2**30]
    monkeypatch.setattr(
        "vidllm_ros.network.memory.free_bytes", lambda d: host[0] if d == "cpu" else 100 << 30
    )
    converted = host_memory.vidllm_on_host(NANO, torch.float32)("none")
    monkeypatch.setattr(doctor_machine, "choose_precision", lambda *_: torch.float32)
    assert doctor_machine.check_memory(NANO, "cuda").level is Level.OK
    host[0] = int(converted)  # nine tenths of it are planned with
    finding, weights = doctor_machine.check_network(NANO, "cuda")
    assert (finding.what, finding.level) == ("memory", Level.FAIL)
    assert "of the host's memory to load vidllm-nano through" in finding.words
    assert finding.fix == "free some, or take a smaller model"
    assert (weights.what, weights.level) == ("weights", Level.SKIPPED)  # not there either
    with pytest.raises(ValueError, match="of the host's memory") as refused:
        loading._load_fitting(
            NANO, loading.BackendName.VIDLLM, torch.device("cuda"), torch.float32, loading.Fit(32)
        )
    assert str(refused.value) == f"{finding.words}; {finding.fix}"
    monkeypatch.setattr(doctor_machine, "choose_precision", lambda *_: torch.bfloat16)
    assert doctor_machine.check_memory(NANO, "cuda").level is Level.OK  # stays mapped


@pytest.fixture
def public_models(public_parts: Path, tmp_path: Path) -> Path:
    places = (PartPlace(str(public_parts / name)) for name in ("vggt", "vlm", "depth"))
    write_manifest(tmp_path / "joined", Manifest("vggt_vlm", *places))
    return tmp_path / "joined"


def test_public_models_in_a_row_are_looked_at_as_such(
    public_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(["--model", str(public_models), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "VGGT+vlm (scaled), backend vggt_vlm, 3 parts are there" in out
    assert "memory: 32 frames: needs " in out
    assert "fail" not in out


@pytest.mark.parametrize(
    ("mib", "level", "words"),
    [(23, "warn", "frames: needs"), (4, "fail", "images at 50%: needs")],
)
def test_public_models_that_do_not_fit(
    mib: int, level: str, words: str, public_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidllm_ros.network.memory.free_bytes", lambda _: mib * 2**20)
    finding = next(iter(doctor_machine.check_concatenation(public_models, "cpu")))
    assert (finding.what, finding.level.value) == ("memory", level)
    assert words in finding.words


def test_public_models_that_fit_only_with_a_quantised_language_model_pass(
    public_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = ConcatenationAccount
    monkeypatch.setattr(account, "stage_bytes", lambda self, rung: {"geometry": rung.frames << 20})
    weights = Weights(geometry=0, language=200 << 20, tables=0)
    whole = concat_account.look_at_concatenation
    monkeypatch.setattr(
        concat_account, "look_at_concatenation", lambda *a: (whole(*a)[0], weights)
    )
    host = [400 << 20]
    monkeypatch.setattr(
        "vidllm_ros.network.memory.free_bytes", lambda d: host[0] if d == "cpu" else 170 << 20
    )
    monkeypatch.setattr(memory_rungs, "why_not_quantize", lambda *_: "")
    finding = next(iter(doctor_machine.check_concatenation(public_models, "cuda")))
    assert finding.level is Level.OK
    size = WindowSettings.size
    assert finding.words.startswith(f"language model in int8, {size} frames: needs 146 MiB")
    monkeypatch.setattr(memory_rungs, "why_not_quantize", lambda *_: "expected torchao")
    finding = next(iter(doctor_machine.check_concatenation(public_models, "cuda")))
    assert finding.level is Level.FAIL
    monkeypatch.setattr(memory_rungs, "why_not_quantize", lambda *_: "")
    host[0] = 170 << 20  # not for a model that is converted there whole
    monkeypatch.setattr(host_memory, "concatenation_on_host", lambda *_: lambda kind: 200 << 20)
    finding = next(iter(doctor_machine.check_concatenation(public_models, "cuda")))
    assert finding.level is Level.FAIL
    assert "200 MiB of the host's memory" in finding.words
    finding = next(iter(doctor_machine.check_concatenation(public_models, "cpu")))
    assert finding.level is Level.FAIL  # there the weights lie whole before they are quantised


def test_a_public_model_that_is_not_there_is_named(
    public_models: Path, public_parts: Path
) -> None:
    places = (PartPlace(str(public_parts / name)) for name in ("vggt", "none", "depth"))
    write_manifest(public_models, Manifest("vggt_vlm", *places))
    (finding,) = doctor_machine.check_concatenation(public_models, "cpu")
    assert finding.level is Level.FAIL
    assert finding.words.startswith("language: expected a file, a folder or a hub id")


def test_weights_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folders, "bundled_folders", list)
    findings = doctor_machine.check_machine(None, "cpu")
    fix = next(finding.fix for finding in findings if finding.what == "weights")
    assert fix == "check out models/ again, or copy it whole"


@pytest.mark.parametrize(
    ("model", "words", "fix"),
    [
        ("/nope", "'/nope', which does not exist", "name a folder that save_pretrained wrote"),
        ("{here}", "expected config.json in {here}, got none", "name a folder that save_pretr"),
        ("{here}/a.txt", "which is a file", "name the folder it is in"),
    ],
)
def test_a_wrong_model_has_one_cause_and_one_fix(
    model: str, words: str, fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").touch()
    here = str(tmp_path)
    assert doctor.main(["--model", model.format(here=here), "--device", "cpu", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (failed,) = [line for line in lines if line["level"] == "fail"]
    assert failed["what"] == "weights"
    assert failed["words"].endswith(words.format(here=here))
    assert failed["fix"].startswith(fix)
    assert ";" not in failed["words"] + failed["fix"]
    assert "memory" not in {line["what"] for line in lines}  # of nothing


@pytest.mark.parametrize(
    ("sentence", "words", "fix"),
    [
        ("model: expected a, got b; take c", "model: expected a, got b", "take c"),
        ("a: got size 1; 2; copy it again", "a: got size 1; 2", "copy it again"),
        ("storage has 1 byte; expected 2", "storage has 1 byte; expected 2", "name another"),
        ("no weights", "no weights", "name another"),
    ],
)
def test_a_fix_is_cut_off_only_where_there_is_one(sentence: str, words: str, fix: str) -> None:
    finding = doctor_machine.refusal("weights", RuntimeError(sentence), "name another")
    assert (finding.words, finding.fix) == (words, fix)


@pytest.mark.parametrize(("code", "level"), [("pass", "ok"), ("import no_such_numpy", "warn")])
def test_cv_bridge_is_tried_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, code: str, level: str
) -> None:
    monkeypatch.setattr(doctor_machine, "find_spec", lambda _: object())
    monkeypatch.setattr(doctor_machine, "_CV_BRIDGE", code)
    assert doctor_machine.check_numpy().level.value == level


def test_a_gpu_that_is_not_there_fails() -> None:
    findings = list(doctor_machine.check_machine(None, "cuda:99"))
    device = next(finding for finding in findings if finding.what == "device")
    assert device.level is Level.FAIL


def test_a_torch_too_old_for_a_gpu_is_named_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reason = "expected torch 2.9 or newer on a GPU, got 2.4.1; install a newer one"
    monkeypatch.setattr(full_float32, "why_not_full_float32", lambda: reason)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor_machine.check_torch().level is not Level.FAIL
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    finding = doctor_machine.check_torch()
    assert finding.level is Level.FAIL
    assert finding.words == "expected torch 2.9 or newer on a GPU, got 2.4.1"
    assert finding.fix == "install a newer one"
