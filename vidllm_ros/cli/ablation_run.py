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
from collections.abc import Mapping
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
)
from vidllm_ros.cli.command import complain, note, one_sentence
from vidllm_ros.cli.output_files import write_json
from vidllm_ros.cli.validation import RoomValidator
from vidllm_ros.evaluation.ablation import AblationResult, result_table
from vidllm_ros.geometry.point_cloud import write_atomically
from vidllm_ros.training.build import build_trainer
from vidllm_ros.training.trainer import NotFiniteError

RESULT, TAKEN = "result.json", "taken.lock"
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
        self.failed: dict[Path, str] = {}  # folder of a run to why it ended

    def train(self) -> bool:
        """Run what is not done yet; return whether all is.

        A process takes whatever no other has taken and has all it needs. Of a run that fails the
        reason is kept in `failed`; what needs it is left out.
        """
        jobs, told = self.plan.jobs, ""
        while left := [job for job in jobs if not is_done(job.folder)]:
            self._give_up(left)
            left = [job for job in left if job.folder not in self.failed]
            if self.is_over or not left:
                return False
            place = f"{sum(is_done(job.folder) for job in jobs)} of {len(jobs)} done"
            if not any(self.take(job, place) for job in left):
                waits = f"{place}; {left[0].name} waits for another process"
                if waits != told:
                    note(waits)
                told = waits
                time.sleep(WAIT_S)
        return True

    def _give_up(self, jobs: list[AblationJob]) -> None:
        """Leave out what needs a run that failed."""
        for job in jobs:
            for needed in job.needs & set(self.failed):
                self.failed.setdefault(job.folder, f"needs {needed}, which failed")

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
        except (NotFiniteError, ValueError) as error:
            self.failed[job.folder] = one_sentence(error)
            complain(f"{job.name}, seed {job.recipe.seed}: {self.failed[job.folder]}")
        finally:
            lock.release()
        return True

    def run_one(self, job: AblationJob) -> None:
        """Train one run, as far as this call's time allows, and measure it when it has ended."""
        validator = RoomValidator(job.recipe)
        validator.check()
        trainer = build_trainer(job.recipe, job.folder)
        trainer.load()
        trainer.run(minutes=0.0 if math.isinf(self.left_s) else max(self.left_s, 1e-3) / 60)
        self.was_stopped = trainer.stop_requested
        if trainer.progress < 1.0:
            return
        trainer.plain_stage.eval()
        looked = validator(trainer.plain_stage, job.folder, trainer.state.step)
        state = trainer.state
        place = {"steps": state.step, "scenes": state.scenes, "seconds": round(state.seconds, 1)}
        write_json(job.folder / RESULT, {**place, "numbers": dict(looked.numbers)})

    def results(self) -> list[AblationResult]:
        """Read what the rows that are done gave."""
        return [
            AblationResult(row.name, seed, numbers_of(folder))
            for row in self.settings.rows
            for seed in self.settings.seeds
            if is_done(folder := self.plan.row_folder(row.name, seed))
        ]

    def start(self) -> Mapping[str, float]:
        """Return what the geometry teacher measures, with whose weights every row begins."""
        folder = self.settings.out / TEACHERS[0]
        return numbers_of(folder) if is_done(folder) else {}

    def report(self) -> str:
        """Write ablation.json, ablation.md and ablation.png of what is done; return the table."""
        results, out = self.results(), self.settings.out
        plan = json.loads((out / PLAN).read_text())
        content: dict[str, Any] = {
            "steps": plan["steps"],
            "step_s": plan["step_s"],
            "validation_rooms": self.settings.rooms,
            "start": self.start(),
            "rows": {row.name: row.words for row in self.settings.rows},
            "results": [asdict(result) for result in results],
            "failed": {str(folder): reason for folder, reason in self.failed.items()},
        }
        write_json(out / "ablation.json", content)
        table = result_table(results, self.settings.rows, self.start())
        write_atomically(out / "ablation.md", table.encode())
        draw_chart(out / "ablation.png", results, self.settings.rows)
        return table


def is_done(folder: Path) -> bool:
    """Return whether the run in this folder has ended and was measured."""
    return (folder / RESULT).is_file()


def numbers_of(folder: Path) -> dict[str, float]:
    """Read what a run gave; a number that is none was written as null and is left out."""
    numbers = json.loads((folder / RESULT).read_text())["numbers"]
    return {name: float(value) for name, value in numbers.items() if value is not None}
