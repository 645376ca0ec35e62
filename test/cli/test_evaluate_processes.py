# SPDX-License-Identifier: Apache-2.0
"""Two processes share a benchmark; one is killed in the middle, and the same command goes on."""

import json

import hand_made
import pytest
from two_processes import run_twice

QUESTIONS = 7  # four scenes: 2, 1, 2, 2
OF_FIRST = 4  # of the first process


def write_four_scenes(root):
    """SQA3D over four scenes: processes 0 and 1 get every other one."""
    scenes = [f"scene{index:04d}_00" for index in range(4)]
    names = (*scenes, scenes[0], *scenes[2:])
    asked = [
        {"scene_id": s, "question_id": i, "situation": "I stand.", "question": f"Number {i}?"}
        for i, s in enumerate(names)
    ]
    told = [
        {
            "scene_id": scene_id,
            "question_id": index,
            "answers": [{"answer": f"{scene_id} number {index}"}],
            "position": {"x": 0, "y": 0, "z": 0},
            "rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1},
        }
        for index, scene_id in enumerate(names)
    ]
    for name, key, records in (
        ("questions", "questions", asked),
        ("sqa_annotations", "annotations", told),
    ):
        file = root / f"v1_balanced_{name}_test_scannetv2.json"
        hand_made.write_json(file, {key: records})
    for scene_id in scenes:
        hand_made.write_frames(root, scene_id, count=1)


def launch(root, log, dies=0):
    arguments = ("sqa3d", "--data", str(root), "--out", str(root / "r.json"), "--no-pages")
    arguments += ("--predictor", "blind_models:Mortal")
    return run_twice(
        "vidllm_ros.cli.evaluate",
        arguments,
        MORTAL_LOG=str(log),
        MORTAL_DIES=str(dies or ""),
        MORTAL_KEPT=str(root / "r.predictions" / "predictions-0.jsonl"),
    )


@pytest.mark.slow
def test_a_killed_process_costs_one_question_and_nothing_is_asked_twice(tmp_path):
    write_four_scenes(tmp_path)
    log = tmp_path / "log"
    log.mkdir()
    killed = launch(tmp_path, log, dies=OF_FIRST)  # when process 0 has kept so many
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    assert not (tmp_path / "r.json").exists()
    assert len(list(log.glob("rank1-*"))) == 1  # it died at its second question
    before = {file.read_text() for file in log.iterdir()}
    assert len(before) == OF_FIRST + 1

    resumed = launch(tmp_path, log)
    assert resumed.returncode == 0, resumed.stderr
    asked = [file.read_text() for file in log.iterdir()]
    assert len(asked) == len(set(asked)) == QUESTIONS
    assert before < set(asked)
    by_rank = {
        rank: {file.read_text().split(":")[0] for file in log.glob(f"rank{rank}-*")}
        for rank in "01"
    }
    assert by_rank == {
        "0": {"scene0000_00", "scene0002_00"},
        "1": {"scene0001_00", "scene0003_00"},
    }
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["questions"], report["em"]) == (QUESTIONS, 100.0)
    assert resumed.stdout.count('"benchmark": "sqa3d"') == 1  # one process writes the report
