# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "rewrite_wheel_cmake.py"
EXPORTED = (
    'set_target_properties(a::a PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "'
    "${_IMPORT_PREFIX}/include/a;"
    "/opt/python/cp312-cp312/include/python3.12;"
    '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include")\n'
)


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rewrite_wheel_cmake", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_folders_are_replaced_and_nothing_else(script: ModuleType) -> None:
    rewritten = script.rewrite_text(EXPORTED, "/usr/include/python3.12", "/venv/site-packages")
    assert rewritten == EXPORTED.replace(
        "/opt/python/cp312-cp312/include/python3.12", "/usr/include/python3.12"
    ).replace("/opt/python/cp312-cp312/lib/python3.12/site-packages", "/venv/site-packages")
    assert "/opt/python" not in rewritten


def test_backslashes_and_group_references_are_taken_as_they_are(script: ModuleType) -> None:
    assert (
        script.rewrite_text("/opt/python/cp310-cp310/include/python3.10", r"\1\g", "") == r"\1\g"
    )


def test_second_run_changes_nothing(script: ModuleType, tmp_path: Path) -> None:
    first = tmp_path / "a" / "cmake" / "aExport.cmake"
    other = tmp_path / "b" / "cmake" / "bConfig.cmake"
    for path, text in ((first, EXPORTED), (other, "# nothing of ours\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    assert script.rewrite_tree(tmp_path, "/inc", "/site") == [first]
    assert script.rewrite_tree(tmp_path, "/inc", "/site") == []
    assert "/site/numpy/_core/include" in first.read_text(encoding="utf-8")
    assert other.read_text(encoding="utf-8") == "# nothing of ours\n"
