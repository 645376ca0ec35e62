# SPDX-License-Identifier: Apache-2.0
"""Draw training batches: rooms from a folder or from seeds, frames from a walk, said anew.

Batch number k is a pure function of k, the settings, the number of processes and the rooms there
are, so that a resumed run sees what it would have seen. A folder's rooms are dealt like cards,
none twice before all were there; while it grows, every look at it deals anew. Next:
training/packing.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.scene_batch import (
    LoaderSettings,
    SceneBatch,
    batch_chances,
    batch_samples,
)

RESCAN_S = 20.0
FRAME_COUNT_STREAM, DEAL_STREAM = 29, 43
SMALL_STRIDE, SMALL_STEPS_SHARE = 2.5, 0.5


def choose_frames(available: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw `count` frames of a walk: an even stride, small ones more often, from a random start.

    The first is the window's reference; any frame of the walk may be it. Half of the draws run
    backwards in time, which is as good a walk.
    """
    count = min(count, available)
    longest = (available - 1) / max(count - 1, 1)
    stride = longest ** rng.random() if longest > 1 else longest
    if rng.random() < SMALL_STEPS_SHARE:  # neighbours overlap: what poses are learnt from
        stride = min(longest, rng.uniform(1.0, SMALL_STRIDE))
    start = rng.uniform(0.0, available - 1 - stride * (count - 1) + 1e-6)
    places = start + stride * np.arange(count)
    chosen = np.unique(np.clip(np.round(places), 0, available - 1).astype(int)).tolist()
    if len(chosen) < count:  # rounding met twice: fill with unused frames
        unused = [i for i in range(available) if i not in chosen]
        extra = rng.choice(len(unused), size=count - len(chosen), replace=False)
        chosen = sorted(chosen + [unused[i] for i in extra])
    return chosen[::-1] if rng.random() < 0.5 else chosen


class RoomFolder:
    """Rendered rooms in a folder, dealt like cards.

    The folder may grow while it is read. Whoever sees more rooms deals anew, each process and
    worker at its own time, so that until it has stopped growing a room may come again early.

    Args:
        folder: holds one file a room.
        pattern: of those files.
        load: reads one.
        seed: decides on the order of each deal.
    """

    def __init__(
        self,
        folder: str | Path,
        pattern: str,
        load: Callable[[Path], SceneSample],
        seed: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.pattern = pattern
        self.load = load
        self.seed = seed
        self.files: list[Path] = []
        self.scanned = 0.0

    def scan(self) -> list[Path]:
        """Return the files there are, looking again from time to time."""
        now = time.monotonic()
        if not self.files or now - self.scanned > RESCAN_S:
            self.files = sorted(self.folder.glob(self.pattern))
            self.scanned = now
        if not self.files:
            raise FileNotFoundError(
                f"data.folder: expected rendered rooms ({self.pattern}) in {self.folder}, found "
                "none; render some first"
            )
        return self.files

    def __call__(self, rng: np.random.Generator, batch: int = 0, draw: int = 0) -> SceneSample:
        """Return the room of draw number `draw`; no other in the same deal gets it.

        Args:
            rng: changes nothing here.
            batch: changes nothing here.
            draw: counts every scene of every batch.
        """
        files = self.scan()
        deal, card = divmod(draw, len(files))
        order = batch_chances(self.seed, deal, DEAL_STREAM).permutation(len(files))
        return self.load(files[int(order[card])])


class SceneBatches(Dataset[SceneBatch]):
    """Batches by number; hand it to a `DataLoader` with `batch_size=None`.

    Args:
        source: draws one room with a generator, for a batch's number and a draw's; every scene
            of every batch has another, in the batches' order.
        choose: takes a room, frame indices and a seed; returns those frames, said anew.
        settings: how batches are drawn.
        rank, world: this process takes every `world`-th scene of a batch, from `rank` on.
    """

    def __init__(
        self,
        source: Callable[[np.random.Generator, int, int], SceneSample],
        choose: Callable[[SceneSample, Sequence[int], int], SceneSample],
        settings: LoaderSettings,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.source = source
        self.choose = choose
        self.settings = settings
        self.rank = rank
        self.world = world
        self._draws = [0]  # before each batch, as far as was asked for

    def __len__(self) -> int:
        return self.settings.total_batches

    def frame_count(self, index: int) -> int:
        """Frames of every scene of batch `index`."""
        settings = self.settings
        rng = batch_chances(settings.seed, index, FRAME_COUNT_STREAM)
        late = index >= settings.long_from * settings.total_batches
        if late and rng.random() < settings.long_share:
            return int(rng.integers(settings.long_min_frames, settings.long_max_frames + 1))
        return int(rng.integers(settings.min_frames, settings.max_frames + 1))

    def scene_count(self, index: int) -> int:
        """Scenes of batch `index`, of all processes together; each has one at least."""
        fitting = self.settings.frames_per_batch // self.frame_count(index)
        return max(self.world, min(fitting, self.settings.max_scenes))

    def draws_before(self, index: int) -> int:
        """Scenes of all batches before `index`."""
        while len(self._draws) <= index:
            self._draws.append(self._draws[-1] + self.scene_count(len(self._draws) - 1))
        return self._draws[index]

    def __getitem__(self, index: int) -> SceneBatch:
        frames, first = self.frame_count(index), self.draws_before(index)
        samples, rngs = [], []
        for place in range(self.rank, self.scene_count(index), self.world):
            rng = np.random.default_rng((self.settings.seed, index, place))
            room = self.source(rng, index, first + place)
            chosen = choose_frames(len(room), frames, rng)
            samples.append(self.choose(room, chosen, int(rng.integers(2**31))))
            rngs.append(rng)
        return batch_samples(samples, self.settings, index, rngs)
