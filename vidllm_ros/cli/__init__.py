# SPDX-License-Identifier: Apache-2.0
"""The command `vidllm`; begin at main.py. ROS runs in processes of its own, never imported."""
