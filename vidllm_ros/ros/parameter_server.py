# SPDX-License-Identifier: Apache-2.0
"""Declares NodeParameters on a node and keeps the checked current values.

A bad value is rejected by the on-set callback with the reason and changes nothing; a good one is
in `current` before the reply goes out. A bad value given at start does not kill the node: it is
kept as a reason for which configure fails. A name given at start that nobody declared, which ROS
passes over in silence, is said with the name it may stand for. Next: node.py, which reads
`current`.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Sequence

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vidllm_ros.ros.parameters import (
    Change,
    NodeParameters,
    Spec,
    Value,
    defaults,
    problems_of,
    specs,
)

ROS_OWN = ("use_sim_time", "start_type_description_service")
ROS_OWN_PREFIX = "qos_overrides."
"""Names that ROS declares where it needs them, some as late as at activate."""


def unknown_parameter(name: str, known: Iterable[str], node_name: str) -> str:
    """Say that a parameter is none of this node's, and which known name is nearest to it."""
    names = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    fix = f"did you mean {names[near[0]]}?" if near else f"ros2 param list {node_name} names them"
    return f"parameter {name!r}: not known to this node, ignored; {fix}"


def descriptor_of(spec: Spec, default: Value) -> ParameterDescriptor:
    """Describe a parameter to `ros2 param describe` and rqt."""
    descriptor = ParameterDescriptor(
        description=spec.description,
        additional_constraints=_constraints(spec),
        read_only=spec.change is Change.FIXED,
    )
    if spec.low is not None and spec.high is not None:
        if isinstance(default, int):
            limits = IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)
            descriptor.integer_range = [limits]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=spec.low, to_value=spec.high, step=0.0)
            ]
    return descriptor


def _constraints(spec: Spec) -> str:
    choices = f"one of {' '.join(spec.choices)}; " if spec.choices else ""
    return f"{choices}may be changed {spec.change.value}"


class ParameterServer:
    """The node's parameters: what ROS shows, checked.

    Attributes:
        current: the last values that were all valid.
    """

    def __init__(self, node: Node, is_configurable: Callable[[], bool]) -> None:
        """Declare all parameters on the node.

        Args:
            node: whose parameters they are.
            is_configurable: whether parameters that act at configure may change now.
        """
        self._node = node
        self._is_configurable = is_configurable
        self._lock = threading.Lock()
        self._refused: dict[str, str] = {}  # values given at start that rclpy would not declare
        self._values = {name: self._declare(name, default) for name, default in defaults().items()}
        self.current = NodeParameters()
        self._adopt()
        node.add_on_set_parameters_callback(self._on_set)
        node.add_post_set_parameters_callback(self._after_set)

    def problems(self) -> list[str]:
        """Say in a sentence each what is wrong with the values given at start."""
        with self._lock:
            return list((problems_of(self._values) | self._refused).values())

    def unknown(self) -> list[str]:
        """Say in a line each which names given at start nobody declared."""
        node = self._node
        known = node.list_parameters([], 0).names
        given = sorted(set(node._parameter_overrides).difference(known))
        full_name = node.get_fully_qualified_name()
        return [
            unknown_parameter(name, known, full_name)
            for name in given
            if name not in ROS_OWN and not name.startswith(ROS_OWN_PREFIX)
        ]

    def _declare(self, name: str, default: Value) -> Value:
        descriptor = descriptor_of(specs()[name], default)
        try:
            value: Value = self._node.declare_parameter(name, default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException):
            given = self._node._parameter_overrides[name].value
            self._refused[name] = problems_of(defaults() | {name: given})[name]
            self._node.declare_parameter(name, default, descriptor, ignore_override=True)
            return default
        return value

    def _adopt(self) -> None:
        """Make the values current if they are all valid."""
        if not problems_of(self._values):
            self.current = NodeParameters(**self._values)  # type: ignore[arg-type]

    def _ours(self, parameters: Sequence[Parameter]) -> dict[str, Value]:
        return {p.name: p.value for p in parameters if p.name in self._values}

    def _on_set(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Say whether the values can be taken; changes nothing."""
        ours = self._ours(parameters)
        with self._lock:
            before = problems_of(self._values)
            after = problems_of(self._values | ours)
            reasons = [why for name, why in after.items() if name in ours or name not in before]
            reasons += [
                f"{name}: acts at configure, and the node is configured; deactivate and clean up "
                "first"
                for name, value in ours.items()
                if specs()[name].change is Change.CONFIGURE
                and value != self._values[name]
                and not self._is_configurable()
            ]
        return SetParametersResult(successful=not reasons, reason="; ".join(reasons))

    def _after_set(self, parameters: Sequence[Parameter]) -> None:
        """Take over values that were accepted."""
        ours = self._ours(parameters)
        with self._lock:
            self._values |= ours
            for name in ours:
                self._refused.pop(name, None)
            self._adopt()
