# SPDX-License-Identifier: Apache-2.0
"""Rows of the ablation, their steps within a budget, their table."""

import numpy as np
import pytest

from vidllm_ros.evaluation import ablation


def test_rows_are_chosen_by_table_and_name():
    assert {row.name for row in ablation.choose_rows("fig5")} == {
        "full",
        "single_stage",
        "geometry_only",
        "semantic_only",
        "no_structure",
    }
    assert len(ablation.choose_rows("table6")) == 9
    assert [row.name for row in ablation.choose_rows("full, bridge_4")] == ["full", "bridge_4"]
    with pytest.raises(ValueError, match="rows: expected"):
        ablation.choose_rows("table7")


def test_settings_change_by_dotted_name():
    values = {"model": {"adapter": "bridge", "encoder": {"a": 1}}, "losses": {"metric": 1.0}}
    changed = ablation.change_settings(values, {"model.adapter": "none", "losses.metric": 0.0})
    assert changed["model"] == {"adapter": "none", "encoder": {"a": 1}}
    assert changed["losses"] == {"metric": 0.0}
    assert values["model"]["adapter"] == "bridge"
    assert ablation.change_settings(values, {"model": {"x": 2}})["model"]["adapter"] == "bridge"
    assert ablation.change_settings({}, {"a.b.c": 1}) == {"a": {"b": {"c": 1}}}


def test_a_budget_gives_every_row_the_same_steps():
    rows = ablation.choose_rows("fig5")
    seconds = dict.fromkeys(("geometry_teacher", "semantic_teacher", "stage1", "stage2"), 1.0)
    plan = ablation.plan_steps(3600.0, rows, 2, seconds, evaluation_s=10.0)
    runs = 2 * (4 * plan.stage2 + plan.single + 4 * plan.stage1)
    assert plan.single == plan.stage2 + plan.stage1  # by time: here a step of either takes 1 s
    assert 3200 < runs + 2 * plan.teacher + 100 <= 3600
    with pytest.raises(ValueError, match="budget-minutes: expected at least"):
        ablation.plan_steps(60.0, rows, 2, seconds)
    longer = ablation.plan_steps(3600.0, rows, 2, seconds, 10.0, teacher_steps=500)
    runs = 2 * (4 * longer.stage2 + longer.single + 4 * longer.stage1)
    assert longer.teacher == 500
    assert 3200 < runs + 2 * 500 + 100 <= 3600


def test_the_table_marks_the_best_of_each_metric():
    rows = ablation.choose_rows("full,single_stage")
    results = [
        ablation.AblationResult("full", 0, {"depth_absrel": 0.2, "qa_em": 0.5}),
        ablation.AblationResult("full", 1, {"depth_absrel": 0.4, "qa_em": 0.5}),
        ablation.AblationResult("single_stage", 0, {"depth_absrel": 0.25}),
    ]
    table = ablation.result_table(results, rows)
    assert "| 0.300 ± 0.141 |" in table
    assert table.splitlines()[-1].startswith("| spread of one seed ")
    assert "| ± 0.141 |" in table.splitlines()[-1]
    assert "**0.250**" in table
    assert "| 2 |" in table.splitlines()[2]


def test_the_spread_of_seeds_is_pooled_over_rows():
    rows = ablation.choose_rows("full,single_stage,bridge_4")
    numbers = {"full": (0.1, 0.3), "single_stage": (0.5, 0.5, 0.5), "bridge_4": (0.9,)}
    results = [
        ablation.AblationResult(row, seed, {"qa_em": value})
        for row, values in numbers.items()
        for seed, value in enumerate(values)
    ]
    last = ablation.result_table(results, rows).splitlines()[-1]
    assert last.count("±") == 1
    assert f"± {np.sqrt(0.02 / 3):.3f}" in last
    assert "spread of one seed" not in ablation.result_table(results[-1:], rows)
