# SPDX-License-Identifier: Apache-2.0
"""`vidllm bench model`: the network stage by stage, against its floor and its plain twin.

Weights are random: speed does not depend on them. Each stage and its literal twin run in turn in
one process; ceilings of the machine are measured in the same run. `--account` prints the floor
alone, for any size, on any machine. Next: bench_stages.py, the stages; bench_whole.py, whole
calls.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vidllm_ros.cli.bench_report import Bar, print_bars, surroundings, with_bars
from vidllm_ros.cli.command import note, run_command
from vidllm_ros.cli.output_files import check_file_target, write_json, write_picture

if TYPE_CHECKING:
    from vidllm_ros.network.account import StageCost, Workload
    from vidllm_ros.network.configuration import VidLLMConfig

RESOLUTIONS = {"nano": "84x112", "paper": "392x518"}
NANO_BARS = (Bar("speedup_vs_plain", 1.5, "literal twin / as run, same run", is_least=True),)
PAPER_BARS = (
    Bar("reconstruct_call_s", 0.65, "32 frames with full-size depth, one call, one H200, bf16"),
    Bar("reconstruction_s", 0.65, "the same, sum of its stages"),
    Bar("window_to_first_token_call_s", 0.80, "window to first token of an answer, calls"),
    Bar("window_to_first_token_s", 0.80, "the same, sum of stages"),
    Bar("further_question_call_s", 0.060, "further question to its first token, call"),
    Bar("further_question_s", 0.060, "the same, its stage"),
    Bar("stride_window_call_ratio", 0.85, "window with remembered encodings / cold one, calls"),
    Bar("stride_window_ratio", 0.85, "the same, sums of stages"),
    Bar("peak_memory_gb", 30.0, "device memory, twins not counted"),
)
INT4_BAR = Bar("peak_memory_gb", 20.0, "device memory with an int4 language model")


def bars_of(size: str, quantize: str) -> tuple[Bar, ...]:
    """Return the bounds that hold for a run."""
    if size != "paper":
        return NANO_BARS
    return (*PAPER_BARS[:-1], INT4_BAR if quantize == "int4" else PAPER_BARS[-1])


def bench_model(
    size: Annotated[str, typer.Option(help="nano or paper")] = "nano",
    frames: Annotated[int, typer.Option(min=8, help="of a window")] = 32,
    resolution: Annotated[str, typer.Option(help="HxW px; by size where empty")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16")] = "auto",
    repetitions: Annotated[int, typer.Option(min=1, help="of each stage")] = 7,
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile the blocks")] = False,
    channels_last: Annotated[
        bool | None, typer.Option(help="maps of the dense heads; as the node where left out")
    ] = None,
    measured_attention: Annotated[
        bool | None,
        typer.Option(help="fastest attention kernel by measurement; as the node where left out"),
    ] = None,
    quantize: Annotated[str, typer.Option(help="none, int8, int4; an approximation")] = "none",
    plain: Annotated[bool, typer.Option(help="time the literal twin too")] = True,
    clock: Annotated[
        str, typer.Option(help="wall, or cpu: processor time, on a shared CPU")
    ] = "wall",
    account: Annotated[bool, typer.Option("--account", help="print the floor and end")] = False,
    out: Annotated[Path, typer.Option(help="report, JSON; a chart beside it")] = Path(
        "bench_model.json"
    ),
) -> None:
    """Measure every stage of the network, or print what it must cost at least."""
    check_file_target("--out", out, ".json")
    config, load = _workload(size, frames, resolution or RESOLUTIONS.get(size, ""))
    if account:
        if quantize != "none":
            raise ValueError(
                f"quantize: expected none with --account, got {quantize!r}; the account counts "
                "weights as they are, so leave it out"
            )
        print_account(config, load)
        return
    from vidllm_ros.cli.bench_stages import StageBench
    from vidllm_ros.network.acceleration import Acceleration, usual_acceleration
    from vidllm_ros.streaming.loading import choose_device

    usual = usual_acceleration(choose_device(device))
    choice = Acceleration(
        compile=compiled,
        channels_last=usual.channels_last if channels_last is None else channels_last,
        attention=usual.attention if measured_attention is None else measured_attention,
        quantize=quantize,
    )
    note(f"building {size} with random weights")
    bench = StageBench(config, load, device, precision, choice)
    report: dict[str, Any] = {"size": size, "frames": frames, "resolution": list(load.size)}
    report |= {"clock": clock} | bench.measure(repetitions, plain, clock)
    peak = bench.peak_bytes()
    report["peak_memory_gb"] = None if peak is None else round(peak / 1e9, 3)
    report["process_peak_gb"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3
    )
    said = {"size": size, "frames": frames, "resolution": "x".join(map(str, load.size))}
    said |= {"device": device, "precision": precision, "repetitions": repetitions}
    said |= {"quantize": quantize, "clock": clock, "out": out}
    flags = {"--compile": compiled, "--no-plain": not plain}
    for name, is_on in (
        ("channels-last", choice.channels_last), ("measured-attention", choice.attention),
    ):  # fmt: skip
        flags |= {f"--{name}": is_on, f"--no-{name}": not is_on}
    arguments = [word for name, value in said.items() for word in (f"--{name}", str(value))]
    arguments += [flag for flag, is_on in flags.items() if is_on]
    report |= surroundings(["model", *arguments])
    bars = bars_of(size, quantize)
    report = with_bars(report, bars)
    write_json(out, report)
    print_stages(report)
    print_calls(report)
    print_bars(report, bars, f"{size}, {report['precision']} on {report['gpu'] or report['cpu']}")
    write_chart(out.with_suffix(".png"), report)
    print(json.dumps({"speedup_vs_plain": report.get("speedup_vs_plain")}))


def _workload(size: str, frames: int, resolution: str) -> tuple[VidLLMConfig, Workload]:
    from vidllm_ros.network.account import Workload
    from vidllm_ros.network.configuration import VidLLMConfig
    from vidllm_ros.network.presets import paper_config

    if size not in RESOLUTIONS:
        raise ValueError(f"size: expected nano or paper, got {size!r}")
    parts = resolution.split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"resolution: expected HxW such as 392x518, got {resolution!r}")
    config = VidLLMConfig(point_head=False) if size == "nano" else paper_config(point_head=False)
    values = 4 if size == "nano" else 2
    shape = (int(parts[0]), int(parts[1]))
    return config, Workload(frames, shape, config.max_scene_tokens, bytes_per_value=values)


def print_account(config: VidLLMConfig, load: Workload) -> None:
    """Print operations and bytes of every stage, as Markdown."""
    from vidllm_ros.network.account import Account

    found = Account(config, load)
    stages = found.stages()
    height, width = load.size
    print(f"{load.frames} frames of {height}x{width}, {load.scene_tokens} scene tokens\n")
    print(
        "| stage | GFLOP | of it attention | weights, MB | activations, MB |\n" + 5 * "|---" + "|"
    )
    for name, cost in [*stages.items(), ("all", _total(stages))]:
        print(
            f"| {name} | {cost.flops / 1e9:,.2f} | {cost.attention_flops / 1e9:,.2f} "
            f"| {cost.weight_bytes / 1e6:,.1f} | {cost.activation_bytes / 1e6:,.1f} |"
        )
    print("\n| kept at once | MB |\n|---|---|")
    for name, size in found.kept_bytes().items():
        print(f"| {name} | {size / 1e6:,.1f} |")


def _total(stages: dict[str, StageCost]) -> StageCost:
    from vidllm_ros.network.account import StageCost

    return StageCost(
        sum(cost.flops for cost in stages.values()),
        sum(cost.attention_flops for cost in stages.values()),
        sum(cost.weight_bytes for cost in stages.values()),
        sum(cost.activation_bytes for cost in stages.values()),
    )


def print_stages(report: dict[str, Any]) -> None:
    """Print the stages as a table on stderr."""
    table = Table(title="stages")
    for column in ("stage", "ms", "quartiles", "TFLOP/s", "of the floor", "plain ms", "speed-up"):
        table.add_column(column, justify="right")
    for name, stage in report["stages"].items():
        plain = stage.get("plain")
        table.add_row(
            name,
            f"{stage['median_ms']:.2f}",
            f"{stage['low_ms']:.2f}-{stage['high_ms']:.2f}",
            f"{stage['tflop_per_s']:.3f}",
            f"{stage['share_of_floor']:.0%}",
            "" if plain is None else f"{plain['median_ms']:.2f}",
            "" if plain is None else f"{plain['median_ms'] / stage['median_ms']:.2f}",
        )
    Console(stderr=True, width=110).print(table)


def print_calls(report: dict[str, Any]) -> None:
    """Print whole calls beside the sums of their stages as a table on stderr."""
    from vidllm_ros.cli.bench_whole import SUMS, WORDS

    table = Table(title=f"whole calls, {report['calls_scene_tokens']} scene tokens")
    for column in ("call", "ms", "quartiles", "sum of stages, ms", "what it is"):
        table.add_column(column)
    for name, words in WORDS.items():
        call = report["calls"][name]
        table.add_row(
            name,
            f"{call['median_ms']:.2f}",
            f"{call['low_ms']:.2f}-{call['high_ms']:.2f}",
            f"{1e3 * report[SUMS[name]]:.2f}",
            words,
        )
    Console(stderr=True, width=120).print(table)


def write_chart(path: Path, report: dict[str, Any]) -> None:
    """Draw each stage's time beside its twin's and its floor's."""
    from matplotlib.figure import Figure

    names = list(report["stages"])
    figure = Figure(figsize=(9, 0.5 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    rows = range(len(names))
    stages = [report["stages"][name] for name in names]
    twins = [(row, stages[row]["plain"]["median_ms"]) for row in rows if "plain" in stages[row]]
    if twins:  # one may have had no memory: the others are shown
        places, plain = [row + 0.28 for row, _ in twins], [took for _, took in twins]
        axes.barh(places, plain, 0.26, label="literal twin", color="#b0b0b0")
    took = [stage["median_ms"] for stage in stages]
    spread = [
        [stage["median_ms"] - stage["low_ms"] for stage in stages],
        [stage["high_ms"] - stage["median_ms"] for stage in stages],
    ]
    axes.barh(list(rows), took, 0.26, xerr=spread, label="as run", color="#2f6db3")
    floor = [stage["floor_ms"] for stage in stages]
    axes.barh([row - 0.28 for row in rows], floor, 0.26, label="floor", color="#5ca05c")
    axes.set_yticks(list(rows), names)
    axes.invert_yaxis()
    axes.set_xlabel("ms, median and quartiles")
    axes.set_title(f"{report['size']}, {report['frames']} frames, {report['precision']}")
    axes.legend()
    write_picture(path, figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(bench_model, "bench model", argv)
