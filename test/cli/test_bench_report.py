# SPDX-License-Identifier: Apache-2.0
import transformers

from vidllm_ros.cli import bench
from vidllm_ros.cli.bench_report import Bar, print_bars, surroundings, version_of, with_bars

BARS = (Bar("cost", 0.1, "less is better"), Bar("gain", 1.5, "more is better", is_least=True))


def test_a_bar_is_met_from_its_own_side():
    met = with_bars({"cost": 0.1, "gain": 1.5}, BARS)["bars"]
    assert [entry["met"] for entry in met.values()] == [True, True]
    missed = with_bars({"cost": 0.11, "gain": 1.49}, BARS)["bars"]
    assert [entry["met"] for entry in missed.values()] == [False, False]


def test_what_was_not_measured_is_not_met():
    report = with_bars({"cost": None}, BARS)
    assert [entry["met"] for entry in report["bars"].values()] == [None, None]


def test_the_table_says_what_is_missed(capsys):
    print_bars({"cost": 0.2}, BARS, "title")
    shown = capsys.readouterr().err
    assert "NO" in shown
    assert "not measured" in shown


def test_a_report_says_where_it_was_made():
    said = surroundings(["node", "--out", "a b.json"])
    assert said["command"] == "vidllm bench node --out 'a b.json'"
    assert said["cpu"]
    assert said["cores"] >= 1
    assert {"date", "torch", "numpy", "load_average", "gpu"} <= set(said)
    assert {"driver", "cuda", "cudnn", "torchao"} <= set(said)
    assert said["transformers"] == transformers.__version__
    assert version_of("no-package-of-this-name") is None


def test_bench_names_its_benchmarks(capsys):
    assert bench.main([]) == bench.UNKNOWN_BENCHMARK
    assert bench.main(["--help"]) == 0
    shown = capsys.readouterr().err
    assert all(name in shown for name in bench.BENCHMARKS)
    assert bench.main(["nod"]) == bench.UNKNOWN_BENCHMARK
    assert "'nod'" in capsys.readouterr().err
