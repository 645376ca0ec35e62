# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of its own for each test process, on this machine only.

The variables must stand before rclpy is imported anywhere in the process.
"""

from __future__ import annotations

import os

os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
