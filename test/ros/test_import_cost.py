# SPDX-License-Identifier: Apache-2.0
"""Starting the node brings in torch, and transformers only once a network is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rclpy")


def test_starting_the_node_brings_no_transformers() -> None:
    code = (
        "import sys, vidllm_ros.ros.node\n"
        "from vidllm_ros.streaming.loading import load_backend\n"
        "load_backend('standin', '')\n"
        "assert 'vidllm_ros.ros.diagnostics' in sys.modules\n"
        "raise SystemExit('transformers came in' if 'transformers' in sys.modules else 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
