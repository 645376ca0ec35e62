# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

from pretended_ros import FOLDER, published

if sys.argv[1] == "--save-map":
    Path(sys.argv[2]).write_bytes(b"ply\n")
    print(json.dumps({"success": True, "message": ""}))
    raise SystemExit
questions = sys.argv[sys.argv.index("--") + 1 :]
(FOLDER / "asked").write_text("\n".join(questions))
is_busy = (FOLDER / "node_is_busy").exists()
for question in questions:
    reply = {
        "question": question,
        "success": not is_busy,
        "error": "BUSY" if is_busy else "OK",
        "message": "the queue is full" if is_busy else "",
        "answer": "" if is_busy else "yes",
        "confidence": 0.5,
        "latency_s": 0.25,
        "round_trip_s": 0.5,
        "frame_stamps": [frame["published_ns"] for frame in published()[-8:]],
        "objects": [],
    }
    print(json.dumps(reply), flush=True)
raise SystemExit(1 if is_busy else 0)
