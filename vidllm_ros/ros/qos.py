# SPDX-License-Identifier: Apache-2.0
"""The quality-of-service profiles of the node, by name; which topic has which is in topics.py.

Input is best effort, so that it matches reliable and best-effort cameras alike; output is
reliable, so that both kinds can listen. Each can be overridden by ROS's own `qos_overrides.*`
parameters. Next: topics.py.
"""

from __future__ import annotations

from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

PROFILES: dict[str, tuple[ReliabilityPolicy, DurabilityPolicy, int]] = {
    "sensor": (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE, 1),
    "reliable": (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 5),
    "latched": (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 1),
    # Fifty questions at once must all be read, and all replies be sent; ROS's own depth is 10.
    "service": (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 256),
    "tf": (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 100),
    "tf_static": (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 100),
}


def profile(name: str) -> QoSProfile:
    """Build a fresh profile (rclpy changes the one it is given when it is overridden)."""
    reliability, durability, depth = PROFILES[name]
    return QoSProfile(
        reliability=reliability,
        durability=durability,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
    )


def overridable() -> QoSOverridingOptions:
    """Let history, depth and reliability be set by parameters, as ROS names them."""
    return QoSOverridingOptions.with_default_policies()


def overridable_input() -> QoSOverridingOptions:
    """As `overridable`, and a deadline and a lease, whose misses are reported as events."""
    defaults = QoSOverridingOptions.with_default_policies().policy_kinds
    events = (QoSPolicyKind.DEADLINE, QoSPolicyKind.LIVELINESS_LEASE_DURATION)
    return QoSOverridingOptions((*defaults, *events))
