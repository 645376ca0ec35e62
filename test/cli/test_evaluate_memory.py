# SPDX-License-Identifier: Apache-2.0
"""One run has one step of the memory ladder, whoever goes on with it and in however many parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pretended_memory
import pytest
import torch
from test_evaluate_processes import QUESTIONS, write_four_scenes
from two_processes import run_twice

from vidllm_ros.cli import evaluate
from vidllm_ros.cli.evaluate_concatenation import PredictorWithinMemory
from vidllm_ros.network.concat_manifest import Manifest, PartPlace, write_manifest
from vidllm_ros.streaming import memory_probe

Run = Callable[..., int]


@pytest.fixture
def arguments(public_parts: Path, tmp_path: Path) -> list[str]:
    """Four scenes, asked of public models in a row."""
    write_four_scenes(tmp_path)
    rng = np.random.default_rng(0)
    for image in (tmp_path / "posed_images").rglob("*.jpg"):  # of a size that networks take
        cv2.imwrite(str(image), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    places = (PartPlace(str(public_parts / name)) for name in ("vggt", "vlm"))
    write_manifest(tmp_path / "row", Manifest("vggt_vlm", *places, scale="none"))
    words = ["sqa3d", "--data", str(tmp_path), "--model", str(tmp_path / "row"), "--no-pages"]
    return [*words, "--out", str(tmp_path / "r.json")]


@pytest.fixture
def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Evaluate where there is memory for this step and no larger one."""
    monkeypatch.setattr(memory_probe, "choose_step", pretended_memory.choose_step)
    monkeypatch.delenv("RANK", raising=False)

    def start(step: str, *more: str) -> int:
        monkeypatch.setenv("PRETENDED_STEPS", step)
        return evaluate.main([*arguments, *more])

    return start


def identity(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "r.predictions" / "run.json").read_text()))


def predicted(folder: Path) -> int:
    files = (folder / "r.predictions").glob("predictions*.jsonl")
    return sum(file.read_text().count("\n") for file in files)


def test_a_run_goes_on_with_the_step_it_began_with(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("images_75", "--scenes", "2") == 0
    began = identity(tmp_path)
    assert began["memory_step"] == "images_75 none all 0.75"
    assert began["model"].endswith(" (images at 75%)")
    assert predicted(tmp_path) == 3
    capsys.readouterr()
    assert run("full") == 0  # more memory is there now: as before all the same
    assert identity(tmp_path) == began
    assert predicted(tmp_path) == QUESTIONS
    assert "images at 75%: pretended, as the run began" in capsys.readouterr().err
    assert "images at 75%" in json.loads((tmp_path / "r.json").read_text())["memory"]


@pytest.mark.parametrize(
    ("began", "words"),
    [("full", "1 frames, as the run"), ("images_75", "1 frames, images at 75%, as the run")],
)
def test_a_run_does_not_go_on_with_less_memory(
    began: str, words: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(began, "--scenes", "2") == 0
    before, count = identity(tmp_path), predicted(tmp_path)
    capsys.readouterr()
    assert run("images_50") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"r.predictions: expected memory for {words} began: " in line
    assert line.endswith("or take a smaller model, or remove the folder and begin anew")
    assert (identity(tmp_path), predicted(tmp_path)) == (before, count)


def test_a_folder_of_another_model_does_not_say_which_step(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.predictions").mkdir()
    (tmp_path / "r.predictions" / "run.json").write_text('{"model": "another"}')
    assert run("images_50") == 1
    assert "expected predictions of this run, got others" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["see", "answer"])
def test_a_scene_that_memory_ends_at_is_named_and_gone_on_with(
    where: str,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = getattr(PredictorWithinMemory, where)

    def short(self: PredictorWithinMemory, seen: Any, *more: str, **named: str) -> Any:
        view = seen if where == "see" else seen.view
        if view.scene_id == "scene0001_00":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, seen, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PredictorWithinMemory, where, short)
        assert run("full") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "vidllm evaluate: scene0001_00: expected memory on cpu for all of this scene, got less "
        "(measured for a scene of 1 frames); free memory, or take a smaller model: the same "
        "command goes on at this scene"
    )
    assert predicted(tmp_path) == 2
    assert run("full") == 0
    assert predicted(tmp_path) == QUESTIONS


@pytest.mark.slow
def test_of_two_processes_the_first_says_which_step(arguments: list[str], tmp_path: Path) -> None:
    done = run_twice(
        "pretended_memory", arguments, PRETENDED_STEPS="images_75 full"
    )  # the second would have room for more
    assert done.returncode == 0, done.stderr
    assert identity(tmp_path)["memory_step"] == "images_75 none all 0.75"
    assert predicted(tmp_path) == QUESTIONS
    assert (tmp_path / "r.predictions" / "predictions-1.jsonl").is_file()


@pytest.mark.slow
def test_a_process_without_room_for_that_step_ends_the_run_before_any_prediction(
    arguments: list[str], tmp_path: Path
) -> None:
    done = run_twice("pretended_memory", arguments, PRETENDED_STEPS="full images_50")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("vidllm evaluate:")]
    assert "expected memory for 1 frames, as the run began: " in line
    assert predicted(tmp_path) == 0
