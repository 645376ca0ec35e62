# SPDX-License-Identifier: Apache-2.0
"""The launch file as a module, run over recorders instead of `launch`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

LAUNCH_FILE = Path(__file__).resolve().parents[2] / "launch" / "vidllm.launch.py"
RECORDED = {
    "launch": ("LaunchContext", "LaunchDescription"),
    "launch.actions": ("DeclareLaunchArgument", "OpaqueFunction"),
    "launch.conditions": ("IfCondition",),
    "launch_ros": (),
    "launch_ros.actions": ("LifecycleNode", "Node"),
}


class Configuration:
    """Stands in for LaunchConfiguration: its value is what the context, a dict, says."""

    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: dict[str, str]) -> str:
        """Return the argument's value."""
        return context[self.name]


def record(kind: str) -> Callable[..., SimpleNamespace]:
    """Return a constructor that keeps what it was called with."""
    return lambda *args, **kwargs: SimpleNamespace(kind=kind, args=args, **kwargs)


def find_package(name: str) -> str:
    """Stand in for a ROS installation without RViz."""
    raise LookupError(name)


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the launch file, run over recorders."""
    for name, members in RECORDED.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, record(member))
        monkeypatch.setitem(sys.modules, name, module)
    substitutions = ModuleType("launch.substitutions")
    substitutions.LaunchConfiguration = Configuration  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "launch.substitutions", substitutions)
    index = ModuleType("ament_index_python.packages")
    index.get_package_share_directory = lambda _: str(tmp_path)  # type: ignore[attr-defined]
    index.get_package_prefix = find_package  # type: ignore[attr-defined]
    index.PackageNotFoundError = LookupError  # type: ignore[attr-defined]
    (tmp_path / "config").mkdir()
    for name in ("config/vidllm.yaml", "a.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", index)
    spec = importlib.util.spec_from_file_location("vidllm_launch", LAUNCH_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(launch_file: ModuleType) -> dict[str, Any]:
    """Return the declared arguments by name."""
    actions = launch_file.generate_launch_description().args[0]
    return {action.args[0]: action for action in actions if action.kind == "DeclareLaunchArgument"}


@pytest.fixture
def start(
    launch_file: ModuleType, arguments: dict[str, Any]
) -> Callable[..., list[SimpleNamespace]]:
    """Return a function that launches with the given arguments and returns the processes."""

    def run(**given: str) -> list[SimpleNamespace]:
        assert set(given) <= set(arguments)
        values = {name: entry.default_value for name, entry in arguments.items()}
        return list(launch_file.start({**values, **given}))

    return run
