# SPDX-License-Identifier: Apache-2.0
"""The command end to end at a small size; no speed is asserted."""

import json
import shlex
from dataclasses import replace

import pytest
import torch

from vidllm_ros.cli import bench, bench_model, bench_stages, bench_whole
from vidllm_ros.network.acceleration import Acceleration
from vidllm_ros.network.account import Workload
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.metric_geometry import frames_with_metric_depth
from vidllm_ros.network.scene_state import scene_state
from vidllm_ros.network.vidllm import VidLLM


def test_the_report_adds_up(tmp_path, capsys):
    out = tmp_path / "report.json"
    options = ["--frames", "8", "--resolution", "28x42", "--repetitions", "2", "--out", str(out)]
    assert bench.main(["model", *options, "--measured-attention"]) == 0
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


def test_the_command_in_a_report_is_the_one_that_was_run(tmp_path, monkeypatch):
    out, size = tmp_path / "a b.json", ["--frames", "8", "--resolution", "28x42"]
    chosen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **how: chosen.append(how))
    rest = ["--precision", "float32", "--repetitions", "1", "--clock", "cpu", "--no-plain"]
    fast = ["--compile", "--channels-last", "--no-measured-attention"]
    options = [*size, *rest, *fast, "--out", str(out)]
    assert bench.main(["model", *options]) == 0
    assert chosen
    report = json.loads(out.read_text())
    assert {"transformers", "torchao", "cuda", "cudnn", "driver"} <= set(report)
    vidllm, name, *words = shlex.split(report["command"])
    assert (vidllm, name) == ("vidllm", "bench")
    assert " ".join(size) in " ".join(words)
    assert set(options) <= set(words)
    out.unlink()
    assert bench.main(words) == 0  # it can be run again, and says the same
    assert json.loads(out.read_text())["command"] == report["command"]


def test_a_gpu_that_is_not_there_is_said_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="expected one of 1 GPUs, got 'cuda:7'"):
        bench_stages.StageBench(
            VidLLMConfig(), Workload(8, (28, 42), 20), "cuda:7", "float32", Acceleration()
        )


def test_the_account_of_paper_size_needs_no_weights(capsys):
    assert bench.main(["model", "--size", "paper", "--account"]) == 0
    shown = capsys.readouterr().out
    assert "| aggregator | 152," in shown
    assert "3096 scene tokens" in shown


def test_memory_that_nobody_measured_meets_no_bar():
    bars = {bar.name: bar for bar in bench_model.bars_of("paper", "none")}
    assert bars["peak_memory_gb"].is_met({"peak_memory_gb": None}) is None
    assert bars["peak_memory_gb"].is_met({"peak_memory_gb": 29.0})
    (int4,) = [bar for bar in bench_model.bars_of("paper", "int4") if "memory" in bar.name]
    assert not int4.is_met({"peak_memory_gb": 29.0})
    assert bench_model.bars_of("nano", "none") == bench_model.NANO_BARS


def test_a_twin_without_memory_is_left_out_by_name(monkeypatch):
    def table_too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench_stages.plain_twin, "aggregate", table_too_large)
    found = bench_stages.StageBench(
        VidLLMConfig(point_head=False), Workload(8, (28, 42), 20), "cpu", "float32", Acceleration()
    )
    report = found.measure(1, with_plain=True)
    assert report["plain_out_of_memory"] == ["aggregator"]
    assert "speedup_vs_plain" not in report  # not of a part
    assert "plain" in report["stages"]["depth_head"]
    assert "plain" not in report["stages"]["aggregator"]
    assert found.peak_bytes() is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "huge"], "nano or paper"),
        (["--resolution", "84"], "HxW"),
        (["--precision", "int2"], "expected auto"),
        (["--device", "cuda"], "sees none; install a CUDA build and driver, or set device to cpu"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--account", "--quantize", "int4"], "quantize: expected none with --account, got"),
    ],
)
def test_mistakes_are_said_in_words(options, said, capsys, tmp_path):
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


@torch.no_grad()
def test_metric_depth_is_timed_as_a_window_runs_it_and_its_twin_for_every_frame():
    config = VidLLMConfig(point_head=False, scale_frames=3)
    found = bench_stages.StageBench(
        config, Workload(8, (28, 42), 20), "cpu", "float32", Acceleration()
    )
    stage = found._stages()["metric_depth"]
    read = frames_with_metric_depth(8, config)
    torch.testing.assert_close(
        stage.run().depth, stage.plain().depth[:, read], atol=1e-5, rtol=1e-4
    )


def test_whole_calls_are_timed_beside_the_sums(tmp_path, capsys, monkeypatch):
    """A window of 16 by 8: eight frames are remembered, and nothing else is."""
    counts, whole = [], VidLLM.reconstruct

    def note(self, frames, shrink=1.0):
        before = self.frame_cache.counts.encoded
        rec = whole(self, frames, shrink)
        counts.append((self.frame_cache.counts.encoded - before, rec.images.shape[1:3]))
        return rec

    monkeypatch.setattr(VidLLM, "reconstruct", note)
    out = tmp_path / "report.json"
    options = ["--frames", "16", "--resolution", "28x42", "--repetitions", "2", "--no-plain"]
    assert bench.main(["model", *options, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    shown = capsys.readouterr().err
    for name, key in bench_whole.SUMS.items():
        call = report["calls"][name]
        flat = key.replace("reconstruction_s", "reconstruct_s").removesuffix("_s") + "_call_s"
        assert report[flat] == pytest.approx(call["median_ms"] / 1e3, rel=1e-3)
        assert call["count"] == 2
        assert report[key] > 0
        assert f"{call['median_ms']:.2f}" in shown
    ratio = report["stride_window_call_s"] / report["reconstruct_call_s"]
    assert report["stride_window_call_ratio"] == pytest.approx(ratio)
    assert {size for _, size in counts} == {(28, 42)}  # the workload's, nothing is resized
    assert report["calls_scene_tokens"] == VidLLMConfig().max_scene_tokens
    assert report["calls_scene_tokens_pooled"] >= 0
    a_round = [(16, (28, 42)), (8, (28, 42)), (16, (28, 42))]
    assert counts[:3] == a_round  # cold, by stride, to the first token
    assert counts[-3:] == a_round  # the further question sees no window


def test_a_scene_is_filled_up_to_the_workload(build_network):
    whole = bench_whole.WholeCalls(build_network, Workload(8, (28, 42), 20))
    assert len(whole.scene.tokens) == len(whole.scene.positions) == 20
    whole.before(bench_whole.FURTHER)
    state = scene_state(build_network, whole.scene)
    whole.first_word(whole.scene)
    assert scene_state(build_network, whole.scene) is state  # read once
    assert state.prefix.length >= 20


@torch.no_grad()
def test_first_words_are_timed_on_the_workload_where_a_window_has_no_tokens(
    build_network, monkeypatch
):
    reconstruct = VidLLM.reconstruct

    def empty(self, *args):
        rec = reconstruct(self, *args)
        scene = rec.scene
        return replace(
            rec, scene=replace(scene, tokens=scene.tokens[:0], positions=scene.positions[:0])
        )

    monkeypatch.setattr(VidLLM, "reconstruct", empty)
    whole = bench_whole.WholeCalls(build_network, Workload(8, (28, 42), 20))
    read, generate = [], build_network.language.generate_and_point

    def note(prefix, *args):
        read.append(prefix.length)
        return generate(prefix, *args)

    monkeypatch.setattr(build_network.language, "generate_and_point", note)
    whole.calls()[bench_whole.FIRST_WORD]()
    whole.calls()[bench_whole.FURTHER]()
    assert len(read) == 2
    assert min(read) >= 20
    report = bench_whole.whole_report({name: [0.1] for name in bench_whole.WORDS}, whole)
    assert report["calls_scene_tokens"] == 20
    assert report["calls_scene_tokens_pooled"] == 0


@pytest.fixture
def build_network():
    return bench_stages.build(VidLLMConfig(point_head=False), torch.device("cpu"), torch.float32)


def test_the_chart_shows_the_twins_there_are(tmp_path, monkeypatch):
    stage = {"median_ms": 2.0, "low_ms": 1.0, "high_ms": 3.0, "floor_ms": 0.5}
    twin = {"plain": {"median_ms": 4.0}}
    report = {"size": "nano", "frames": 8, "precision": "float32"}
    drawn = []
    monkeypatch.setattr(bench_model, "write_picture", lambda path, figure: drawn.append(figure))
    for stages in ({"a": stage | twin, "b": stage, "c": stage | twin}, {"a": stage}):
        bench_model.write_chart(tmp_path / "chart.png", report | {"stages": stages})
    some, none = (
        {bars.get_label(): len(bars.patches) for bars in figure.axes[0].containers
         if hasattr(bars, "patches")}
        for figure in drawn
    )  # fmt: skip
    assert some == {"literal twin": 2, "as run": 3, "floor": 3}
    assert none == {"as run": 1, "floor": 1}
