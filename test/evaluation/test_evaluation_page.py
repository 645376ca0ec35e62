# SPDX-License-Identifier: Apache-2.0
"""docs/evaluation.md against the code: every benchmark, its command, and tests that exist."""

import re
from pathlib import Path

import pytest
import torch

from vidllm_ros.evaluation.benchmark_registry import BENCHMARKS, load_benchmark
from vidllm_ros.network.scale_alignment import align_scale

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("|")]
DEFINED = {
    name
    for file in (ROOT / "test").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_has_its_command_protocol_and_source(name):
    assert re.search(rf"^    vidllm evaluate {name} --", PAGE, re.MULTILINE)
    start = next(i for i, row in enumerate(ROWS) if row[0].startswith(" name (paper"))
    row = next(row for row in ROWS[start:] if f"`{name}`" in row[0])
    assert len(row) == 4
    assert all(cell.strip() for cell in row)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_a_model_is_given_is_said_with_intrinsics_or_without(name):
    assert "intrinsics" in load_benchmark(name).given
    assert ("without intrinsics" in load_benchmark(name).given) == (
        name in ("nyuv2", "co3dv2", "re10k")
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_files_each_benchmark_expects_are_on_the_page(name):
    words = load_benchmark(name).layout.replace("{name}", name).split("\n")
    files = {re.split(r"[ ,]", line.strip())[0] for line in words if "." in line.split(" ")[0]}
    for file in files:
        end = file.rsplit("/", 1)[-1].replace("<scene>", "{scene}").replace("<seed>", "")
        if not end.startswith("room"):  # SynthRooms renders its own
            assert end.split("{")[-1].rsplit("}")[-1] in PAGE, file


def traps():
    start = next(i for i, row in enumerate(ROWS) if row[0].strip() == "trap")
    return [(row[0].strip(), re.findall(r"`(test_\w+)`", row[1])) for row in ROWS[start + 2 :]]


@pytest.mark.parametrize(("trap", "tests"), traps())
def test_every_trap_has_a_test_of_its_name(trap, tests):
    assert tests, trap
    assert set(tests) <= DEFINED, trap


def test_the_traps_are_all_there():
    said = " ".join(trap for trap, _ in traps())
    for words in (
        "refined match",
        "missing caption",
        "whole split",
        "more predictions than truths",
        "up to sign",
        "last bin",
        "median of 16",
        "precision asks",
    ):
        assert words in said


def test_the_scale_is_the_mean_of_the_middle_two_of_sixteen():
    """Trap: torch.median takes the lower of the middle two; numpy, and so this, their mean."""
    factors = torch.tensor([float(2 ** (i % 16)) for i in range(16)])
    relative = torch.ones(16, 3, 4)
    metric = relative * factors[:, None, None]
    everywhere = torch.ones(16, 3, 4, dtype=torch.bool)
    found = align_scale(relative, metric, torch.ones(16, 3, 4), everywhere)
    assert found.per_frame.shape == (16,)
    assert found.scale.item() == pytest.approx((2.0**7 + 2.0**8) / 2)
    assert torch.median(factors).item() == 2.0**7
