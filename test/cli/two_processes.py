# SPDX-License-Identifier: Apache-2.0
"""Run a module as two processes on the CPU, as `torchrun` does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run_twice(
    module: str, arguments: Sequence[str], **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` in two processes and return what both said."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(
        [sys.executable, *LAUNCH, "-m", module, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
