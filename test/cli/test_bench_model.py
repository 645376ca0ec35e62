# SPDX-License-Identifier: Apache-2.0
"""The command end to end at a small size; no speed is asserted."""

import json

import pytest

from vidllm_ros.cli import bench, bench_stages
from vidllm_ros.network.acceleration import Acceleration
from vidllm_ros.network.account import Workload
from vidllm_ros.network.configuration import VidLLMConfig


def test_the_report_adds_up(tmp_path, capsys):
    out = tmp_path / "report.json"
    options = ["--frames", "8", "--resolution", "28x42", "--repetitions", "2", "--out", str(out)]
    assert bench.main(["model", *options]) == 0
    report = json.loads(out.read_text())
    stages = report["stages"]
    order = [*bench_stages.RECONSTRUCTION, "prefill", "first_token"]
    assert list(stages) == order
    total = sum(stages[name]["median_ms"] for name in order) / 1e3
    assert report["window_to_first_token_s"] == pytest.approx(total, rel=1e-3)
    plain = sum(stages[name]["plain"]["median_ms"] for name in order) / 1e3
    assert report["speedup_vs_plain"] == pytest.approx(plain / total, rel=1e-3)
    for stage in stages.values():
        rate = stage["gflop"] / stage["median_ms"]
        assert stage["tflop_per_s"] == pytest.approx(rate, rel=1e-3)
        assert stage["share_of_floor"] == pytest.approx(
            stage["floor_ms"] / stage["median_ms"], rel=1e-3
        )
    assert report["attention_kernels_ms"]
    assert out.with_suffix(".png").stat().st_size > 1000
    assert json.loads(capsys.readouterr().out) == {"speedup_vs_plain": report["speedup_vs_plain"]}


def test_the_account_of_paper_size_needs_no_weights(capsys):
    assert bench.main(["model", "--size", "paper", "--account"]) == 0
    shown = capsys.readouterr().out
    assert "| aggregator | 152," in shown
    assert "3096 scene tokens" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "huge"], "nano or paper"),
        (["--resolution", "84"], "HxW"),
        (["--precision", "int2"], "expected auto"),
        (["--device", "cuda"], "torch sees none"),
    ],
)
def test_mistakes_are_said_in_words(options, said, capsys, tmp_path):
    import torch

    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert bench.main(["model", "--out", str(tmp_path / "a.json"), *options]) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_half_precision_keeps_the_camera_head_in_full():
    config = VidLLMConfig(point_head=False)
    found = bench_stages.StageBench(
        config, Workload(8, (28, 42), 20), "cpu", "bfloat16", Acceleration()
    )
    dtypes = {name: str(p.dtype) for name, p in found.model.named_parameters()}
    assert {d for n, d in dtypes.items() if n.startswith("camera_head")} == {"torch.float32"}
    assert {d for n, d in dtypes.items() if n.startswith("aggregator")} == {"torch.bfloat16"}
    assert found.measure(1, with_plain=True)["speedup_vs_plain"] > 0
