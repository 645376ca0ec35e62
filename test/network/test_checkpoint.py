# SPDX-License-Identifier: Apache-2.0
"""Round trips through the disk, and one clear sentence for every wrong folder."""

import json

import numpy as np
import pytest
import torch

from vidllm_ros.network.checkpoint import load_vidllm
from vidllm_ros.network.vidllm import VidLLM


@pytest.fixture
def folder(build_tiny, tmp_path):
    build_tiny().save_pretrained(tmp_path / "model", max_shard_size="200KB")
    return tmp_path / "model"


def test_round_trip_is_exact(build_tiny, folder, frames):
    model, again = build_tiny(), load_vidllm(folder)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert max(file.stat().st_size for file in shards) < 300_000
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, again.get_buffer(name)), name
    a, b = model.reconstruct(frames), again.reconstruct(frames)
    np.testing.assert_array_equal(a.depth, b.depth)
    question = "What colour is the chair?"
    assert model.answer(a.scene, question, 5).text == again.answer(b.scene, question, 5).text
    assert not again.training
    assert again.config.to_dict()["label_vocabulary"] == ["chair", "table", "lamp"]
    assert again.config.encoder == model.config.encoder


def test_half_precision_on_disk_is_single_precision_on_a_cpu(build_tiny, tmp_path, frames):
    model = build_tiny()
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert size < 2.3 * sum(p.numel() for p in model.parameters())
    again = load_vidllm(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].bfloat16().float()), name
    causal = again.language.model
    assert causal.lm_head.weight is causal.model.embed_tokens.weight
    half = load_vidllm(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.camera_head.embed_pose.weight.dtype == torch.float32
    depth, full = half.reconstruct(frames).depth, again.reconstruct(frames).depth
    assert np.abs(np.log(depth / full)).mean() < 0.05
    half.answer(half.reconstruct(frames).scene, "What?", 3)


def test_without_tokenizer_says_so(build_tiny, tiny_fields, frames, tmp_path):
    bare = VidLLM(build_tiny().config).eval()
    scene = bare.reconstruct(frames).scene
    with pytest.raises(ValueError, match="tokenizer: expected"):
        bare.answer(scene, "What?")
    bare.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_vidllm(tmp_path)


def test_missing_folder_and_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        load_vidllm(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_vidllm(tmp_path / "empty")
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="copy the whole folder"):
        load_vidllm(folder)


def test_truncated_weights(folder):
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_vidllm(folder)


def test_truncated_config(folder):
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match="expected JSON"):
        load_vidllm(folder)


def test_foreign_folder(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="model_type 'vidllm'"):
        load_vidllm(folder)


def test_weights_of_another_size(folder):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "bridge_tokens": 8}))
    with pytest.raises(ValueError, match="model: expected"):
        load_vidllm(folder)
    (folder / "config.json").write_text(json.dumps({**fields, "aggregator_depth": 5}))
    with pytest.raises(ValueError, match="missing"):
        load_vidllm(folder)
