# SPDX-License-Identifier: Apache-2.0
"""What an ablation runs: a row is a change of recipes, a folder holds runs of one plan."""

import dataclasses
import re
from pathlib import Path

import pytest

from vidllm_ros.cli import ablation_plan
from vidllm_ros.cli.ablation_plan import AblationPlan, AblationSettings
from vidllm_ros.evaluation import ablation
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.training.checkpoint import CHECKPOINT

RECIPES = Path(__file__).parents[2] / "config" / "train"


@pytest.mark.parametrize("row", ablation.ROWS, ids=lambda row: row.name)
def test_a_row_is_a_change_of_recipes(tmp_path, row):
    settings = AblationSettings(
        out=tmp_path, rows=(row,), seeds=(5,), recipes=RECIPES, changes={}, steps=30
    )
    runs = {job.name: job for job in AblationPlan(settings).jobs}
    made = runs.pop(row.name)
    teacher = str(tmp_path / "geometry_teacher")
    assert made.recipe.seed == 5
    assert made.recipe.total_steps == (30 if row.has_stage1 else 32)  # 10 steps of a quarter
    assert Path(made.recipe.init) in {job.folder for job in runs.values()}
    full = dataclasses.replace(settings, rows=ablation.choose_rows("full"))
    others = {job.name: job.recipe for job in AblationPlan(full).jobs}
    differs = differences(made.recipe, others["full"]) - {"init", "total_steps"}
    assert differs == set(row.stage2)
    first = [job.recipe for name, job in runs.items() if name.startswith("stage 1")]
    assert len(first) == row.has_stage1
    for recipe in first:
        assert (recipe.init, recipe.seed) == (teacher, 1005)
        differs = differences(recipe, others["stage 1 of full"])
        wanted = {name for name in row.stage1 if not name.endswith("_teacher")}
        kinds = {name + part for name in set(row.stage1) - wanted for part in (".kind", ".folder")}
        assert differs == wanted | kinds
    for name, value in row.stage2.items():
        part, _, setting = name.partition(".")
        holder = made.recipe.model if part == "model" else vars(made.recipe.losses)
        assert holder[setting] == value


def test_the_size_for_two_cores_names_settings_that_exist(tmp_path):
    file = RECIPES.parent / "ablation_two_cores.yaml"
    settings = AblationSettings(
        out=tmp_path,
        rows=ablation.ROWS,
        seeds=(0,),
        recipes=RECIPES,
        changes=ablation_plan.read_changes(file, ""),
        steps=30,
    )
    known = VidLLMConfig().to_dict()
    for job in AblationPlan(settings).jobs:
        assert job.recipe.data.width == 84
        if job.recipe.stage != "image_text":
            assert set(job.recipe.model) <= set(known)
            assert VidLLMConfig(**job.recipe.model).encoder["hidden_size"] == 96


def differences(recipe, other):
    """Return the dotted names of settings in which two recipes differ."""
    ours, theirs = (ablation_plan.flatten(made.as_dict()) for made in (recipe, other))
    return {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}


def test_other_settings_want_another_folder(tmp_path):
    settings = AblationSettings(
        out=tmp_path,
        rows=ablation.choose_rows("full"),
        seeds=(0,),
        recipes=RECIPES,
        changes={},
        steps=30,
    )
    began = AblationPlan(settings).steps
    (tmp_path / "rows" / "full" / "seed0").mkdir(parents=True)
    (tmp_path / "rows" / "full" / "seed0" / CHECKPOINT).touch()
    more = dataclasses.replace(settings, rows=ablation.ROWS, seeds=(1, 2), stop_after_s=9.0)
    assert AblationPlan(more).steps == began
    for name, value, said in (
        ("steps", 40, "steps"),
        ("teacher_steps", 7, "teacher_steps"),
        ("rooms", 3, "geometry_teacher.validation.rooms, semantic_teacher.validation.rooms, "),
        ("changes", {"stage2": {"losses.camera": 1.0}}, "stage2.losses.camera"),
    ):
        other = dataclasses.replace(settings, **{name: value})
        with pytest.raises(ValueError, match=f"got other {re.escape(said)}"):
            _ = AblationPlan(other).steps
    (tmp_path / "rows" / "full" / "seed0" / CHECKPOINT).unlink()
    assert AblationPlan(dataclasses.replace(settings, steps=40)).steps.stage2 == 40


@pytest.mark.parametrize("wrong", [{"rooms": 0}, {"steps": -1}, {"teacher_steps": -1}])
def test_numbers_that_make_no_sense_are_refused_by_their_option(tmp_path, wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        AblationSettings(tmp_path, (), (), RECIPES, {}, **wrong)
