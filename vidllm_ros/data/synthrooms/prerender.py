# SPDX-License-Identifier: Apache-2.0
"""Render rooms into a folder, several at a time; what is there already is left alone.

    python -m vidllm_ros.data.synthrooms.prerender --out rooms --start 0 --count 4000 --workers 8

A file is named by its seed and appears only when whole, so a stopped run goes on where it was. A
folder holds rooms of one size; another size is refused.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vidllm_ros.data.synthrooms.scene import make_scene
from vidllm_ros.data.synthrooms.storage import save_sample

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class RenderSettings:
    """What every file of a folder has in common."""

    frames: int = 32
    height: int = 84
    width: int = 112
    backend: str = "auto"
    device: str | None = None


def sample_path(folder: str | os.PathLike[str], seed: int) -> Path:
    """Return where the sample of a seed lies in a folder."""
    return Path(folder) / f"room{seed:07d}.npz"


def render_to(folder: Path, seed: int, settings: RenderSettings) -> None:
    """Render one room into the folder."""
    torch.set_num_threads(1)
    sample = make_scene(seed, **vars(settings))
    save_sample(sample_path(folder, seed), sample)


def check_settings(folder: Path, settings: RenderSettings) -> None:
    """Refuse a folder that holds samples of other sizes.

    Raises:
        ValueError: it does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"frames": settings.frames, "height": settings.height, "width": settings.width}
    file = folder / SETTINGS_FILE
    if file.exists():
        found = json.loads(file.read_text())
        if found != sizes:
            raise ValueError(
                f"out: expected rooms of {sizes}, got {found} in {folder}; use another"
            )
    else:
        file.write_text(json.dumps(sizes))


def prerender(
    folder: str | os.PathLike[str],
    start: int,
    count: int,
    settings: RenderSettings | None = None,
    workers: int = 1,
) -> int:
    """Render the rooms of these seeds that are not there yet; return how many were rendered."""
    settings = settings or RenderSettings()
    out = Path(folder)
    check_settings(out, settings)
    seeds = [s for s in range(start, start + count) if not sample_path(out, s).exists()]
    columns = (
        TextColumn("rooms"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("rooms", total=count, completed=count - len(seeds))
        if workers <= 1:
            for seed in seeds:
                render_to(out, seed, settings)
                progress.advance(task)
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                jobs = [pool.submit(render_to, out, seed, settings) for seed in seeds]
                for job in as_completed(jobs):
                    job.result()
                    progress.advance(task)
    return len(seeds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder to fill")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=100, help="number of rooms")
    parser.add_argument("--frames", type=int, default=RenderSettings.frames)
    parser.add_argument("--height", type=int, default=RenderSettings.height, help="px")
    parser.add_argument("--width", type=int, default=RenderSettings.width, help="px")
    parser.add_argument("--backend", default=RenderSettings.backend)
    parser.add_argument("--device", default=None, help="for the torch backend")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    given = parser.parse_args(argv)
    settings = RenderSettings(given.frames, given.height, given.width, given.backend, given.device)
    made = prerender(given.out, given.start, given.count, settings, given.workers)
    print(f"{made} rooms rendered, {given.count - made} were there, in {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
