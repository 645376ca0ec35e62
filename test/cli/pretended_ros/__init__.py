# SPDX-License-Identifier: Apache-2.0
"""Stands where `vidllm_ros.ros` stands: the same command lines, talking through a folder.

With it the demo is tested where there is no ROS; PRETENDED_ROS names the folder.
"""

import json
import os
import time
from pathlib import Path

FOLDER = Path(os.environ["PRETENDED_ROS"])
FRAMES = FOLDER / "frames.jsonl"


def published():
    return (
        [json.loads(line) for line in FRAMES.read_text().splitlines()] if FRAMES.exists() else []
    )


def until_interrupted(step):
    try:
        while True:
            step()
            time.sleep(0.02)
    except KeyboardInterrupt:
        return
