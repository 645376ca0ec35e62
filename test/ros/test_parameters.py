# SPDX-License-Identifier: Apache-2.0
"""Each parameter is described, its default is valid, and bad values are refused in words."""

from __future__ import annotations

import dataclasses

import pytest

from vidllm_ros.ros.parameters import Change, NodeParameters, defaults, problems_of, specs
from vidllm_ros.streaming.window import WindowSettings


def test_every_parameter_is_described_and_bounded() -> None:
    for name, spec in specs().items():
        assert spec.description.endswith("."), name
        value = defaults()[name]
        if isinstance(value, bool | str):
            continue
        assert spec.low is not None, name
        assert spec.low <= value <= spec.high, name


def test_defaults_are_valid_and_those_of_the_window() -> None:
    parameters = NodeParameters()
    assert problems_of(dataclasses.asdict(parameters)) == {}
    assert parameters.window_size == WindowSettings().size
    assert parameters.window_stride == WindowSettings().stride
    assert specs()["autostart"].change is Change.FIXED


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"voxel_m": 0.0}, "voxel_m: expected 0.001 to 1, got 0.0"),
        ({"voxel_m": float("nan")}, "voxel_m: expected 0.001 to 1, got nan"),
        ({"voxel_m": 1}, "expected a number with a decimal point, got 1 .an integer."),
        ({"window_size": 2.0}, "expected an integer, got 2.0"),
        ({"publish_tf": 1}, "expected true or false, got 1"),
        ({"backend": "magic"}, "expected one of vidllm .*standin, got 'magic'"),
        ({"device": "tpu"}, "device: expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, "device: expected"),
        ({"model": " "}, "model: expected a folder or a name"),
        ({"world_frame": "/map"}, "without leading slash"),
        ({"window_stride": 33}, r"window_stride: expected at most window_size \(32\), got 33"),
        ({"window_size": 4}, "window_stride: expected at most window_size"),
        ({"min_gap_s": 9.0}, r"min_gap_s: expected less than max_gap_s \(5.0\), got 9.0"),
    ],
)
def test_bad_values_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NodeParameters(**values)


@pytest.mark.parametrize(
    "values", [{"device": "cuda:1"}, {"world_frame": "robot1/map"}, {"window_stride": 32}]
)
def test_good_values_are_taken(values: dict[str, object]) -> None:
    assert dataclasses.asdict(NodeParameters(**values)).items() >= values.items()
