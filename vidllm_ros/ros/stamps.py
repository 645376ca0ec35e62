# SPDX-License-Identifier: Apache-2.0
"""ROS times as integer nanoseconds, both ways; a float of seconds would lose some of them.

A file of its own, so that the small clients start without what conversions.py imports.
"""

from __future__ import annotations

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

NANOSECONDS = 1_000_000_000


def stamp_to_ns(stamp: Time) -> int:
    """Return the time in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Time:
    """Return the message of a time in nanoseconds."""
    return Time(sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS)


def header(stamp_ns: int, frame_id: str) -> Header:
    """Make a header."""
    return Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)
