# SPDX-License-Identifier: Apache-2.0
"""`vidllm ask "..."`: put questions to the node that runs in this shell's ROS domain.

A thin layer over `python -m vidllm_ros.ros.ask`, whose exit code it returns. Next: ros/ask.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from vidllm_ros.cli.command import run_command
from vidllm_ros.cli.ros_processes import ROS_PACKAGE, check_ros


def ask(
    question: Annotated[list[str], typer.Argument(help="one or several questions")],
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for the node")] = 60.0,
    retry: Annotated[
        float, typer.Option(min=0.0, help="seconds to go on asking while it has no window yet")
    ] = 0.0,
    service: Annotated[
        str, typer.Option(help="name of the service, such as /robot1/ask in a namespace")
    ] = "ask",
    json: Annotated[bool, typer.Option(help="print one JSON object a question")] = False,
) -> None:
    """Ask a running node through its /ask service."""
    check_ros()
    options = ["--timeout", str(timeout), "--retry", str(retry), "--service", service]
    options += ["--json"] if json else []
    command = [sys.executable, "-m", f"{ROS_PACKAGE}.ask", *options, "--", *question]
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise typer.Exit(done.returncode)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm ask` and return the exit code."""
    return run_command(ask, "ask", argv)
