# SPDX-License-Identifier: Apache-2.0
"""What an ablation runs: settings, steps of every run, and each run's recipe and folder.

Steps are worked out once, from a few timed steps, and kept in plan.json with the recipes they
belong to, so that nothing is mixed that differs in more than its row. Next: ablation_run.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from filelock import FileLock

from vidllm_ros.cli.command import note
from vidllm_ros.cli.output_files import write_json
from vidllm_ros.evaluation.ablation import (
    STAGE1_COST,
    AblationRow,
    StepPlan,
    change_settings,
    plan_steps,
    split_steps,
    stage1_name,
)
from vidllm_ros.training.build import build_trainer, plain
from vidllm_ros.training.checkpoint import CHECKPOINT
from vidllm_ros.training.recipe import Recipe, recipe_from_dict
from vidllm_ros.training.room_source import build_source

RECIPES = {
    "geometry_teacher": "nano_teacher_geometry",
    "semantic_teacher": "nano_teacher_semantic",
    "stage1": "nano_stage1",
    "stage2": "nano_stage2",
}
TEACHERS = ("geometry_teacher", "semantic_teacher")
PLAN = "plan.json"
TIMED_STEPS, WARM_STEPS = 6, 2
STAGE1_SEED = 1000  # added to a row's: its stages must not draw the same batches


@dataclass(frozen=True)
class AblationSettings:
    """What to run.

    Attributes:
        out: folder of everything.
        rows, seeds: every row is run with every seed.
        recipes: folder of the four recipes.
        changes: settings changed in them, by recipe or for "all".
        rooms: validation rooms.
        budget_s: wall time of one process for everything; unused with `steps`.
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

    def __post_init__(self) -> None:
        if self.rooms < 1:
            raise ValueError(f"rooms: expected at least 1 to measure a row on, got {self.rooms}")
        for name in ("steps", "teacher_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class AblationJob:
    """One run: a teacher, a stage 1 or a row's stage 2.

    Attributes:
        name: in words.
        folder: of the run.
        recipe: complete.
    """

    name: str
    folder: Path
    recipe: Recipe

    @property
    def needs(self) -> set[Path]:
        """Return the folders this run starts or learns from."""
        recipe = self.recipe
        named = (recipe.init, recipe.geometry_teacher.folder, recipe.semantic_teacher.folder)
        return {Path(folder) for folder in named if folder}


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


def row_folder(out: Path, row: str, seed: int) -> Path:
    """Return where a row's stage 2 is."""
    return out / "rows" / row / f"seed{seed}"


def stage1_folder(out: Path, name: str, seed: int) -> Path:
    """Return where a stage 1 is, by `stage1_name`."""
    return out / "stage1" / name / f"seed{seed}"


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        is_part = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{path}{name}.") if is_part else {f"{path}{name}": value}
    return flat


class AblationPlan:
    """Every run of an ablation, in order.

    Args:
        settings: what to run.
    """

    def __init__(self, settings: AblationSettings) -> None:
        self.settings = settings

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

    def check_rooms(self) -> None:
        """Refuse what no run could read, before steps are timed; one that has begun may go on.

        Raises:
            FileNotFoundError: a recipe's folder holds no rooms.
            ValueError: they have another size than the recipe's frames.
        """
        if (self.settings.out / PLAN).is_file():
            return  # each run that is left looks itself
        has_stage1 = any(row.has_stage1 for row in self.settings.rows)
        for kind in RECIPES if has_stage1 else ("geometry_teacher", "stage2"):
            try:
                build_source(self.recipe(kind, 1, {}).data)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"{RECIPES[kind]}: {error}") from error

    @cached_property
    def steps(self) -> StepPlan:
        """Return steps of every run: from plan.json, else worked out and kept there.

        Raises:
            ValueError: runs of the folder were begun with other recipes or steps.
        """
        file = self.settings.out / PLAN
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):  # one process works it out for all
            kept = json.loads(file.read_text()) if file.is_file() else None
            if kept is not None:
                other = self._other_settings(kept.get("asked", {}))
                if not other:
                    return StepPlan(**kept["steps"])
                if self._has_begun():
                    raise ValueError(
                        f"out: expected the settings that {self.settings.out} began with, got "
                        f"other {', '.join(other)}; rows of one table must not differ in them: "
                        "take another folder"
                    )
            steps, measured = self._make_steps()
            content = {"steps": asdict(steps), "step_s": measured, "asked": self._asked()}
            write_json(file, content)
        return steps

    def _has_begun(self) -> bool:
        return any(self.settings.out.rglob(CHECKPOINT))

    def _asked(self) -> dict[str, Any]:
        """Return what rows and seeds of one folder must have in common, by dotted name."""
        settings = self.settings
        asked: dict[str, Any] = {"steps": settings.steps, "teacher_steps": settings.teacher_steps}
        if not settings.steps:
            asked["budget_s"] = int(settings.budget_s)
        for kind in RECIPES:
            asked |= flatten(plain(self.recipe(kind, 1, {}).as_dict()), f"{kind}.")
        return asked

    def _other_settings(self, began: Mapping[str, Any]) -> list[str]:
        asked = self._asked()
        return sorted(name for name in {*began, *asked} if began.get(name) != asked.get(name))

    def _make_steps(self) -> tuple[StepPlan, dict[str, float]]:
        """Work out the steps of every run; return them and the seconds a step took, if timed."""
        settings = self.settings
        if settings.steps:
            return split_steps(settings.steps, settings.teacher_steps, STAGE1_COST), {}
        note("timing a few steps")
        measured = self.time_steps()
        steps = plan_steps(
            settings.budget_s,
            settings.rows,
            len(settings.seeds),
            measured,
            float(settings.rooms),
            settings.teacher_steps,
        )
        return steps, measured

    def time_steps(self) -> dict[str, float]:
        """Time a few steps of every kind of run, in a folder that is thrown away."""
        timed = {}
        with TemporaryDirectory() as scratch:
            for kind in RECIPES:
                changes: dict[str, Any] = {"validation.rooms": 0}
                if kind == "stage1":
                    changes["init"] = f"{scratch}/{TEACHERS[0]}"
                    changes |= {f"{name}.folder": f"{scratch}/{name}" for name in TEACHERS}
                if kind == "stage2":
                    changes["init"] = f"{scratch}/stage1"
                trainer = build_trainer(self.recipe(kind, 1000, changes), f"{scratch}/{kind}")
                trainer.run(WARM_STEPS)
                before = trainer.state
                step, seconds = before.step, before.seconds
                trainer.run(TIMED_STEPS)
                if trainer.stop_requested:
                    raise KeyboardInterrupt
                timed[kind] = (trainer.state.seconds - seconds) / (trainer.state.step - step)
        return timed

    @cached_property
    def jobs(self) -> list[AblationJob]:
        """Return every run once, in an order in which what a run needs comes before it."""
        every = {job.folder: job for job in self._jobs()}
        return list(every.values())

    def _jobs(self) -> Iterator[AblationJob]:
        out = self.settings.out
        for kind in TEACHERS:
            if kind == TEACHERS[0] or any(row.has_stage1 for row in self.settings.rows):
                yield AblationJob(kind, out / kind, self.recipe(kind, self.steps.teacher, {}))
        for seed in self.settings.seeds:
            for row in self.settings.rows:
                yield from self._row_jobs(row, seed)

    def _row_jobs(self, row: AblationRow, seed: int) -> Iterator[AblationJob]:
        """Yield a row's stage 1, where it has one, and its stage 2.

        Both begin with the geometry teacher's weights, as the paper's reconstruction branch does
        with VGGT's; only what a row has and the teacher lacks starts from scratch.
        """
        out, steps = self.settings.out, self.steps
        init, length = out / TEACHERS[0], steps.single
        if row.has_stage1:
            name = stage1_name(row)
            first = stage1_folder(out, name, seed)
            common: dict[str, Any] = {"seed": seed + STAGE1_SEED, "init": str(init)}
            common |= {kind: {"folder": str(out / kind)} for kind in TEACHERS}
            recipe = self.recipe("stage1", steps.stage1, change_settings(common, row.stage1))
            yield AblationJob(f"stage 1 of {name}", first, recipe)
            init, length = first, steps.stage2
        changes = change_settings({"seed": seed, "init": str(init)}, row.stage2)
        recipe = self.recipe("stage2", length, changes)
        yield AblationJob(row.name, row_folder(out, row.name, seed), recipe)

    def describe(self) -> str:
        """Say what runs, in what order, and how many steps each has."""
        jobs = self.jobs
        lines = [f"{job.name:24} {job.recipe.total_steps:6} steps  {job.folder}" for job in jobs]
        step_s = json.loads((self.settings.out / PLAN).read_text()).get("step_s", {})
        if step_s:
            total = sum(job.recipe.total_steps * step_s["stage2"] for job in jobs)
            lines.append(f"training takes one process at most {total / 60:.0f} minutes")
        return "\n".join(lines)
