# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: every import in vidllm_ros/ against the table of docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "vidllm_ros"

LEVEL_0 = {"structures", "prompts", "geometry"}
LEVEL_1 = {"network", "data"}
LEVEL_2 = {"training", "evaluation", "streaming"}
ALLOWED = {
    **{part: LEVEL_0 for part in LEVEL_0},
    **{part: LEVEL_0 for part in LEVEL_1},  # not each other
    **{part: LEVEL_0 | LEVEL_1 for part in LEVEL_2},  # not each other
    "cli": LEVEL_0 | LEVEL_1 | LEVEL_2,
    "ros": {"streaming", "structures", "geometry", "network"},
}
ROS_MODULES = {
    *("rclpy", "ament_index_python", "launch", "launch_ros", "cv_bridge", "sensor_msgs_py"),
    *("tf2_ros", "tf2_py", "tf2_geometry_msgs", "tf_transformations"),
    *("builtin_interfaces", "rcl_interfaces", "lifecycle_msgs", "std_srvs", "vidllm_ros.msg"),
    *("diagnostic_msgs", "geometry_msgs", "nav_msgs", "sensor_msgs", "std_msgs", "tf2_msgs"),
    *("visualization_msgs", "vidllm_ros.srv"),
}
ROS_TOOLS = {"cv_bridge", "sensor_msgs_py", "tf2_ros", "tf2_py", "tf_transformations"}


def imported_modules(source: str) -> Iterator[str]:
    """Yield every module a source imports, at any depth; also import_module("name")."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write the full name"
            yield str(node.module)
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            name = node.args[0]
            if called in ("import_module", "__import__", "_optional"):
                if isinstance(name, ast.Constant):
                    yield str(name.value)
                elif isinstance(name, ast.JoinedStr):
                    yield str(ast.literal_eval(ast.unparse(name.values[0]))).rstrip(".")


def broken_rules(part: str, source: str) -> list[str]:
    """Say which imports of a file in folder `part` the table does not allow."""
    broken = []
    for module in imported_modules(source):
        names = module.split(".")
        is_ros = names[0] in ROS_MODULES or ".".join(names[:2]) in ROS_MODULES
        if is_ros:
            if part != "ros":
                broken.append(f"{module}: ROS appears in ros/ and launch/ only")
        elif names[0] == PACKAGE and len(names) > 1 and names[1] not in {part, *ALLOWED[part]}:
            broken.append(f"{module}: {part} may import {', '.join(sorted(ALLOWED[part]))}")
    return broken


def part_of(path: Path) -> str:
    """Name the folder, or the module, that stands in the table."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(path for path in (ROOT / PACKAGE).rglob("*.py") if part_of(path) != "__init__")


def test_every_folder_stands_in_the_table() -> None:
    assert {part_of(path) for path in SOURCES} <= set(ALLOWED)
    assert len(SOURCES) > 50


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    assert broken_rules(part_of(path), path.read_text(encoding="utf-8")) == []


def test_ros_tools_are_imported_in_conversions_alone() -> None:
    users = {
        str(path.relative_to(ROOT / PACKAGE))
        for path in SOURCES
        for module in imported_modules(path.read_text(encoding="utf-8"))
        if module.split(".")[0] in ROS_TOOLS
    }
    assert users == {"ros/conversions.py"}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("geometry", "from vidllm_ros.network.layers import Mlp"),
        ("network", "import vidllm_ros.data.samples"),
        ("data", "def f():\n    from vidllm_ros.network import vidllm"),
        ("streaming", "from vidllm_ros import training"),
        ("cli", "from vidllm_ros.ros.node import main"),
        ("cli", "from vidllm_ros.msg import WindowStatus"),
        ("cli", "import importlib\nimportlib.import_module('rclpy.node')"),
        ("ros", "from vidllm_ros.training.trainer import Trainer"),
        ("streaming", "from sensor_msgs.msg import Image"),
    ],
)
def test_rule_notices(part: str, source: str) -> None:
    assert len(broken_rules(part, source)) == 1


def test_package_root_does_no_work() -> None:
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    kinds = [type(node).__name__ for node in tree.body]
    assert kinds == ["Expr", "ImportFrom", "Assign"]
    assert "extend_path" in ast.unparse(tree.body[2])
