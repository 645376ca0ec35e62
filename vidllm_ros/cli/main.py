# SPDX-License-Identifier: Apache-2.0
"""The command `vidllm`: a table of sub-commands, each imported only when it is called.

Importing torch costs seconds, so this file imports none of the sub-commands; `vidllm --help` reads
the table alone. Every sub-command is a module with a `main(argv)` that returns an exit code.
Next: infer.py (no ROS) and demo.py (the whole path over ROS 2).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from rich.console import Console
from rich.table import Table

from vidllm_ros.cli.command import INTERRUPTED, complain

UNKNOWN_COMMAND = 2


@dataclass(frozen=True)
class SubCommand:
    """A module of this package and what it does in one line."""

    module: str
    summary: str


SUB_COMMANDS = {
    "infer": SubCommand(
        "infer", "Reconstruct a video and answer questions about it; needs no ROS."
    ),
    "demo": SubCommand("demo", "Play a camera to the node over ROS 2, ask it, draw what it saw."),
    "doctor": SubCommand(
        "doctor", "Look for what would keep the node from working here, with each fix."
    ),
    "ask": SubCommand("ask", "Ask a running node through its /ask service."),
    "play": SubCommand("play", "Play a video, folder, bag or rendered room as a camera topic."),
    "convert": SubCommand(
        "convert", "Fill the paper-size network with public weights; says what stays untrained."
    ),
    "concatenate": SubCommand(
        "concatenate", "Join public models, as they are, into a backend for the node."
    ),
    "train": SubCommand("train", "Train the network from a YAML file of settings."),
    "ablate": SubCommand("ablate", "Train and measure the paper's ablations in miniature."),
    "curves": SubCommand("curves", "Draw a run's losses and metrics against samples seen."),
    "evaluate": SubCommand(
        "evaluate", "Measure a model on a benchmark, beside trivial baselines."
    ),
    "score": SubCommand("score", "Score anybody's predictions on a benchmark."),
    "bench": SubCommand(
        "bench", "Measure speed: bench node, bench model, bench words, bench walk."
    ),
    "calibrate": SubCommand(
        "calibrate", "Choose the score from which a model reports boxes, and store it."
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm <sub-command> ...` and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print_help()
        return 0 if arguments else UNKNOWN_COMMAND
    if arguments[0] == "--version":
        print(version())
        return 0
    chosen = SUB_COMMANDS.get(arguments[0])
    if chosen is None:
        names = ", ".join(SUB_COMMANDS)
        complain(f"vidllm: expected one of {names}, got {arguments[0]!r}; see vidllm --help")
        return UNKNOWN_COMMAND
    try:
        module = import_module(f"vidllm_ros.cli.{chosen.module}")
        return int(module.main(arguments[1:]))
    except KeyboardInterrupt:  # while torch was being imported
        return INTERRUPTED


def print_help() -> None:
    """Print the sub-commands; each prints its own options with --help."""
    console = Console(highlight=False)
    console.print(
        "Usage: vidllm [bold]COMMAND[/bold] ...   (vidllm COMMAND --help for its options)"
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, entry in SUB_COMMANDS.items():
        table.add_row(f"[bold cyan]{name}[/bold cyan]", entry.summary)
    console.print(table)


def version() -> str:
    """Return the installed package's version, or say that this is a source tree."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("vidllm_ros")
    except PackageNotFoundError:
        return "vidllm_ros (source tree, not installed)"


if __name__ == "__main__":
    raise SystemExit(main())
