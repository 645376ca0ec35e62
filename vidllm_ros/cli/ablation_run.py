# SPDX-License-Identifier: Apache-2.0
"""Run an ablation: teachers, then stage 1 and 2 of every row and seed, then numbers and a table.

Each run is an ordinary run's folder with its recipe; what is done is not done again, what was
begun goes on. Steps a row are worked out once, from a few timed steps, and kept in plan.json.
Processes that are given the same folder share the runs. Next: ablation_chart.py draws the result.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from vidllm_ros.cli.ablation_chart import draw_chart
from vidllm_ros.cli.command import note
from vidllm_ros.cli.output_files import write_json
from vidllm_ros.cli.validation import RoomValidator
from vidllm_ros.evaluation.ablation import (
    AblationResult,
    AblationRow,
    StepPlan,
    change_settings,
    plan_steps,
    result_table,
    stage1_name,
)
from vidllm_ros.training.build import build_trainer
from vidllm_ros.training.recipe import Recipe, recipe_from_dict

RECIPES = {
    "geometry_teacher": "nano_teacher_geometry",
    "semantic_teacher": "nano_teacher_semantic",
    "stage1": "nano_stage1",
    "stage2": "nano_stage2",
}
PLAN, RESULT, TAKEN = "plan.json", "result.json", "taken.lock"
TIMED_STEPS, WARM_STEPS = 6, 2
WAIT_S = 2.0  # between looks at what another process has finished


@dataclass(frozen=True)
class AblationSettings:
    """What to run.

    Attributes:
        out: folder of everything.
        rows, seeds: every row is run with every seed.
        recipes: folder of the four recipes.
        changes: settings changed in them, by recipe or for "all".
        rooms: validation rooms.
        budget_s: wall time for everything; unused with `steps`.
        steps: of stage 2; 0 lets the budget say.
        teacher_steps: of each teacher; 0 gives half of stage 2.
        stop_after_s: wall time of this call; 0 has none.
    """

    out: Path
    rows: tuple[AblationRow, ...]
    seeds: tuple[int, ...]
    recipes: Path
    changes: Mapping[str, Any]
    rooms: int = 20
    budget_s: float = 0.0
    steps: int = 0
    teacher_steps: int = 0
    stop_after_s: float = 0.0


def read_changes(path: Path | None, data: str) -> dict[str, Any]:
    """Read settings to change, by recipe or for "all", with the folder of rooms among them.

    Raises:
        ValueError: there is no such recipe.
    """
    changes = {} if path is None else yaml.safe_load(path.read_text())
    known = {"all", *RECIPES}
    if not isinstance(changes, dict) or set(changes) - known:
        raise ValueError(f"changes: expected settings under {sorted(known)}, got {changes!r}")
    return change_settings(changes, {"all": {"data.folder": data}} if data else {})


class AblationRun:
    """All runs of an ablation.

    Args:
        settings: what to run.
    """

    def __init__(self, settings: AblationSettings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        self.was_stopped = False  # by a signal

    def recipe(self, kind: str, steps: int, changes: Mapping[str, Any]) -> Recipe:
        """Return one of the four recipes with its changes; validation happens at the end only."""
        path = self.settings.recipes / f"{RECIPES[kind]}.yaml"
        if not path.is_file():
            raise FileNotFoundError(f"recipes: expected {path}; run from the repository's root")
        values = yaml.safe_load(path.read_text())
        for part in ("all", kind):
            values = change_settings(values, self.settings.changes.get(part, {}))
        fixed = {
            "total_steps": steps,
            "max_minutes": 0.0,
            "validation": {"rooms": self.settings.rooms, "every_minutes": 0.0, "pictures": 3},
        }
        return recipe_from_dict(
            change_settings(change_settings(values, fixed), changes), str(path)
        )

    @cached_property
    def plan(self) -> StepPlan:
        """Return steps of every run: from plan.json, else worked out and kept there."""
        file = self.settings.out / PLAN
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):  # one process works it out for all
            if file.is_file():
                return StepPlan(**json.loads(file.read_text())["steps"])
            plan, measured = self.make_plan()
            write_json(file, {"steps": asdict(plan), "step_s": measured})
        return plan

    def make_plan(self) -> tuple[StepPlan, dict[str, float]]:
        """Work out the steps of every run; return them and the seconds a step took, if timed."""
        settings = self.settings
        steps, teacher = settings.steps, settings.teacher_steps
        if steps:
            return StepPlan(teacher or max(1, steps // 2), max(1, steps // 3), steps), {}
        measured = self.time_steps()
        budget_s, seeds = settings.budget_s, len(settings.seeds)
        evaluation_s = float(settings.rooms)
        return plan_steps(
            budget_s, settings.rows, seeds, measured, evaluation_s, teacher
        ), measured

    def time_steps(self) -> dict[str, float]:
        """Time a few steps of the stages; a teacher's are taken for those of its kind of stage."""
        timed = {}
        for kind in ("semantic_teacher", "stage2"):
            folder = self.settings.out / "timing" / kind
            recipe = self.recipe(kind, 1000, {"init": "", "validation.rooms": 0})
            trainer = build_trainer(recipe, folder)
            trainer.run(WARM_STEPS)
            before = trainer.state.seconds
            trainer.run(TIMED_STEPS)
            timed[kind] = (trainer.state.seconds - before) / TIMED_STEPS
        return {**timed, "geometry_teacher": timed["stage2"], "stage1": timed["semantic_teacher"]}

    def jobs(self) -> Iterator[tuple[str, Path, Recipe]]:
        """Yield every run in order: its name, folder and recipe."""
        out, plan = self.settings.out, self.plan
        if any(row.has_stage1 for row in self.settings.rows):
            for kind in ("geometry_teacher", "semantic_teacher"):
                yield kind, out / kind, self.recipe(kind, plan.teacher, {})
        for seed in self.settings.seeds:
            for row in self.settings.rows:
                yield from self.row_jobs(row, seed)

    def row_jobs(self, row: AblationRow, seed: int) -> Iterator[tuple[str, Path, Recipe]]:
        """Yield a row's stage 1, where it has one, and its stage 2."""
        out, plan = self.settings.out, self.plan
        init, steps = "", plan.stage1 + plan.stage2
        if row.has_stage1:
            name = stage1_name(row)
            first = out / "stage1" / name / f"seed{seed}"
            teachers = {
                kind: {"folder": str(out / kind)}
                for kind in ("geometry_teacher", "semantic_teacher")
            }
            changes = change_settings(change_settings({"seed": seed}, teachers), row.stage1)
            yield f"stage 1 of {name}", first, self.recipe("stage1", plan.stage1, changes)
            init, steps = str(first), plan.stage2
        changes = change_settings({"seed": seed, "init": init}, row.stage2)
        yield row.name, self.row_folder(row.name, seed), self.recipe("stage2", steps, changes)

    def row_folder(self, row: str, seed: int) -> Path:
        return self.settings.out / "rows" / row / f"seed{seed}"

    def describe(self) -> str:
        """Say what runs, in what order, and how many steps each has."""
        runs = self.unique()
        lines = [f"{name:24} {made.total_steps:6} steps  {folder}" for name, folder, made in runs]
        kept = self.settings.out / PLAN
        step_s = json.loads(kept.read_text()).get("step_s", {}) if kept.is_file() else {}
        if step_s:
            total = sum(made.total_steps * step_s["stage2"] for _, _, made in runs)
            lines.append(f"at most {total / 60:.0f} minutes by the timed steps")
        return "\n".join(lines)

    def unique(self) -> list[tuple[str, Path, Recipe]]:
        """Return the runs, each once."""
        every = {folder: (name, folder, made) for name, folder, made in self.jobs()}
        return list(every.values())

    def train(self) -> bool:
        """Run what is not done yet; return whether all is.

        Processes with the same folder each take what none has taken and nothing missing stops.
        """
        runs = self.unique()
        while left := [run for run in runs if not (run[1] / RESULT).is_file()]:
            if self.is_over:
                return False
            place = f"{len(runs) - len(left)} of {len(runs)} done"
            if not any(self.take(run, place) for run in left):
                time.sleep(WAIT_S)
        return True

    @property
    def left_s(self) -> float:
        """Return wall time left to this call; infinite where it has no limit."""
        limit_s = self.settings.stop_after_s or math.inf
        return limit_s - (time.monotonic() - self.started)

    @property
    def is_over(self) -> bool:
        return self.was_stopped or self.left_s <= 0

    def take(self, run: tuple[str, Path, Recipe], place: str = "") -> bool:
        """Run one run, unless it waits for another or another process has it; return whether."""
        name, folder, recipe = run
        needed = (recipe.init, recipe.geometry_teacher.folder, recipe.semantic_teacher.folder)
        if any(needs and not (Path(needs) / RESULT).is_file() for needs in needed):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / TAKEN, timeout=0):
                if not (folder / RESULT).is_file():
                    note(f"{place}; now {name}, seed {recipe.seed}")
                    self.run_one(folder, recipe)
        except Timeout:
            return False
        return True

    def run_one(self, folder: Path, recipe: Recipe) -> None:
        """Train one run, as far as this call's time allows, and measure it when it has ended."""
        trainer, validator = build_trainer(recipe, folder), RoomValidator(recipe)
        validator.check(trainer.model)
        trainer.load()
        trainer.run(minutes=0.0 if math.isinf(self.left_s) else max(self.left_s, 1e-3) / 60)
        self.was_stopped = trainer.stop_requested
        if trainer.progress < 1.0:
            return
        trainer.plain_stage.eval()
        looked = validator(trainer.plain_stage, folder, trainer.state.step)
        place = {"steps": trainer.state.step, "scenes": trainer.state.scenes}
        write_json(folder / RESULT, {**place, "numbers": dict(looked.numbers)})

    def results(self) -> list[AblationResult]:
        """Read what the rows that are done gave."""
        found = []
        for row in self.settings.rows:
            for seed in self.settings.seeds:
                file = self.row_folder(row.name, seed) / RESULT
                if file.is_file():
                    numbers = json.loads(file.read_text())["numbers"]
                    found.append(AblationResult(row.name, seed, numbers))
        return found

    def report(self) -> str:
        """Write ablation.json, ablation.md and ablation.png of what is done; return the table."""
        results, out = self.results(), self.settings.out
        plan = json.loads((out / PLAN).read_text())
        rows = {row.name: row.words for row in self.settings.rows}
        write_json(
            out / "ablation.json",
            {
                **plan,
                "validation_rooms": self.settings.rooms,
                "rows": rows,
                "results": [asdict(result) for result in results],
            },
        )
        table = result_table(results, self.settings.rows)
        (out / "ablation.md").write_text(table)
        draw_chart(out / "ablation.png", results, self.settings.rows)
        return table
