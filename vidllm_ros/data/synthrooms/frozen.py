# SPDX-License-Identifier: Apache-2.0
"""The test split, frozen: 200 rooms whose geometry and words are known by checksum.

    python -m vidllm_ros.data.synthrooms.frozen            # all 200, geometry and words
    python -m vidllm_ros.data.synthrooms.frozen --count 8  # the first eight

Numbers measured on the split compare only as long as it stays. Geometry (boxes, objects, poses,
to 0.1 mm) is the same on every machine; words rest on which pixels an object fills, and an object
at a threshold can fall to the other side with another build of the ray caster. `frozen_table.py`
holds the checksums; `--write` makes it anew, which is a new split and has to be said so.
Next: published.py, which writes splits in the formats of the real data sets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms.frozen_table import ROOMS
from vidllm_ros.data.synthrooms.render import trace
from vidllm_ros.data.synthrooms.rooms import Room, generate_room
from vidllm_ros.data.synthrooms.scene import search_scene
from vidllm_ros.data.synthrooms.storage import words_of
from vidllm_ros.data.synthrooms.vocabulary import SPLITS
from vidllm_ros.data.synthrooms.walk import Walk, make_walk

FIRST_SEED, COUNT = SPLITS["test"], 200
FRAMES, HEIGHT, WIDTH = 32, 84, 112
DIGITS = 8
MOST_OTHER_WORDS = 0.05  # share of rooms whose words another caster may change
TABLE = Path(__file__).with_name("frozen_table.py")


@dataclass(frozen=True)
class Print:
    """What is known of a room: the attempt that was taken, checksums of geometry and words."""

    attempt: int
    geometry: str
    words: str

    def __str__(self) -> str:
        return f"{self.attempt:x}{self.geometry}{self.words}"


def frozen_prints() -> tuple[Print, ...]:
    """Return what is known of the rooms from `FIRST_SEED` on."""
    rows = ROOMS.split()
    return tuple(Print(int(row[0], 16), row[1 : 1 + DIGITS], row[1 + DIGITS :]) for row in rows)


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]


def geometry_checksum(room: Room, walk: Walk) -> str:
    """Return the checksum of boxes, objects, lights and poses, to 0.1 mm, and of all names."""
    boxes = room.boxes
    numbers = [
        np.array(room.size),
        boxes.centers,
        boxes.halves,
        boxes.rotations,
        boxes.rgb,
        boxes.pattern,
        np.array([[*light.position, *light.rgb, light.reach_m] for light in room.lights]),
        walk.T_world_camera,
        np.array([walk.fov_x_rad]),
    ]
    tenths = [np.floor(np.asarray(a, np.float64) * 1e4 + 0.4871).astype(np.int64) for a in numbers]
    names = [(item.object_id, item.label, item.color) for item in room.objects]
    data = b"".join(a.tobytes() for a in tenths)
    data += boxes.textures.astype(np.int64).tobytes() + boxes.object_ids.astype(np.int64).tobytes()
    return checksum(data + json.dumps([room.kind, walk.kind, names]).encode())


def words_checksum(sample: SceneSample) -> str:
    """Return the checksum of all that is said about a sample and of the ids it is said about."""
    words = words_of(sample)
    said = {name: words[name] for name in ("questions", "references", "captions")}
    situations = [
        {name: item[name] for name in ("situation", "question", "answers", "object_ids")}
        for item in words["situations"]
    ]
    ids = [item.object_id for item in sample.objects]
    return checksum(json.dumps([said, situations, ids], sort_keys=True).encode())


def print_of(seed: int) -> Print:
    """Look at the room of a seed, without painting pictures."""
    attempt, room, walk, sample = search_scene(
        seed, FRAMES, lambda room, walk: trace(room, walk, HEIGHT, WIDTH)
    )
    return Print(attempt, geometry_checksum(room, walk), words_checksum(sample))


def changed_geometry(count: int = COUNT) -> list[int]:
    """Return seeds of the split whose room or walk is not what it was; needs no ray caster."""
    changed = []
    for index, known in enumerate(frozen_prints()[:count]):
        room = generate_room(FIRST_SEED + index, known.attempt)
        walk = make_walk(room, FRAMES, room.seed, known.attempt)
        if geometry_checksum(room, walk) != known.geometry:
            changed.append(room.seed)
    return changed


def changed_words(seeds: Sequence[int]) -> list[int]:
    """Return those of these seeds whose attempt or words are not what they were."""
    known = frozen_prints()
    changed = []
    for seed in track(seeds, "rooms", transient=True):
        found, was = print_of(seed), known[seed - FIRST_SEED]
        if (found.attempt, found.words) != (was.attempt, was.words):
            changed.append(seed)
    return changed


def write_table(count: int) -> None:
    """Write the checksums of the split as it is now."""
    prints = [str(print_of(FIRST_SEED + index)) for index in track(range(count), "rooms")]
    rows = [" ".join(prints[start : start + 5]) for start in range(0, count, 5)]
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        '"""Checksums of the frozen test split, one word a room; written by `frozen.py --write`.',
        "",
        "Attempt (one hex digit), geometry (8), words (8). Next: frozen.py, which compares them.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        'ROOMS = """',
        *rows,
        '"""',
    ]
    TABLE.write_text("\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT, help="rooms to look at")
    parser.add_argument("--write", action="store_true", help="freeze the split as it is now")
    given = parser.parse_args(argv)
    if given.write:
        write_table(given.count)
        print(f"{given.count} rooms frozen in {TABLE}")
        return 0
    geometry = changed_geometry(given.count)
    words = changed_words(range(FIRST_SEED, FIRST_SEED + given.count))
    print(f"{given.count} rooms: geometry of {len(geometry)} changed {geometry[:9]}")
    print(f"{given.count} rooms: words of {len(words)} changed {words[:9]}")
    return int(bool(geometry) or len(words) > MOST_OTHER_WORDS * given.count)


if __name__ == "__main__":
    raise SystemExit(main())
