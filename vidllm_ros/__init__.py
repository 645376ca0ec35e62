# SPDX-License-Identifier: Apache-2.0
"""Metric 3D and language from one camera: Vid-LLM (arXiv 2509.24385) as a ROS 2 node."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
