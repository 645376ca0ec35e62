# SPDX-License-Identifier: Apache-2.0
"""The test split stays what it was: 200 rooms by checksum; same bytes in any process."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms import SPLITS, frozen, generate_room, make_scene
from vidllm_ros.data.synthrooms.frozen import (
    COUNT,
    FIRST_SEED,
    FRAMES,
    changed_geometry,
    changed_words,
    frozen_prints,
    geometry_checksum,
    main,
)
from vidllm_ros.data.synthrooms.raycast import choose_backend
from vidllm_ros.data.synthrooms.walk import make_walk

WORDS_CHECKED = 10

# Rooms of the split: mean red, green, blue of the pictures, mean depth in m, share of wall, floor.
LOOKS = {
    2_000_000: [128.788, 117.912, 112.348, 2.919, 0.441, 0.261],
    2_000_003: [107.833, 107.951, 98.703, 1.852, 0.734, 0.055],
    2_000_011: [107.003, 115.366, 116.603, 3.802, 0.384, 0.421],
}


def test_the_split_has_200_rooms_of_the_test_seeds() -> None:
    prints = frozen_prints()
    assert len(prints) == COUNT == 200
    assert FIRST_SEED == SPLITS["test"] == 2_000_000
    assert len({known.geometry for known in prints}) == COUNT
    assert len({known.words for known in prints}) == COUNT


def test_geometry_of_all_rooms_is_what_it_was() -> None:
    assert changed_geometry() == []


def test_words_of_some_rooms_are_what_they_were() -> None:
    """The first ten here; `python -m vidllm_ros.data.synthrooms.frozen` looks at all 200."""
    changed = changed_words(range(FIRST_SEED, FIRST_SEED + WORDS_CHECKED))
    assert len(changed) <= (1 if choose_backend() == "embreex" else 2), changed


def test_the_checksum_notices_a_tenth_of_a_millimetre_and_another_seed() -> None:
    known = frozen_prints()[0]
    room = generate_room(FIRST_SEED, known.attempt)
    walk = make_walk(room, FRAMES, FIRST_SEED, known.attempt)
    assert geometry_checksum(room, walk) == known.geometry
    room.boxes.centers[3, 1] += 2e-4
    assert geometry_checksum(room, walk) != known.geometry
    room.boxes.centers[3, 1] -= 2e-4
    walk.T_world_camera[0, 0, 3] += 1e-7  # what another libm may do is forgiven
    assert geometry_checksum(room, walk) == known.geometry
    other = generate_room(FIRST_SEED + 1)
    assert geometry_checksum(other, walk) != known.geometry


def test_the_command_says_what_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--count", "1"]) == 0
    assert "geometry of 0 changed" in capsys.readouterr().out
    other = frozen.ROOMS.split()
    other[0] = other[0][0] + "00000000" + other[0][9:]
    monkeypatch.setattr(frozen, "ROOMS", " ".join(other))
    assert main(["--count", "1"]) == 1
    assert "2000000" in capsys.readouterr().out


@pytest.mark.parametrize("seed", LOOKS)
def test_pictures_look_as_they_did(seed: int) -> None:
    """Means, not bytes: square roots and exponentials differ in the last bit between machines."""
    sample = make_scene(seed, FRAMES, 42, 56)
    np.testing.assert_allclose(look_of(sample), LOOKS[seed], atol=0.003, rtol=0.001)


def look_of(sample: SceneSample) -> list[float]:
    colors = sample.frames.images.reshape(-1, 3).mean(0)
    shares = [float((sample.label_ids == label).mean()) for label in (0, 1)]
    return [*(float(c) for c in colors), float(sample.depth.mean()), *shares]


PROGRAM = """
import hashlib, torch
torch.set_num_threads(1)
from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.data.synthrooms.storage import words_of
sample = make_scene(2_000_005, 4, 28, 42)
digest = hashlib.sha256(repr(words_of(sample)).encode())
for array in (sample.frames.images, sample.depth, sample.instance_ids, sample.T_world_camera):
    digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_every_process_and_hash_seed_gives_the_same_bytes() -> None:
    found = set()
    for hash_seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        found.add(done.stdout.strip())
    assert len(found) == 1, found
