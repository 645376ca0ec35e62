# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 edge: parameters, messages and the lifecycle node; the only folder that imports rclpy.

Read node.py first: it wires inputs.py (frames in), questions.py (`/ask`), publishers.py (results
out) and diagnostics.py around one streaming.Worker. No tensor arithmetic happens here.
"""
