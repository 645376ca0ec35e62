# SPDX-License-Identifier: Apache-2.0
"""docs/ros_interface.md says what the code does, and config/vidllm.yaml names real parameters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")

from vidllm_ros.ros.ask import ERROR_NAMES
from vidllm_ros.ros.interface_tables import replace_tables, tables
from vidllm_ros.ros.parameters import NodeParameters, specs

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ros_interface.md").read_text()


def test_the_page_has_the_tables_of_the_code() -> None:
    assert replace_tables(PAGE) == PAGE, "paste python -m vidllm_ros.ros.interface_tables"


@pytest.mark.parametrize("name", sorted(tables()))
def test_no_cell_is_broken(name: str) -> None:
    rows = tables()[name].splitlines()
    assert len({row.count(" | ") for row in rows}) == 1
    assert len(rows) > 3


def test_every_error_code_is_explained() -> None:
    explained = set(re.findall(r"^\| ([A-Z_]+) \|", PAGE, re.MULTILINE))
    assert explained == set(ERROR_NAMES.values())


def test_every_parameter_named_in_the_text_exists() -> None:
    named = set(re.findall(r"`([a-z_]+): [^`]*`", PAGE))
    assert named - {"success", "vidllm"} <= set(specs())


def test_the_shipped_yaml_is_accepted() -> None:
    text = (ROOT / "config" / "vidllm.yaml").read_text()
    given = yaml.safe_load(text)["/**"]["ros__parameters"]
    given.pop("use_sim_time", None)
    NodeParameters(**given)
    # The commented examples too: their names are parameters.
    examples = set(re.findall(r"^ *# ([a-z_]+):", text, re.MULTILINE))
    assert examples <= set(specs())
