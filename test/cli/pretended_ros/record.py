# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import numpy as np

from pretended_ros import FOLDER, published, until_interrupted

STRIDE = 8
windows = []


def size():
    words = (FOLDER / "node_arguments").read_text().split()
    return next(int(word.split(":=")[1]) for word in words if word.startswith("window_size"))


def look():
    frames = published()
    end = len(windows) * STRIDE + size() if (FOLDER / "node_arguments").exists() else 10**9
    if len(frames) < end:
        return
    stamps = [frame["published_ns"] for frame in frames[end - size() : end]]
    number = len(windows)
    box = {"id": "a", "label": "bed", "score": 0.9, "center": [2, 0, 0], "size": [1, 1, 1]}
    window = {
        "index": number,
        "stamp_ns": stamps[-1],
        "frame_stamps": stamps,
        "scale": 1.0,
        "scale_spread": 0.1,
        "timings_s": {"reconstruct": 0.5},
        "dropped_frames": 1,
        "skipped_windows": 0,
        "window_poses": [
            [0.1 * index, 0, 0, -0.5, 0.5, -0.5, 0.5] for index in range(end - size(), end)
        ],
        "objects": [{**box, "quat_xyzw": [0, 0, 0, 1], "last_seen_ns": stamps[-1]}],
        "points_key": f"points_{number}",
        "depth_key": f"depth_{number}",
    }
    windows.append(window)
    print(json.dumps({key: window[key] for key in ("stamp_ns", "frame_stamps", "timings_s")}))
    sys.stdout.flush()


until_interrupted(look)
folder = Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir()
arrays = {}
for k in range(len(windows)):
    arrays[f"points_{k}"] = np.random.default_rng(k).uniform(-1, 1, (500, 3)).astype(np.float32)
    arrays[f"rgb_{k}"] = np.full((500, 3), 90, np.uint8)
    arrays[f"confidence_{k}"] = np.ones(500, np.float32)
    arrays[f"depth_{k}"] = np.full((84, 112), 2.0, np.float32)
np.savez(folder / "record.npz", **arrays)
(folder / "record.json").write_text(json.dumps({"world_frame": "w", "windows": windows}))
