# SPDX-License-Identifier: Apache-2.0
"""`vidllm convert` from the command line: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from vidllm_ros.cli.convert import main
from vidllm_ros.network.checkpoint import load_vidllm
from vidllm_ros.network.text_packing import build_tokenizer

SHARD_MB = 0.5


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=3, image_size=56, patch_size=14
    )
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nDINOv2\n")
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("words")
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=640,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    build_tokenizer((), 261).save_pretrained(folder)
    return folder


def test_folder_loads_and_its_card_names_every_part(
    dinov2: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vidllm-paper"
    line = f"--dinov2 {dinov2} --language-model {words} --out {out} --shard-mb {SHARD_MB}"
    code = main([*line.split(), "--set", "max_frames=8", "--dtype", "bfloat16"])
    printed = capsys.readouterr().out
    assert code == 0
    assert "missing:" in printed
    assert "untrained" in printed
    model = load_vidllm(out)
    assert model.config.max_frames == 8
    assert model.config.language["hidden_size"] == 32
    assert model.language.has_tokenizer
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 1.2e6 * SHARD_MB for shard in shards)
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"
    assert "apache-2.0" in card
    assert "unknown (nothing beside the weights names one)" in card
    assert "Depth and poses are untrained." in card
    report = json.loads((out / "key_report.json").read_text())
    assert {part["part"] for part in report["parts"] if part["source"] == "untrained"} == {
        "adapter",
        "aggregator",
        "box_features",
        "camera_head",
        "depth_head",
        "grounding",
        "metric_depth",
        "patches",
        "point_head",
        "projector",
    }


def test_dry_run_reports_and_writes_nothing(dinov2: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert (
        main(["--dinov2", str(dinov2), "--out", str(out), "--report", str(report), "--dry-run"])
        == 0
    )
    assert not out.exists()
    facts = json.loads(report.read_text())
    assert facts["sources"]["dinov2"]["left_over"] == []
    assert any("no language model was given" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("arguments", "words_said"),
    [
        ([], "expected at least one of --vggt"),
        (["--vggt", "/no/such/place"], "--vggt: expected a file, a folder or a hub id"),
        (["--llava", "nobody/nothing"], "--llava: expected a file, a folder or a known hub id"),
        (["--dinov2", "{dinov2}", "--set", "colour=red"], "set: expected NAME=VALUE"),
        (["--dinov2", "{dinov2}", "--encoder", "vggt"], "encoder: expected auto"),
        (["--vggt", "{dinov2}"], "vggt: weights: expected a tensor aggregator.camera_token"),
        (["--clip", "{words}"], "clip: expected a CLIP vision tower"),
        (["--dinov2", "{dinov2}", "--language-model", "{dinov2}"], "language_model: tokenizer"),
    ],
)
def test_mistake_is_one_sentence_and_a_code(
    arguments: list[str],
    words_said: str,
    dinov2: Path,
    words: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    filled = [text.format(dinov2=dinov2, words=words) for text in arguments]
    assert main([*filled, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip()
    assert words_said in said
    assert len([line for line in said.splitlines() if line.startswith("vidllm convert:")]) == 1
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(dinov2: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    assert main(["--dinov2", str(dinov2), "--out", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_torch_files_with_code_in_them_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.zeros(1), "b": Path("x")}, tmp_path / "model.pt")
    assert main(["--vggt", str(tmp_path / "model.pt"), "--out", str(tmp_path / "out")]) == 1
    assert "expected a torch file of tensors alone" in capsys.readouterr().err
