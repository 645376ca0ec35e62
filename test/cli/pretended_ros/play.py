# SPDX-License-Identifier: Apache-2.0
import json
import os
import sys
import time

import numpy as np

from pretended_ros import FOLDER, FRAMES

SHIFT_NS = 10**15


def frames():
    if sys.argv[1] != "-":
        with np.load(sys.argv[1]) as stored:
            for image, stamp in zip(stored["images"], stored["stamps_ns"], strict=True):
                yield int(stamp), image.shape
        return
    for line in sys.stdin.buffer:
        header = json.loads(line)
        shape = (header["height"], header["width"], 3)
        content = sys.stdin.buffer.read(int(np.prod(shape)))
        assert len(content) == np.prod(shape)
        yield header["stamp_ns"], shape


if os.environ.get("NOBODY_LISTENS"):
    print("play: nobody subscribed", file=sys.stderr)
    sys.exit(3)
if os.environ.get("PLAYER_REFUSES"):
    print(f"play: {os.environ['PLAYER_REFUSES']}", file=sys.stderr)
    sys.exit(1)
while not (FOLDER / "node_arguments").exists():
    time.sleep(0.02)
for index, (stamp, shape) in enumerate(frames()):
    line = {"index": index, "original_ns": stamp, "published_ns": stamp + SHIFT_NS}
    with FRAMES.open("a") as log:
        log.write(json.dumps({**line, "shape": shape}) + "\n")
    print(json.dumps(line), flush=True)
