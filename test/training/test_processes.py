# SPDX-License-Identifier: Apache-2.0
"""Two processes on one batch learn what one process learns from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vidllm_ros.data.synthrooms.storage import save_sample
from vidllm_ros.training.build import plain

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from vidllm_ros.training import build
from vidllm_ros.training.recipe import load_recipe
build.annotate_frames = lambda room, frames, seed, rounds: room.select(frames)
build.TOKENIZER_ROOMS = 3
build.build_trainer(load_recipe(sys.argv[1]), sys.argv[2]).run()
"""


def train(script: Path, config: Path, out: Path, processes: int) -> list[dict[str, float]]:
    command = [sys.executable, str(script), str(config), str(out)]
    if processes > 1:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *run, *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=280)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


GEOMETRY_ALONE = {
    "learn": ["aggregator", "camera_head", "depth_head", "metric_depth", "point_head"],
    "losses": {"language": 0.0, "grounding": 0.0, "oracle_label": 0.0, "oracle_color": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("alone", [{}, GEOMETRY_ALONE], ids=["all", "geometry alone"])
def test_two_processes_give_the_loss_of_one(tmp_path, make_recipe, make_sample, alone):
    for seed in range(4):
        sample = make_sample(seed)
        sample.depth[:, :, : 3 * seed] = float("nan")  # unequal counts of valid pixels
        save_sample(tmp_path / "rooms" / f"room{seed}.npz", sample)
    values = plain(make_recipe().as_dict())
    values["data"] |= {"folder": str(tmp_path / "rooms"), "min_frames": 2, "max_frames": 2}
    values |= {"total_steps": 3, "log_every": 1, "own_geometry": [0.0, 0.0]}
    values["losses"] |= {"guide_attention": 1.0, "guide_ray": 1.0, "guide_camera": 1.0}
    values["losses"] |= alone.get("losses", {})
    values["learn"] = alone.get("learn", [])
    values["optimizer"] |= {"name": "muon", "warmup": 0.5, "ema": 0.0}
    config, script = tmp_path / "tiny.yaml", tmp_path / "run.py"
    config.write_text(yaml.safe_dump(values))
    script.write_text(SCRIPT)
    one = train(script, config, tmp_path / "one", 1)
    two = train(script, config, tmp_path / "two", 2)
    assert [row["step"] for row in two] == [1, 2, 3]
    times = {"seconds", "data_s", "step_s", "scenes"}
    for mine, theirs in zip(one, two, strict=True):
        assert set(mine) == set(theirs)
        for name in set(mine) - times:
            assert theirs[name] == pytest.approx(mine[name], rel=2e-3, abs=2e-4), name
