# SPDX-License-Identifier: Apache-2.0
"""Every row of the ablation runs from its recipes on a tiny network; stopping and going on."""

import dataclasses
import json
import threading
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import yaml
from filelock import FileLock

from vidllm_ros.cli import ablate, ablation_run, curves
from vidllm_ros.cli.ablation_run import AblationRun, AblationSettings
from vidllm_ros.cli.validation import RoomValidator
from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.evaluation import ablation
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training.recipe import recipe_from_dict

RECIPES = Path(__file__).parents[2] / "config" / "train"
SMALL_LANGUAGE = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
}
SMALL = {
    "model.encoder": {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3},
    "model.encoder_layers": [0, 1, 2, 3],
    "model.dense_features": 16,
    "model.dense_channels": [8, 8, 16, 16],
    "model.metric_features": 16,
    "model.metric_channels": [8, 8, 16, 16],
    "model.metric_bins": 16,
    "model.metric_embedding": 16,
    "model.grounding_dim": 32,
    "model.grounding_queries": 12,
    "model.max_scene_tokens": 64,
}
DATA = {
    "precision": "no",
    "log_every": 1,
    "data.frames_per_batch": 2,
    "data.min_frames": 2,
    "data.max_frames": 2,
    "data.long_share": 0.0,
    "data.workers": 0,
    "validation.frames": 3,
    "validation.questions": 2,
}


@pytest.fixture
def changes(tmp_path, monkeypatch):
    from vidllm_ros.network import configuration
    from vidllm_ros.training import build

    monkeypatch.setattr(build, "TOKENIZER_ROOMS", 2)
    language = {**configuration.NANO_LANGUAGE, **SMALL_LANGUAGE}
    network = {**SMALL, "model.language": language}
    towers = {
        "model.vision_config.num_hidden_layers": 3,
        "model.text_config.vocab_size": 300,
        "model.text_config.num_hidden_layers": 1,
    }
    file = tmp_path / "changes.yaml"
    stages = dict.fromkeys(("geometry_teacher", "stage1", "stage2"), network)
    file.write_text(yaml.safe_dump({"all": DATA, **stages, "semantic_teacher": towers}))
    return file


@pytest.mark.slow
def test_rows_run_stop_and_go_on(tmp_path, changes, capsys):
    from vidllm_ros.data.synthrooms.storage import save_sample

    for seed in range(2):
        save_sample(tmp_path / "rooms" / f"room{seed}.npz", make_scene(seed, frames=4))
    out = tmp_path / "out"
    rows = "full,adapter_none,metric_none,geometry_only,single_stage"
    command = ["--out", str(out), "--steps", "1", "--seeds", "3", "--rooms", "1", "--rows", rows]
    command += ["--changes", str(changes), "--data", str(tmp_path / "rooms")]
    assert ablate.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert all(name in said for name in rows.split(","))
    assert not (out / "rows").exists()
    assert ablate.main([*command, "--stop-after-minutes", "0.0001"]) == 0
    stopped = capsys.readouterr()
    assert "the same command goes on" in stopped.err
    assert stopped.out == ""  # no row is done
    assert ablate.main(command) == 0
    table = capsys.readouterr().out
    kept = json.loads((out / "ablation.json").read_text())
    assert [result["row"] for result in kept["results"]] == rows.split(",")
    for result in kept["results"]:
        assert {"depth_absrel", "fscore_10cm", "pose_rotation_deg"} <= set(result["numbers"])
    assert (out / "ablation.md").read_text() in table
    assert matplotlib.image.imread(out / "ablation.png").shape[2] in (3, 4)
    first_stages = {folder.name for folder in (out / "stage1").iterdir()}
    assert first_stages == {"full", "adapter_none", "geometry_only"}  # shared where it is equal
    picture = next((out / "rows" / "full").glob("seed3/validation/*.png"))
    assert matplotlib.image.imread(picture).ndim == 3
    drawn = tmp_path / "curves.png"
    full = str(out / "rows" / "full" / "seed3")
    assert curves.main([full, "--out", str(drawn)]) == 0
    assert drawn.is_file()


@pytest.mark.parametrize("row", ablation.ROWS, ids=lambda row: row.name)
def test_a_row_is_a_change_of_recipes(tmp_path, row):
    settings = AblationSettings(
        out=tmp_path, rows=(row,), seeds=(5,), recipes=RECIPES, changes={}, steps=30
    )
    runs = {name: made for name, _, made in AblationRun(settings).unique()}
    made = runs[row.name]
    assert made.seed == 5
    assert made.total_steps == 30 + (0 if row.has_stage1 else 10)
    assert bool(made.init) == row.has_stage1
    if row.has_stage1:
        first = next(made for name, made in runs.items() if name.startswith("stage 1"))
        kinds = (first.geometry_teacher.kind, first.semantic_teacher.kind)
        assert ("none" in kinds) == (row.name in ("geometry_only", "semantic_only"))
        assert (first.losses.distil_structure == 0) == (row.name == "no_structure")
        assert dict(first.model) == {
            name.partition(".")[2]: value
            for name, value in row.stage1.items()
            if name.startswith("model.")
        }
    for name, value in row.stage2.items():
        part, _, setting = name.partition(".")
        holder = made.model if part == "model" else vars(made.losses)
        assert holder[setting] == value


def share(tmp_path, monkeypatch, rows="full,single_stage,geometry_only", seeds=(0, 1)):
    """Return the settings of a small ablation and the order in which its runs were made."""
    made = []

    def run_one(self, folder, recipe):
        needs = (recipe.init, recipe.geometry_teacher.folder, recipe.semantic_teacher.folder)
        assert all((Path(need) / ablation_run.RESULT).is_file() for need in needs if need)
        made.append(folder)
        time.sleep(0.02)
        (folder / ablation_run.RESULT).write_text('{"numbers": {}}')

    monkeypatch.setattr(ablation_run, "WAIT_S", 0.01)
    monkeypatch.setattr(AblationRun, "run_one", run_one)
    settings = AblationSettings(
        out=tmp_path,
        rows=ablation.choose_rows(rows),
        seeds=seeds,
        recipes=RECIPES,
        changes={},
        steps=30,
    )
    return settings, made


def test_processes_with_one_folder_share_the_runs(tmp_path, monkeypatch):
    settings, made = share(tmp_path, monkeypatch)
    runs = [AblationRun(settings) for _ in range(3)]
    wanted = {folder for _, folder, _ in runs[0].unique()}
    done = []
    threads = [threading.Thread(target=lambda run=run: done.append(run.train())) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done == [True] * 3
    assert sorted(made) == sorted(wanted)  # each once


def test_what_another_process_has_is_left_to_it(tmp_path, monkeypatch):
    settings, made = share(tmp_path, monkeypatch, rows="single_stage", seeds=(4, 5))
    run = AblationRun(settings)
    first, second = run.unique()
    first[1].mkdir(parents=True)
    with FileLock(first[1] / ablation_run.TAKEN):
        assert not run.take(first)
        assert run.take(second)
    assert made == [second[1]]
    assert run.take(first)


def test_time_that_is_over_ends_the_waiting(tmp_path, monkeypatch):
    settings, made = share(tmp_path, monkeypatch, rows="single_stage", seeds=(4,))
    run = AblationRun(dataclasses.replace(settings, stop_after_s=0.1))
    folder = run.unique()[0][1]
    folder.mkdir(parents=True)
    with FileLock(folder / ablation_run.TAKEN):
        assert not run.train()
    assert made == []


def test_rooms_the_network_would_resize_are_refused_before_training(tmp_path):
    recipe = recipe_from_dict({"data": {"height": 56, "width": 84}})
    with pytest.raises(ValueError, match=r"set model\.image_size to the frames' width"):
        RoomValidator(recipe).check(VidLLM(VidLLMConfig()))
    RoomValidator(recipe).check(VidLLM(VidLLMConfig(image_size=84)))


def test_the_table_so_far_names_what_is_done(tmp_path, monkeypatch, capsys):
    settings, _ = share(tmp_path, monkeypatch)
    run = AblationRun(settings)
    assert run.plan
    assert not run.results()
    folder = run.row_folder("single_stage", 1)
    folder.mkdir(parents=True)
    (folder / ablation_run.RESULT).write_text('{"numbers": {"qa_em": 0.25}}')
    lines = run.report().splitlines()
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["0", "1", "0"]
    assert "0.250" in lines[3]


def test_teachers_may_have_steps_of_their_own(tmp_path, monkeypatch):
    settings, _ = share(tmp_path, monkeypatch)
    plan = AblationRun(dataclasses.replace(settings, teacher_steps=99)).plan
    assert plan == ablation.StepPlan(teacher=99, stage1=10, stage2=30)
    assert AblationRun(dataclasses.replace(settings, out=tmp_path / "x")).plan.teacher == 15


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
    runs = 2 * (len(rows) * plan.stage2 + 4 * plan.stage1 + plan.stage1)
    assert 3200 < runs + 2 * plan.teacher + 100 <= 3600
    with pytest.raises(ValueError, match="budget-minutes: expected at least"):
        ablation.plan_steps(60.0, rows, 2, seconds)
    longer = ablation.plan_steps(3600.0, rows, 2, seconds, 10.0, teacher_steps=500)
    runs = 2 * (len(rows) * longer.stage2 + 4 * longer.stage1 + longer.stage1)
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
    assert table.splitlines()[-1].startswith("| one seed, ")
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
    assert "one seed" not in ablation.result_table(results[-1:], rows)


def test_curves_say_what_is_missing(tmp_path, capsys):
    assert curves.main([str(tmp_path), "--out", str(tmp_path / "a.png")]) == 1
    assert "expected log.jsonl" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text('{"step": 1, "scenes": 2, "loss": 3.0}\n{"step"')
    assert curves.main([str(tmp_path), "--out", str(tmp_path / "a.png")]) == 0
    assert curves.main([str(tmp_path), "--out", str(tmp_path / "a.png"), "--terms", "no"]) == 1


def test_a_run_keeps_its_colour_in_every_panel():
    first = [{"scenes": 1, "loss": 2.0}], []
    second = [{"scenes": 1, "loss": 3.0, "language": 1.0}], [{"scenes": 1, "qa_em": 0.5}]
    read = {Path("geometry"): first, Path("words"): second}
    figure = curves.draw_curves(read, ["loss", "language", "qa_em"])
    colors = [[line.get_color() for line in axes.get_lines()] for axes in figure.axes]
    assert colors == [["C0", "C1"], ["C1"], ["C1"]]
    shown = figure.legends[0]
    assert [text.get_text() for text in shown.get_texts()] == ["geometry", "words"]
    assert [line.get_color() for line in shown.get_lines()] == ["C0", "C1"]
