# SPDX-License-Identifier: Apache-2.0
"""From single frames to a growing metric map that answers questions; threads, but no ROS.

Frames enter `window.py`, a backend reconstructs, `registration.py` places the window in the map,
`tracking.py` and `fused_cloud.py` remember, `session.py` holds it together and `worker.py` is the
one thread that may call the network. Start with session.py.
"""
