# SPDX-License-Identifier: Apache-2.0
"""env.sh and the refusals of setup.sh, run in a copy of the checkout's set-up files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREPARED = ("scripts", "msg", "srv", "ros_shims", "config", "launch")
TOOLS = ("sh", "cat", "sha256sum", "cut", "sed", "flock", "mkdir", "find", "sort", "date", "tr")
TOOLS += ("grep", "dirname", "env", "tail", "sleep", "head", "python3")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with what setup.sh reads."""
    root = tmp_path / "a checkout"
    for name in PREPARED:
        shutil.copytree(ROOT / name, root / name)
    (root / "models").mkdir()
    for path in [*ROOT.glob("*.txt"), ROOT / "setup.py", ROOT / "package.xml"]:
        shutil.copy(path, root)
    return root


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """Return a PATH with shell tools, an ordinary user, and neither compiler nor cmake."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    user = folder / "id"
    user.write_text("#!/bin/sh\necho 1000\n")
    user.chmod(0o755)
    return folder


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(checkout / "scripts" / "setup.sh")]
    base = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "ROS_DISTRO")}
    return subprocess.run(
        command, env={**base, **environment}, capture_output=True, text=True, timeout=60
    )


def test_missing_system_packages_are_one_line_to_copy(checkout: Path, bare_path: Path) -> None:
    result = set_up(checkout, PATH=str(bare_path))
    assert result.returncode != 0
    line = result.stderr.strip().splitlines()[-1]
    assert "apt-get update && apt-get install -y" in line
    for package in ("build-essential", "cmake", "make", "libxml2-utils"):
        assert f" {package} " in line.replace("'", " "), package
    assert not (checkout / ".venv").exists()


def test_interpreter_that_cannot_run_is_named(checkout: Path) -> None:
    result = set_up(checkout, PYTHON="/no/such/python3")
    assert result.returncode != 0
    assert "/no/such/python3" in result.stderr.splitlines()[-1]
    assert not (checkout / ".venv").exists()


@pytest.fixture
def source_env(tmp_path: Path) -> Callable[[str, int], dict[str, str]]:
    """Return a function that sources env.sh `times` times in a prepared folder."""
    root = tmp_path / "root"
    for folder in (
        "scripts",
        ".venv/bin",
        ".venv/share/rclpy",
        ".venv/lib/python3.12/site-packages/ros_rclpy.libs",
        "install/vidllm_ros/share",
        "install/vidllm_ros/lib/python3.12/site-packages",
    ):
        (root / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "env.sh", root / "scripts")

    def run(shell: str, times: int, **more: str) -> dict[str, str]:
        code = ". scripts/env.sh; " * times + "env -0"
        base = {"PATH": os.environ["PATH"], "PYTHONPATH": "/before", **more}
        output = subprocess.run(
            [shell, "-eu", "-c", code], cwd=root, env=base, capture_output=True, check=True
        ).stdout.decode()
        values = dict(entry.split("=", 1) for entry in output.split("\0") if entry)
        return {key: value.replace(str(root), "ROOT") for key, value in values.items()}

    return run


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("times", [1, 2])
def test_env_puts_everything_on_its_path_once(
    source_env: Callable[..., dict[str, str]], shell: str, times: int
) -> None:
    values = source_env(shell, times)
    assert values["PATH"].startswith("ROOT/.venv/bin:")
    assert values["PATH"].count("ROOT") == 1
    assert values["AMENT_PREFIX_PATH"] == "ROOT/install/vidllm_ros:ROOT/.venv"
    assert values["PYTHONPATH"] == (
        "ROOT:ROOT/install/vidllm_ros/lib/python3.12/site-packages:/before"
    )
    assert set(values["LD_LIBRARY_PATH"].split(":")) == {
        "ROOT/install/vidllm_ros/lib",
        "ROOT/.venv/lib",
        "ROOT/.venv/lib/python3.12/site-packages/ros_rclpy.libs",
    }
    assert values["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] == "1"


def test_env_leaves_a_sourced_ros_alone(source_env: Callable[..., dict[str, str]]) -> None:
    values = source_env("sh", 1, ROS_DISTRO="jazzy", AMENT_PREFIX_PATH="/opt/ros/jazzy")
    assert values["AMENT_PREFIX_PATH"] == "ROOT/install/vidllm_ros:/opt/ros/jazzy"
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in values
    assert "ROOT/.venv/lib" not in values["LD_LIBRARY_PATH"].split(":")


def test_sourced_from_elsewhere_it_says_where_to_go(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "env.sh"
    done = subprocess.run(
        ["sh", "-c", f". '{script}'; echo status $? root [$VIDLLM_ROOT]"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cd into the checkout first" in done.stderr
    assert done.stdout.strip() == "status 1 root []"
