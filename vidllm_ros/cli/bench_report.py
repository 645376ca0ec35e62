# SPDX-License-Identifier: Apache-2.0
"""What every benchmark's report says beside its numbers: where it ran, and which bars it met.

A bar is an upper or lower bound on one number of the report; a number that was not measured is
shown as such and never as met. Next: bench_node.py and bench_model.py, which fill reports.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """A bound on a number of the report.

    Attributes:
        name: of the number.
        bound: at most this, or at least this with `is_least`.
        meaning: in words.
        is_least: whether more is better.
    """

    name: str
    bound: float
    meaning: str
    is_least: bool = False

    def is_met(self, report: Mapping[str, Any]) -> bool | None:
        """Say whether the report meets it; None where the number was not measured."""
        value = report.get(self.name)
        if value is None:
            return None
        return bool(value >= self.bound if self.is_least else value <= self.bound)


def surroundings(arguments: Sequence[str]) -> dict[str, Any]:
    """Say when, where and with what a report was made."""
    import numpy
    import torch

    has_gpu = torch.cuda.is_available()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": f"vidllm bench {shlex.join(arguments)}",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "driver": driver_version() if has_gpu else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "transformers": version_of("transformers"),
        "torchao": version_of("torchao"),
    }


def version_of(package: str) -> str | None:
    """Return the version that is installed; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def driver_version() -> str | None:
    """Return the GPU driver's version as torch finds it; None where it does not."""
    from torch.utils import collect_env

    found = collect_env.get_nvidia_driver_version(collect_env.run)
    return None if found is None else str(found)


def cpu_name() -> str:
    """Return the processor's name as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def with_bars(report: dict[str, Any], bars: Sequence[Bar]) -> dict[str, Any]:
    """Return the report with, under `bars`, each bound and whether it is met."""
    said = {
        bar.name: {
            "bound": bar.bound,
            "at": "least" if bar.is_least else "most",
            "met": bar.is_met(report),
        }
        for bar in bars
    }
    return {**report, "bars": said}


def print_bars(report: Mapping[str, Any], bars: Sequence[Bar], title: str) -> None:
    """Print the bars as a table on stderr; stdout stays for results."""
    table = Table(title=title)
    for column in ("number", "measured", "bar", "met", "what it is"):
        table.add_column(column)
    words = {True: "yes", False: "NO", None: "not measured"}
    for bar in bars:
        value = report.get(bar.name)
        table.add_row(
            bar.name,
            "-" if value is None else f"{value:.3g}",
            f"{'>=' if bar.is_least else '<='} {bar.bound:g}",
            words[bar.is_met(report)],
            bar.meaning,
        )
    Console(stderr=True, width=None if sys.stderr.isatty() else 120).print(table)
