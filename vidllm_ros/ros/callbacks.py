# SPDX-License-Identifier: Apache-2.0
"""Keeps an exception in one callback from ending the executor, and with it the node.

rclpy raises what a callback raises out of spin(), and turns what a transition callback raises into
a silent ERROR. Both are caught here and said in the log. Next: node.py.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

P = ParamSpec("P")
R = TypeVar("R")
Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def guarded(node: LifecycleNode, name: str, callback: Callable[P, R]) -> Callable[P, R | None]:
    """Wrap a callback so that what it raises is logged with its place, and goes no further."""

    @functools.wraps(callback)
    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return callback(*args, **kwargs)
        except Exception as error:
            if node.context.ok():  # while shutting down, handles vanish under running callbacks
                node.get_logger().error(f"{name}: {error!r}\n{traceback.format_exc()}")
            return None

    return call


def logged_transition(transition: Transition) -> Transition:
    """Decorate an on_* method: what it raises is logged and becomes ERROR."""

    @functools.wraps(transition)
    def call(self: Any, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            words = f"{transition.__name__}: {error!r}"
            self.get_logger().error(f"{words}\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    return call
