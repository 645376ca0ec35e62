# SPDX-License-Identifier: Apache-2.0
"""`vidllm doctor`: what would keep the node from working here, one line each, with its fix.

Needs no ROS: what cannot be looked at is said to be skipped. With `--image TOPIC` it also listens
to a running camera. Ends with 1 if anything fails. Next: doctor_machine.py and doctor_camera.py,
which hold the checks.
"""

from __future__ import annotations

import json as json_lines
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vidllm_ros.cli.command import FAILED, run_command
from vidllm_ros.cli.doctor_camera import check_camera
from vidllm_ros.cli.doctor_findings import Finding, Level
from vidllm_ros.cli.doctor_machine import check_machine

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red", Level.SKIPPED: "dim"}


def doctor(
    model: Annotated[
        Path | None, typer.Option(help="folder of weights; the bundled ones if not given")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    image: Annotated[
        str, typer.Option(help="topic of a running camera's images, to look at it too")
    ] = "",
    camera_info: Annotated[
        str, typer.Option(help="topic of its CameraInfo; beside the images if not given")
    ] = "",
    compressed: Annotated[bool, typer.Option(help="look at IMAGE/compressed")] = False,
    seconds: Annotated[float, typer.Option(min=0.5, help="to listen to the camera")] = 4.0,
    json: Annotated[bool, typer.Option(help="print one JSON object a finding")] = False,
) -> None:
    """Look for what would keep the node from working here, and say how to mend it."""
    findings = [
        *check_machine(model, device),
        *check_camera(image, camera_info, compressed, seconds),
    ]
    for finding in findings:
        if json:
            print(json_lines.dumps(finding.as_json()))
        else:
            _print(finding)
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(FAILED)


def _print(finding: Finding) -> None:
    console = Console(soft_wrap=True, highlight=False)
    level = f"{finding.level.value:<7}"
    console.print(level, style=_STYLES[finding.level], end="")
    fix = f"; {finding.fix}" if finding.fix else ""
    console.print(f" {finding.what}: {finding.words}{fix}", markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm doctor` and return the exit code."""
    return run_command(doctor, "doctor", argv)
