# SPDX-License-Identifier: Apache-2.0
"""`vidllm convert`: public checkpoints in, a folder that `load_vidllm` opens out.

Sources are files, folders or ids of the Hugging Face hub; sizes are read off their tensors. The
folder carries a card with the origin and licence of every part, and the key report. Next:
network/convert_plan.py, and docs/public_weights.md for what to do with the result.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from vidllm_ros.cli.command import note, run_command

if TYPE_CHECKING:
    from vidllm_ros.network.convert_plan import Plan
    from vidllm_ros.network.convert_sources import Source

OUT = Path("models/vidllm-paper")
REPORT, CARD = "key_report.json", "README.md"
WHERE = "file, folder or hub id"


class EncoderChoice(str, Enum):
    """Whose encoder the network starts with."""

    AUTO = "auto"
    VGGT = "vggt"
    DINOV2 = "dinov2"


class Size(str, Enum):
    """Sizes of what no checkpoint decides: adapter, bins, grounding."""

    AUTO = "auto"
    PAPER = "paper"
    NANO = "nano"


class StoredType(str, Enum):
    """Numbers of the written weights."""

    SAME = "same"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def convert(
    vggt: Annotated[str, typer.Option(help=f"VGGT-1B or -Commercial: {WHERE}.")] = "",
    dinov2: Annotated[str, typer.Option(help=f"DINOv2 with registers: {WHERE}.")] = "",
    clip: Annotated[str, typer.Option(help=f"CLIP, for stage 1's teacher: {WHERE}.")] = "",
    llava: Annotated[str, typer.Option(help=f"LLaVA-1.5, words and projector: {WHERE}.")] = "",
    llava_3d: Annotated[
        str, typer.Option(help=f"LLaVA-3D v1, also its position embedding: {WHERE}.")
    ] = "",
    language_model: Annotated[
        str, typer.Option(help=f"any causal language model, before LLaVA's: {WHERE}.")
    ] = "",
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder; default: the language model's.")
    ] = None,
    out: Annotated[Path, typer.Option(help="New folder of the checkpoint.")] = OUT,
    encoder: Annotated[
        EncoderChoice, typer.Option(help="Whose encoder; auto: VGGT's where given.")
    ] = EncoderChoice.AUTO,
    size: Annotated[
        Size, typer.Option(help="Of what no checkpoint decides; auto: by the encoder's width.")
    ] = Size.AUTO,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of VidLLMConfig; repeatable.")
    ] = None,
    dtype: Annotated[
        StoredType, typer.Option(help="Numbers stored; same: as each source has them.")
    ] = StoredType.SAME,
    shard_mb: Annotated[float, typer.Option(help="Largest shard, MB.", min=0.001)] = 2000.0,
    seed: Annotated[int, typer.Option(help="Of the parts that stay untrained.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Also write the key report here.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Look and report; write no weights.")] = False,
) -> None:
    """Fill the network with public weights, and say which parts nobody has trained."""
    from vidllm_ros.cli.output_files import check_folder_target, write_json
    from vidllm_ros.network.convert_card import report_of
    from vidllm_ros.network.convert_plan import Choices, build_plan

    wanted = {
        "vggt": vggt,
        "dinov2": dinov2,
        "clip": clip,
        "llava": llava,
        "llava_3d": llava_3d,
        "language_model": language_model,
    }
    if not dry_run:
        check_folder_target("out", out)
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"out: expected a new or empty folder, got {out}; name another")
    sources = find_sources({name: where for name, where in wanted.items() if where})
    changes = parse_changes(change or [])
    plan = build_plan(sources, Choices(encoder.value, size.value, changes, tokenizer))
    facts = report_of(plan, sources)
    show(plan, sources)
    if report is not None:
        write_json(report, facts)
    if dry_run:
        note("dry run: nothing was written")
        return
    write(plan, sources, out, dtype, shard_mb, seed)
    write_json(out / REPORT, facts)


def write(
    plan: Plan,
    sources: Mapping[str, Source],
    out: Path,
    dtype: StoredType,
    shard_mb: float,
    seed: int,
) -> None:
    """Write weights, configuration, tokenizer, teachers and card."""
    import torch

    from vidllm_ros.geometry.point_cloud import write_atomically
    from vidllm_ros.network.convert_card import card_text
    from vidllm_ros.network.convert_write import Supply, write_checkpoint

    kind = None if dtype is StoredType.SAME else getattr(torch, dtype.value)
    max_bytes = int(shard_mb * 1e6)
    supply = Supply(plan, sources, kind, seed, mapped_bytes=max_bytes // 4)
    for path in write_checkpoint(supply, out, max_bytes):
        note(f"written: {path}")
    write_atomically(out / CARD, card_text(out.name, plan, sources, typed()).encode())
    note(f"{out}: see {CARD} for origins, licences and what is untrained")


def find_sources(wanted: Mapping[str, str]) -> dict[str, Source]:
    """Locate every checkpoint and look at its names.

    Raises:
        FileNotFoundError, ValueError: with the option's name before the sentence.
    """
    from vidllm_ros.network.convert_hub import locate
    from vidllm_ros.network.convert_sources import SOURCES, open_source

    if not wanted:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in SOURCES)
        raise ValueError(f"convert: expected at least one of {options}, got none")
    found: dict[str, Source] = {}
    for name, where in wanted.items():
        option = f"--{name.replace('_', '-')}"
        try:
            found[name] = open_source(name, locate(where))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{option}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from error
    return found


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE settings of the configuration, values as YAML.

    Raises:
        ValueError: a name is not one of its fields.
    """
    from vidllm_ros.network.configuration import VidLLMConfig

    known = VidLLMConfig().to_dict()
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ValueError(f"set: expected NAME=VALUE of VidLLMConfig, got {text!r}")
        changes[name] = yaml.safe_load(value)
    return changes


def show(plan: Plan, sources: Mapping[str, Source]) -> None:
    """Print the short report: parts of the network, then what was left of each source."""
    from vidllm_ros.network.convert_card import UNTRAINED, part_rows

    console = Console(highlight=False)
    table = Table(box=None)
    for title in ("part", "tensors", "parameters", "from", "licence"):
        table.add_column(title, overflow="fold")
    for row in part_rows(plan):
        source = sources.get(row.option)
        origin = UNTRAINED if source is None else f"{row.option}: {source.located.where}"
        licence = "" if source is None else source.located.licence
        size = f"{row.parameters / 1e6:.2f} M"
        table.add_row(row.part, str(row.tensors), size, origin, licence)
    console.print(table)
    for option, report in plan.reports.items():
        used, left = len(report.used), len(report.left_over)
        console.print(f"{option}: {used} tensors used, {left} left over")
        for entry in report.left_over[:3]:
            console.print(f"  left over: {entry}", markup=False)
    console.print(f"missing: {len(plan.missing)} tensors have no source and stay untrained")
    for text in plan.notes:
        console.print(f"note: {text}", markup=False)


def typed() -> str:
    """Return the command line of this process as `vidllm convert ...`."""
    arguments = sys.argv[2:] if sys.argv[1:2] == ["convert"] else sys.argv[1:]
    return f"vidllm convert {shlex.join(arguments)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(convert, "convert", argv)


if __name__ == "__main__":
    raise SystemExit(main())
