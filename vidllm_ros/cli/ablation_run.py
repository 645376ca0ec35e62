# SPDX-License-Identifier: Apache-2.0
"""Run an ablation: teachers, then stage 1 and 2 of every row and seed, then numbers and a table.

Each run is an ordinary run's folder with its recipe; what is done is not done again, what was
begun goes on. Processes that are given the same folder share the runs. Next: ablation_chart.py
draws the result.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vidllm_ros.cli.ablation_chart import draw_chart
from vidllm_ros.cli.ablation_plan import (
    PLAN,
    TEACHERS,
    AblationJob,
    AblationPlan,
    AblationSettings,
    row_folder,
    stage1_folder,
)
from vidllm_ros.cli.command import complain, note, one_sentence
from vidllm_ros.cli.output_files import write_json
from vidllm_ros.cli.validation import RoomValidator
from vidllm_ros.evaluation.ablation import ROWS, AblationResult, result_table, stage1_name
from vidllm_ros.geometry.point_cloud import write_atomically
from vidllm_ros.streaming.memory_steps import is_out_of_memory
from vidllm_ros.training.build import build_trainer

RESULT, TAKEN, ERROR = "result.json", "taken.lock", "error.txt"
WAIT_S = 2.0  # between looks at what another process has finished


class AblationRun:
    """All runs of an ablation.

    Args:
        settings: what to run.
    """

    def __init__(self, settings: AblationSettings) -> None:
        self.settings = settings
        self.plan = AblationPlan(settings)
        self.started = time.monotonic()
        self.was_stopped = False  # by a signal
        self.failed: dict[Path, str] = {}  # folder of a run to why it ended here
        self.lost: dict[Path, str] = {}  # the same of all that is left out, for the report

    def train(self) -> bool:
        """Run what is not done yet; return whether all is.

        A process takes whatever no other has taken and has all it needs. A run that fails, and
        what needs it, are left out and named in `lost`.
        """
        jobs, told = self.plan.jobs, ""
        while left := [job for job in jobs if not is_done(job.folder)]:
            self.lost = self._lost(left)
            left = [job for job in left if job.folder not in self.lost]
            if self.is_over or not left:
                return False
            place = f"{sum(is_done(job.folder) for job in jobs)} of {len(jobs)} done"
            if not any(self.take(job, place) for job in left):
                waits = f"{place}; waiting for what another process has"
                if waits != told:
                    note(waits)
                told = waits
                time.sleep(WAIT_S)
        return True

    def _lost(self, left: list[AblationJob]) -> dict[Path, str]:
        """Return what failed here and no other process mended, and what needs it."""
        lost = {folder: why for folder, why in self.failed.items() if not is_done(folder)}
        for job in left:
            for needed in job.needs & set(lost):
                lost.setdefault(job.folder, f"needs {needed}, which failed")
        return lost

    @property
    def left_s(self) -> float:
        """Return wall time left to this call; infinite where it has no limit."""
        limit_s = self.settings.stop_after_s or math.inf
        return limit_s - (time.monotonic() - self.started)

    @property
    def is_over(self) -> bool:
        return self.was_stopped or self.left_s <= 0

    def take(self, job: AblationJob, place: str = "") -> bool:
        """Run one job, unless it waits for another or another process has it; return whether."""
        own = {other.folder for other in self.plan.jobs}
        if any(not is_done(folder) for folder in job.needs & own):
            return False
        job.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(job.folder / TAKEN, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        try:
            if not is_done(job.folder):
                note(f"{place}; now {job.name}, seed {job.recipe.seed}")
                self.run_one(job)
        except (RuntimeError, ValueError, TypeError, OSError) as error:  # of this run alone
            if is_out_of_memory(error):
                raise
            self.failed[job.folder] = f"{one_sentence(error)} ({job.folder / ERROR})"
            with suppress(OSError):  # a full disk costs this run, not the others
                write_atomically(job.folder / ERROR, traceback.format_exc().encode())
            complain(f"{job.name}, seed {job.recipe.seed}: {self.failed[job.folder]}")
        finally:
            lock.release()
        return True

    def run_one(self, job: AblationJob) -> None:
        """Train one run, as far as this call's time allows, and measure it when it has ended."""
        (job.folder / ERROR).unlink(missing_ok=True)
        validator = RoomValidator(job.recipe)
        validator.check()
        trainer = build_trainer(job.recipe, job.folder)
        trainer.load()
        try:
            minutes = 0.0 if math.isinf(self.left_s) else max(self.left_s, 1e-3) / 60
            trainer.run(minutes=minutes)
        finally:
            self.was_stopped = trainer.stop_requested
        if trainer.progress < 1.0:
            return
        trainer.plain_stage.eval()
        looked = validator(trainer.plain_stage, job.folder, trainer.state.step)
        state = trainer.state
        place = {"steps": state.step, "scenes": state.scenes, "seconds": round(state.seconds, 1)}
        write_json(job.folder / RESULT, {**place, "numbers": dict(looked.numbers)})

    def report(self) -> str | None:
        """Write ablation.json, ablation.md and ablation.png of all rows that are done.

        Rows and seeds of other calls are in them too. Returns the table; None while no row is
        done.
        """
        out = self.settings.out
        results = read_results(out)
        if not results:
            return None
        done = {result.row for result in results}
        rows = [row for row in ROWS if row.name in done or row in self.settings.rows]
        teacher = out / TEACHERS[0]
        start = numbers_of(teacher) if is_done(teacher) else {}
        plan = json.loads((out / PLAN).read_text())
        content: dict[str, Any] = {
            **plan,
            "start": start,
            "rows": {row.name: row.words for row in rows},
            "results": [asdict(result) for result in results],
            "lost": {str(folder): reason for folder, reason in self.lost.items()},
        }
        write_json(out / "ablation.json", content)
        table = result_table(results, rows, start)
        write_atomically(out / "ablation.md", table.encode())
        draw_chart(out / "ablation.png", results, rows)
        return table


def read_results(out: Path) -> list[AblationResult]:
    """Read what rows and seeds that are done gave, in order, and their stage 1 with them."""
    results = []
    for row in ROWS:
        folders = row_folder(out, row.name, 0).parent.glob("seed*")
        seeds = sorted(int(home.name.removeprefix("seed")) for home in folders if is_done(home))
        for seed in seeds:
            numbers = numbers_of(row_folder(out, row.name, seed))
            first = stage1_folder(out, stage1_name(row), seed)
            if row.has_stage1 and is_done(first):
                numbers = {**numbers_of(first), **numbers}
            if numbers:
                results.append(AblationResult(row.name, seed, numbers))
    return results


def is_done(folder: Path) -> bool:
    """Return whether the run in this folder has ended and was measured."""
    return (folder / RESULT).is_file()


def numbers_of(folder: Path) -> dict[str, float]:
    """Read what a run gave; a number that is none was written as null and is left out."""
    numbers = json.loads((folder / RESULT).read_text())["numbers"]
    return {name: float(value) for name, value in numbers.items() if value is not None}
