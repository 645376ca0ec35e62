# SPDX-License-Identifier: Apache-2.0
"""Need follows the files and the number format; what is free is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidllm_ros.network import memory
from vidllm_ros.network.memory import (
    WORKING_ROOM,
    container_free_bytes,
    free_bytes,
    needed_bytes,
    stored_weights,
)


def test_need_follows_files_and_format(tmp_path: Path) -> None:
    assert needed_bytes(tmp_path, torch.float32) == 0
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(bytes(500))
    (tmp_path / "notes.txt").write_bytes(bytes(999))
    assert needed_bytes(tmp_path, torch.bfloat16) == 1000 * (1 + WORKING_ROOM)
    assert needed_bytes(tmp_path, torch.float32) == 2000 * (1 + WORKING_ROOM)


def test_free_memory_is_that_of_the_machine() -> None:
    assert 0 < free_bytes("cpu") < 2**50


@pytest.fixture
def control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def make(own: str, **groups: tuple[str, int, int]) -> None:
        """A line of /proc/self/cgroup; limit, usage and inactive files of folders "a__b"."""
        monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
        (tmp_path / "own").write_text(f"7:blkio:/\n{own}\n")
        for name, (limit, usage, inactive) in groups.items():
            folder = tmp_path / "cgroup" / name.replace("__", "/")
            folder.mkdir(parents=True, exist_ok=True)
            is_v1 = name.startswith("memory")
            names = ("limit_in_bytes", "usage_in_bytes") if is_v1 else ("max", "current")
            (folder / f"memory.{names[0]}").write_text(f"{limit}\n")
            (folder / f"memory.{names[1]}").write_text(f"{usage}\n")
            stat = f"total_inactive_file {inactive}" if is_v1 else f"inactive_file {inactive}"
            (folder / "memory.stat").write_text(f"inactive_anon 5\n{stat}\n")

    return make


def test_what_a_container_leaves_is_what_is_free(control_group) -> None:
    control_group("0::/robot/node", robot=("900", 700, 100), robot__node=("max", 10, 0))
    assert container_free_bytes() == 300  # the limit of the group above
    assert free_bytes("cpu") == 300
    control_group("0::/robot/node", robot=("900", 700, 100), robot__node=("200", 150, 40))
    assert free_bytes("cpu") == 90
    control_group("0::/robot/node", robot__node=("100", 150, 0))
    assert free_bytes("cpu") == 0


def test_older_control_groups_count_as_well(control_group) -> None:
    control_group("4:memory:/seen/from/outside", memory=("1000", 600, 50))
    assert free_bytes("cpu") == 450
    control_group("4:cpu,memory:/", memory=(str(2**63 - 4096), 600, 50))
    assert 450 < free_bytes("cpu") < 2**50  # no limit: what the machine has


def test_no_limit_leaves_what_the_machine_has(control_group) -> None:
    control_group("0::/", x=("max", 10, 0))
    assert container_free_bytes() is None
    assert 0 < free_bytes("cpu") < 2**50


def test_stored_weights_are_what_loading_takes(build_tiny, tmp_path: Path) -> None:
    model = build_tiny()
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    found = stored_weights(tmp_path, torch.float32)
    assert found.geometry + found.language == 4 * sum(p.numel() for p in model.parameters())
    assert found.language == 4 * sum(p.numel() for p in model.language.parameters())
    assert found.tables == 4 * model.language.model.get_input_embeddings().weight.numel()
    half = stored_weights(tmp_path, torch.bfloat16)
    camera = 4 * sum(p.numel() for p in model.camera_head.parameters())
    assert 2 * (half.geometry - camera) == found.geometry - camera
    assert half.language * 2 == found.language


def test_resident_memory_follows_what_is_held() -> None:
    """In a process of its own: a heap that has held more before need not grow."""
    words = (
        "import torch; from vidllm_ros.network.memory import resident_bytes; before = "
        "resident_bytes(); held = torch.ones(20_000_000); print(resident_bytes() - before)"
    )
    run = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 0.9 * 4 * 20_000_000


HEAPS = """
import ctypes, os, sys, threading
from vidllm_ros.network.memory import keep_one_arena

if sys.argv[1] == "one":
    keep_one_arena()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(6)

def take():
    barrier.wait()
    libc.malloc(1000)
    barrier.wait()

threads = [threading.Thread(target=take) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.parametrize(
    ("asked", "variable", "expected"),
    [("one", {}, True), ("many", {}, False), ("one", {"MALLOC_ARENA_MAX": "8"}, False)],
)
def test_threads_share_one_heap(
    tmp_path: Path, asked: str, variable: dict[str, str], expected: bool
) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    report = tmp_path / "heaps.xml"
    command = [sys.executable, "-c", HEAPS, asked, str(report)]
    subprocess.run(command, check=True, env={**kept, **variable})
    assert (report.read_text().count("<heap ") == 1) is expected
