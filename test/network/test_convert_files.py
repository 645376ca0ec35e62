# SPDX-License-Identifier: Apache-2.0
"""Files are looked at without being read, read one tensor at a time, and refused in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidllm_ros.network.convert_files import TensorFiles, weight_files
from vidllm_ros.network.convert_hub import UNKNOWN_LICENCE, licence_of, locate

SHARD_BYTES = 16 * 2**20  # so large that the heap's own growth, 1 or 2 MB, does not decide
MEASURED = """
import gc, json, sys
from pathlib import Path
import torch
from vidllm_ros.network import convert_write
from vidllm_ros.network.convert_files import TensorFiles
from vidllm_ros.network.convert_hub import Located
from vidllm_ros.network.convert_plan import Choices, build_plan
from vidllm_ros.network.convert_sources import open_source

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l for l in lines if l.startswith(field)).split()[1]) * 1024

folder, out, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
warm = {n: torch.zeros(4) for n in "ab"}
convert_write._save(warm, Path(sys.argv[2] + ".warm"))
sources = {"language_model": open_source("language_model", Located(folder, "x", "y"))}
narrow = {"encoder": {"hidden_size": 48, "num_attention_heads": 3}}  # untrained parts stay small
plan = build_plan(sources, Choices(size="nano", changes=narrow))
kind = None if dtype == "same" else getattr(torch, dtype)
shard = int(sys.argv[4])
supply = convert_write.Supply(plan, sources, kind, mapped_bytes=shard // 4)
for name in plan.places:  # what building untrained parts takes once is not what is measured
    if name not in plan.pieces:
        supply.tensor(name)
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = memory("VmRSS")
for path in convert_write.write_checkpoint(supply, out, shard):
    pass
shards = [*out.glob("*.safetensors"), *folder.glob("*.safetensors")]
largest = max(f.stat().st_size for f in shards)
total = sum(f.stat().st_size for f in out.glob("*.safetensors"))
print(json.dumps({"rise": memory("VmHWM") - before, "largest": largest, "total": total}))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="reads Linux's /proc")
@pytest.mark.parametrize("dtype", ["same", "float16"])
def test_memory_stays_below_twice_the_largest_shard(dtype: str, tmp_path: Path) -> None:
    """Peak resident memory of a fresh process, over a network of six shards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from vidllm_ros.network.text_packing import build_tokenizer

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=544,
        intermediate_size=1472,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=1024,
    )
    source = tmp_path / "source"
    LlamaForCausalLM(config).save_pretrained(source, max_shard_size="16MB")
    build_tokenizer((), 261).save_pretrained(source)
    limit = SHARD_BYTES if dtype == "same" else SHARD_BYTES // 2
    for attempt in range(3):  # what a busy machine maps beside only adds: one run below is enough
        out = tmp_path / f"out{attempt}"
        run = subprocess.run(
            [sys.executable, "-c", MEASURED, str(source), str(out), dtype, str(limit)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-2000:]
        measured = json.loads(run.stdout.splitlines()[-1])
        if measured["rise"] < 2 * measured["largest"]:
            break
    print(measured)
    assert measured["total"] > 4 * measured["largest"] / (1 if dtype == "same" else 2)
    assert measured["rise"] < 2 * measured["largest"], measured


@pytest.mark.parametrize("wrapped", [False, True])
def test_torch_files_are_read_by_name(wrapped: bool, tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"model": weights, "step": 3} if wrapped else weights, tmp_path / "model.pt")
    files = TensorFiles(tmp_path)
    assert {name: (t.shape, t.dtype) for name, t in files.tensors.items()} == {
        "a": ((2, 3), torch.float32),
        "b": ((2,), torch.bfloat16),
    }
    read = files.read("a")
    files.release()
    assert torch.equal(read, weights["a"])
    assert files.touched_bytes == 0


def test_safetensors_come_before_torch_files(tmp_path: Path) -> None:
    torch.save({"old": torch.zeros(1)}, tmp_path / "model.pt")
    save_file({"new": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "gone.safetensors"}}'
    )
    with pytest.raises(FileNotFoundError, match=r"expected gone\.safetensors"):
        weight_files(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"model\.safetensors .*copy it again"):
        TensorFiles(tmp_path)
    with pytest.raises(FileNotFoundError, match="got none"):
        weight_files(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", "---\nlicense: mit\n---\n", "mit"),
        (
            "README.md",
            "---\nlicense: other\nlicense_name: vggt-aup\n---\n# x\n",
            "other (vggt-aup)",
        ),
        ("README.md", "# no fields\n", UNKNOWN_LICENCE),
        (
            "LICENSE.txt",
            "\n  Llama 2 Community License\n...",
            "LICENSE.txt: Llama 2 Community License",
        ),
        ("notes.txt", "mit", UNKNOWN_LICENCE),
    ],
)
def test_licence_is_what_is_given(name: str, text: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == licence
    file = tmp_path / "model.safetensors"
    file.touch()
    assert locate(str(file)).licence == licence
