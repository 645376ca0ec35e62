# SPDX-License-Identifier: Apache-2.0
"""Where a recipe's rooms come from: a folder of rendered ones, or rendered as they are needed.

Rendering a room costs a core about as much as training on it a few times costs a GPU, so rooms may
be kept in a folder and drawn again: other frames, other words. The pool that batches draw from
grows with their number, so that no batch waits for many new rooms. Next: build.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidllm_ros.data.loader import RoomFolder
from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.data.synthrooms.storage import load_sample, save_sample
from vidllm_ros.training.recipe_parts import DataRecipe

ROOM_PATTERN = "*.npz"


class RenderedRooms:
    """Rooms by seed, rendered by whoever needs one first.

    The room is a function of the generator and of the batch's number alone: a resumed run, or one
    with another number of workers, sees the same rooms.

    Args:
        data: seeds, size and cache.
    """

    def __init__(self, data: DataRecipe) -> None:
        self.data = data

    def pool(self, batch: int) -> int:
        """Rooms that batch number `batch` draws from."""
        data = self.data
        if not data.new_rooms:
            return data.rooms
        return min(data.rooms, data.pool + int(data.new_rooms * batch))

    def __call__(self, rng: np.random.Generator, batch: int = 0, draw: int = 0) -> SceneSample:
        """Draw a room for a batch; the draw's number changes nothing here."""
        return self.room(self.data.first_seed + int(rng.integers(self.pool(batch))))

    def room(self, seed: int) -> SceneSample:
        """Return a room, from the cache where it is there."""
        file = Path(self.data.cache) / f"room{seed:07d}_{self.data.height}x{self.data.width}.npz"
        if not self.data.cache:
            return self.render(seed)
        if not file.is_file():
            save_sample(file, self.render(seed))
        return load_sample(file)

    def render(self, seed: int) -> SceneSample:
        """Render a room on a core: the GPU, if there is one, is busy, and this may be a fork."""
        return make_scene(seed, height=self.data.height, width=self.data.width, device="cpu")


def build_source(data: DataRecipe, seed: int = 0) -> RoomFolder | RenderedRooms:
    """Return the rooms of a recipe; `seed`, the run's, decides on the order of a folder's.

    Raises:
        FileNotFoundError: its folder holds none yet.
        ValueError: its first room has another size than the recipe's frames.
    """
    if not data.folder:
        return RenderedRooms(data)
    rooms = RoomFolder(data.folder, ROOM_PATTERN, load_sample, seed)
    first = rooms.scan()[0]
    height, width = load_sample(first).frames.images.shape[1:3]
    if (height, width) != (data.height, data.width):
        raise ValueError(
            f"data.height, data.width: expected the size of the rooms, {height} x {width} in "
            f"{first}, got {data.height} x {data.width}; change the recipe, or render rooms of "
            "its size into another folder"
        )
    return rooms
