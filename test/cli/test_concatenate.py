# SPDX-License-Identifier: Apache-2.0
"""Public models named on the command line become a folder that infer and evaluate take."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidllm_ros.cli import concatenate, evaluate, infer
from vidllm_ros.evaluation.benchmark_cases import Case, Cases, cases_from_items
from vidllm_ros.evaluation.predictor import SceneView
from vidllm_ros.network import convert_hub
from vidllm_ros.network.concat_manifest import read_manifest
from vidllm_ros.network.memory_plan import Rung
from vidllm_ros.streaming import memory_probe
from vidllm_ros.streaming.memory_probe import MemoryChoice
from vidllm_ros.structures import Frames


def made(parts: Path, out: Path, *more: str) -> int:
    return concatenate.main(["--vggt", str(parts / "vggt"), "--out", str(out), *more])


def llava(parts: Path, out: Path, *more: str) -> int:
    depth = ("--metric-depth", str(parts / "depth"))
    return made(parts, out, *depth, "--llava-3d", str(parts / "llava_3d"), *more)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    folder = tmp_path / "film"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
    return folder


def test_folder_names_parts_licences_and_how_to_use_it(
    public_parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    assert llava(public_parts, out, "--label", "chair", "--frames", "5") == 0
    said = capsys.readouterr()
    assert f"backend vggt_llava3d and model {out}" in said.out
    assert "VGGT: " in said.err
    manifest = read_manifest(out)
    assert (manifest.labels, manifest.frames, manifest.scale) == (("chair",), 5, "least_squares")
    assert manifest.geometry.where == str((public_parts / "vggt").resolve())
    card = (out / "README.md").read_text()
    assert "cc-by-nc-4.0" in card
    assert "apache-2.0" in card
    assert f"--backend vggt_llava3d --model {out}" in card
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "concatenation.json"]
    assert llava(public_parts, out) == 1  # not over an existing one
    assert "new or empty folder" in capsys.readouterr().err


def test_infer_says_what_it_runs_and_answers(
    public_parts: Path, tmp_path: Path, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vlm"
    assert made(public_parts, out, "--vlm", str(public_parts / "vlm"), "--scale", "none") == 0
    capsys.readouterr()
    report = tmp_path / "report.json"
    wanted = [str(film), "--backend", "vggt_vlm", "--model", str(out), "--ask", "what is it?"]
    assert infer.main([*wanted, "--json", str(report)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "licence cc-by-nc-4.0" in said
    assert "memory for 3 frames: needs " in said
    content = json.loads(report.read_text())
    assert (content["backend"], content["scale"]) == ("vggt_vlm", 1.0)
    assert content["questions"][0]["objects"] == []
    assert infer.main([*wanted[:4], str(out), "--backend", "vggt_llava3d"]) == 1
    assert "set backend to vggt_vlm" in capsys.readouterr().err


def cases_of(count: int) -> Cases:
    """One scene of so many frames."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, 60, 80, 3), dtype=np.uint8)
    view = SceneView("room", Frames(images, tuple(range(1, count + 1)), "camera"), np.eye(4))
    return cases_from_items([Case("a", "room")], lambda _: view)


def room_for_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the ladder end at half the frames, images at their full size."""
    rung = Rung("half_frames", "none", 8, 1.0)
    monkeypatch.setattr(
        memory_probe,
        "choose_step",
        lambda prospect, model, device, rungs, frames, wanted: MemoryChoice(
            rung, frames, f"{rung.words}: needs 9 MiB of 10 MiB free"
        ),
    )


def test_evaluate_measures_it_under_its_row(
    public_parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "row"
    assert llava(public_parts, out) == 0
    capsys.readouterr()
    cases = cases_of(8)
    predictor, network = evaluate.open_predictor(out, "", "cpu", cases, tmp_path / "run")
    assert predictor.name.startswith("VGGT+LLaVA-3D (scaled) ")
    assert not predictor.name.endswith(")")  # whole: nothing to add
    assert network is None
    assert "memory for 8 frames: needs " in " ".join(capsys.readouterr().err.split())
    seen = predictor.see(cases.open_scene("room"))
    assert len(predictor.depth(seen)) == len(predictor.poses(seen)) == 8


def test_evaluate_steps_down_as_the_node_and_says_so(
    public_parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "row"
    assert llava(public_parts, out) == 0
    room_for_half(monkeypatch)
    cases = cases_of(16)
    predictor, _ = evaluate.open_predictor(out, "", "cpu", cases, tmp_path / "run")
    assert predictor.name.endswith(" (8 frames)")
    assert "memory for 8 frames: needs 9 MiB of 10 MiB" in " ".join(
        capsys.readouterr().err.split()
    )
    seen = predictor.see(cases.open_scene("room"))
    stamps = seen.reconstruction.stamps_ns
    assert (len(stamps), stamps[0], stamps[-1]) == (8, 1, 16)  # poses are tied to the first
    assert len(predictor.cloud(seen)) > 0
    assert isinstance(predictor.answer(seen, "what is it?"), str)
    for ask in (predictor.depth, predictor.poses):
        with pytest.raises(ValueError, match=r"room: expected memory for .* all 16 .* for 8;"):
            ask(seen)


def test_infer_steps_down_as_the_node_and_says_so(
    public_parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, film = tmp_path / "vlm", tmp_path / "long"
    film.mkdir()
    for number, image in enumerate(cases_of(16).open_scene("room").frames.images):
        cv2.imwrite(str(film / f"{number:03d}.png"), image)
    assert made(public_parts, out, "--vlm", str(public_parts / "vlm"), "--scale", "none") == 0
    room_for_half(monkeypatch)
    report = tmp_path / "report.json"
    wanted = [str(film), "--backend", "vggt_vlm", "--model", str(out), "--frames", "16"]
    pictures = ["--pictures", str(tmp_path / "pictures"), "--json", str(report)]
    assert infer.main([*wanted, *pictures]) == 0
    shown = capsys.readouterr()
    assert "memory for 8 frames: needs 9 MiB of 10 MiB free" in " ".join(shown.err.split())
    assert ": 8 frames, " in shown.out
    content = json.loads(report.read_text())
    assert content["frames"] == len(content["stamps_ns"]) == 8
    assert content["memory"] == "8 frames: needs 9 MiB of 10 MiB free"


def test_a_hub_id_is_fetched_once_and_kept_by_path(
    public_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_hub, "_fetch", lambda where: public_parts / "vggt")
    out = tmp_path / "hub"
    vlm = ("--vlm", str(public_parts / "vlm"), "--scale", "none")
    assert concatenate.main(["--vggt", "facebook/VGGT-1B", "--out", str(out), *vlm]) == 0
    part = read_manifest(out).geometry
    assert part.where == "facebook/VGGT-1B"
    assert part.licence == "cc-by-nc-4.0"
    monkeypatch.setattr(convert_hub, "_fetch", lambda where: pytest.fail("asked again"))
    assert part.locate(out, "geometry") == (public_parts / "vggt").resolve()


def test_a_model_that_reads_little_is_shown_fewer_frames(
    public_parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vidllm_ros.network.concat_vlm.context_tokens", lambda config: 2600)
    vlm = ("--vlm", str(public_parts / "vlm"), "--scale", "none")
    assert made(public_parts, tmp_path / "few", *vlm) == 0
    assert "has room for 3 frames of 42x56 px, not for 8: 3 are written" in capsys.readouterr().err
    assert read_manifest(tmp_path / "few").frames == 3
    assert made(public_parts, tmp_path / "many", *vlm, "--frames", "5") == 1
    assert "--frames: expected a number the model has room for" in capsys.readouterr().err
    assert not (tmp_path / "many").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--llava-3d", "{}/llava_3d", "--vlm", "{}/vlm"], "expected one of them, got both"),
        (["--metric-depth", "{}/depth"], "expected one of them, got both or none"),
        (["--llava-3d", "{}/llava_3d"], "--metric-depth: expected a metric-depth model"),
        (["--llava-3d", "{}/vlm", "--metric-depth", "{}/depth"], "run as backend vggt_vlm"),
        (["--vlm", "{}/clip", "--scale", "none"], "language: expected a vision-language model"),
        (["--vlm", "{}/llava_3d", "--scale", "none"], "llava_llama'; use --llava-3d"),
        (["--vlm", "{}/vlm", "--metric-depth", "{}/empty"], "--metric-depth: metric_depth: exp"),
        (["--vlm", "{}/empty", "--scale", "none"], "--vlm: language: expected"),
        (
            ["--llava-3d", "{}/empty", "--metric-depth", "{}/depth"],
            "--llava-3d: weights: expected *.safetensors",
        ),
        (
            ["--llava-3d", "{}/llava_3d", "--metric-depth", "{}/depth", "--clip", "{}/empty"],
            "--clip: weights: expected *.safetensors",
        ),
        (["--vggt", "{}/empty", "--vlm", "{}/vlm", "--scale", "none"], "--vggt: weights: exp"),
        (["--vlm", "{}/nothing", "--scale", "none"], "--vlm: expected a file, a folder or"),
        (
            ["--vlm", "{}/vlm", "--metric-depth", "{}/depth_relative"],
            "expected a metric model of Depth Anything",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    options: list[str],
    words: str,
    public_parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (public_parts / "empty").mkdir(exist_ok=True)
    filled = [option.format(public_parts) for option in options]
    assert made(public_parts, tmp_path / "out", *filled) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
