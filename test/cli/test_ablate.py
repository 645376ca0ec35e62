# SPDX-License-Identifier: Apache-2.0
"""Every row of the ablation runs from its recipes on a tiny network; stopping and going on."""

import dataclasses
import json
import threading
import time
from pathlib import Path

import matplotlib.image
import pytest
import yaml
from filelock import FileLock

from vidllm_ros.cli import ablate, ablation_plan, ablation_run, curves, train
from vidllm_ros.cli.ablation_plan import AblationPlan, AblationSettings
from vidllm_ros.cli.ablation_run import AblationRun
from vidllm_ros.cli.validation import RoomValidator
from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.data.synthrooms.storage import save_sample
from vidllm_ros.evaluation import ablation
from vidllm_ros.training.recipe import recipe_from_dict
from vidllm_ros.training.trainer import NotFiniteError

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
    assert {result["row"] for result in kept["results"]} == set(rows.split(","))
    assert {"fscore_10cm", "depth_absrel"} <= set(kept["start"])
    first = {r["row"]: "held_out_distil_semantic" in r["numbers"] for r in kept["results"]}
    assert first == {row: row not in ("single_stage", "geometry_only") for row in first}
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


@pytest.mark.slow
def test_a_budget_is_shared_out_by_timed_steps(tmp_path, changes, monkeypatch):
    monkeypatch.setattr(ablation_plan, "WARM_STEPS", 1)
    monkeypatch.setattr(ablation_plan, "TIMED_STEPS", 1)
    for seed in range(2):
        save_sample(tmp_path / "rooms" / f"room{seed}.npz", make_scene(seed, frames=4))
    settings = AblationSettings(
        out=tmp_path / "out",
        rows=ablation.choose_rows("fig5"),
        seeds=(0,),
        recipes=RECIPES,
        changes=ablation_plan.read_changes(changes, str(tmp_path / "rooms")),
        rooms=1,
        budget_s=10_000.0,
    )
    steps = AblationPlan(settings).steps
    kept = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert set(kept["step_s"]) == set(ablation_plan.RECIPES)
    assert min(kept["step_s"].values()) > 0
    total = steps.teacher * (
        kept["step_s"]["geometry_teacher"] + kept["step_s"]["semantic_teacher"]
    )
    total += (4 * steps.stage2 + steps.single) * kept["step_s"]["stage2"]
    total += 4 * steps.stage1 * kept["step_s"]["stage1"]
    assert total == pytest.approx(10_000.0, rel=0.02)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"plan.json", "plan.lock"}


def share(tmp_path, monkeypatch, rows="full,single_stage,geometry_only", seeds=(0, 1)):
    """Return the settings of a small ablation and the order in which its runs were made."""
    made = []

    def run_one(self, job):
        own = {other.folder for other in self.plan.jobs}
        assert all((need / ablation_run.RESULT).is_file() for need in job.needs & own)
        made.append(job.folder)
        time.sleep(0.02)
        (job.folder / ablation_run.RESULT).write_text('{"numbers": {}}')

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
    wanted = {job.folder for job in runs[0].plan.jobs}
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
    teacher, first, second = run.plan.jobs
    assert not run.take(first)  # which needs the teacher
    assert run.take(teacher)
    first.folder.mkdir(parents=True)
    with FileLock(first.folder / ablation_run.TAKEN):
        assert not run.take(first)
        assert run.take(second)
    assert made == [teacher.folder, second.folder]
    assert run.take(first)


def test_time_that_is_over_ends_the_waiting(tmp_path, monkeypatch, capsys):
    settings, made = share(tmp_path, monkeypatch, rows="single_stage", seeds=(4,))
    run = AblationRun(dataclasses.replace(settings, stop_after_s=60.0))
    monkeypatch.setattr(ablation_run.time, "sleep", lambda _: setattr(run, "started", -1e9))
    folder = run.plan.jobs[0].folder
    folder.mkdir(parents=True)
    with FileLock(folder / ablation_run.TAKEN):
        assert not run.train()
    assert made == []
    assert capsys.readouterr().err.count("waiting for what another process has") == 1


def test_a_run_that_fails_costs_what_needs_it_and_no_more(tmp_path, monkeypatch, capsys):
    settings, made = share(tmp_path, monkeypatch)
    whole = AblationRun.run_one

    def fails(self, job):
        if job.name == "stage 1 of geometry_only":
            raise NotFiniteError("the loss is nan")
        whole(self, job)

    monkeypatch.setattr(AblationRun, "run_one", fails)
    run = AblationRun(settings)
    assert not run.train()
    assert len(made) == len(run.plan.jobs) - 4
    told = sorted(reason.startswith("needs ") for reason in run.lost.values())
    assert told == [False, False, True, True]
    assert "the loss is nan" in capsys.readouterr().err
    kept = [folder / ablation_run.ERROR for folder in run.failed]
    assert all("NotFiniteError: the loss is nan" in file.read_text() for file in kept)
    assert all(str(file) in run.failed[file.parent] for file in kept)
    assert run.report() is None  # nothing was measured here


def test_folders_without_rooms_are_refused_before_anything_is_written(tmp_path, capsys):
    file, out = tmp_path / "changes.yaml", tmp_path / "out"
    nowhere = {"data.folder": ""}
    file.write_text(
        yaml.safe_dump(
            {"all": nowhere, "stage1": {"data.folder": f"{tmp_path}/empty"}, "stage2": nowhere}
        )
    )
    command = ["--out", str(out), "--changes", str(file), "--recipes", str(RECIPES)]
    assert ablate.main([*command, "--rows", "full"]) == 1
    told = capsys.readouterr().err
    assert f"nano_stage1: data.folder: expected rendered rooms (*.npz) in {tmp_path}/empty" in told
    assert not out.exists()
    one = [*command, "--rows", "single_stage", "--steps", "9", "--stop-after-minutes", "1e-9"]
    assert ablate.main(one) == 0  # which has no stage 1
    assert (out / "plan.json").is_file()


def test_weights_from_outside_are_not_waited_for(tmp_path, monkeypatch):
    settings, made = share(tmp_path, monkeypatch, rows="single_stage", seeds=(4,))
    changes = {"geometry_teacher": {"init": str(tmp_path / "elsewhere")}}
    run = AblationRun(dataclasses.replace(settings, changes=changes))
    assert run.train()
    assert len(made) == 2


def test_rooms_the_network_would_resize_are_refused_before_training(tmp_path, capsys):
    values = {"data": {"height": 56, "width": 84}, "validation": {"rooms": 1}}
    RoomValidator(recipe_from_dict({**values, "model": {"image_size": 84}})).check()
    with pytest.raises(ValueError, match=r"expected the size the network reads, 70 x 112 with"):
        RoomValidator(recipe_from_dict(values)).check()
    file, out = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(values))
    assert train.main(["--config", str(file), "--out", str(out)]) == 1
    assert "expected the size the network reads" in capsys.readouterr().err
    assert not (out / "model").exists()  # mended, the recipe can be given again


def test_the_table_so_far_names_what_is_done(tmp_path, monkeypatch, capsys):
    settings, _ = share(tmp_path, monkeypatch)
    run = AblationRun(settings)
    assert run.plan.steps
    assert run.report() is None
    folder = ablation_plan.row_folder(tmp_path, "single_stage", 1)
    folder.mkdir(parents=True)
    (folder / ablation_run.RESULT).write_text('{"numbers": {"qa_em": 0.25}}')
    lines = run.report().splitlines()
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["0", "1", "0"]
    assert "0.250" in lines[3]
    other = AblationRun(dataclasses.replace(settings, rows=ablation.choose_rows("bridge_4")))
    assert [line.split("|")[-2].strip() for line in other.report().splitlines()[2:]] == ["0", "1"]
    assert ablate.main(["--out", str(tmp_path), "--report-only"]) == 0
    assert "single-stage" in capsys.readouterr().out
    assert ablate.main(["--out", str(tmp_path / "none"), "--report-only"]) == 0
    assert "no row is done yet" in capsys.readouterr().err


def test_teachers_may_have_steps_of_their_own(tmp_path, monkeypatch):
    settings, _ = share(tmp_path, monkeypatch)
    steps = AblationPlan(dataclasses.replace(settings, teacher_steps=99)).steps
    assert steps == ablation.StepPlan(teacher=99, stage1=10, stage2=30, single=32)
    assert AblationPlan(dataclasses.replace(settings, out=tmp_path / "x")).steps.teacher == 15
