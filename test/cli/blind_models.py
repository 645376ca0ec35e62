# SPDX-License-Identifier: Apache-2.0
"""Models without a network that stand for anybody's: named on the command line by the tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from vidllm_ros.evaluation.predictor import ScoredAabb

CHAIR = [0.0, 0, 0, 1, 1, 1]  # object 0 of the hand-made scenes


class Blind:
    """Two metres everywhere, a camera that stands still, one point."""

    name = "blind"

    def see(self, view):
        return view

    def depth(self, seen):
        return np.full((len(seen.frames), 30, 40), 2.0, np.float32)

    def poses(self, seen):
        return np.tile(np.eye(4), (len(seen.frames), 1, 1))

    def cloud(self, seen):
        return np.array([[0.0, 0.0, 2.0]])

    def answer(self, seen, question, situation=""):
        return "brown"

    def ground_one(self, seen, phrase):
        return None

    def ground(self, seen, phrase):
        return []

    def choose(self, seen, phrase):
        return seen.proposals[0].object_id

    def caption(self, seen, aabb):
        return "a chair"

    def detect(self, seen):
        return [ScoredAabb(np.array(CHAIR))]


class Mortal(Blind):
    """Writes down who was asked what; process 1 is killed at a question when told to.

    Process 0 is ended with it, wherever it is: so process 1 waits until all of process 0's answers
    are kept, which takes process 0 some time.
    """

    name = "mortal"

    def answer(self, seen, question, situation=""):
        rank, folder = os.environ.get("RANK", "0"), Path(os.environ["MORTAL_LOG"])
        if rank == "1" and os.environ.get("MORTAL_DIES") and list(folder.glob("rank1-*")):
            wait_for_lines(Path(os.environ["MORTAL_KEPT"]), int(os.environ["MORTAL_DIES"]))
            os.kill(os.getpid(), signal.SIGKILL)
        count = len(list(folder.glob(f"rank{rank}-*")))
        (folder / f"rank{rank}-{count}").write_text(f"{seen.scene_id}: {question}\n")
        if rank == "0" and os.environ.get("MORTAL_DIES"):
            time.sleep(0.3)  # asked, and not kept yet
        return f"{seen.scene_id} {question}"


def wait_for_lines(file, count, limit_s=200.0):
    """Wait until a file has so many whole lines."""
    end = time.monotonic() + limit_s
    while not file.exists() or file.read_text().count("\n") < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{file}: expected {count} lines within {limit_s} s")
        time.sleep(0.05)
