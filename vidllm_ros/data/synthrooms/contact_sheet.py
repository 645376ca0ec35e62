# SPDX-License-Identifier: Apache-2.0
"""Put many rooms on one sheet to look at: pictures, and for some their depth and instances.

    python -m vidllm_ros.data.synthrooms.contact_sheet --out docs/images/synthrooms.jpg

Each room shows the frame with the most objects in view. Whoever changes the world looks at this.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms.scene import make_scene

COLUMNS = 6
NEAR_M, FAR_M = 0.5, 6.0


def best_frame(sample: SceneSample) -> int:
    """Return the frame that shows the most objects, each by at least 1 % of its pixels."""
    least = 0.01 * sample.depth[0].size
    shown = [(np.bincount(ids[ids >= 0]) > least).sum() for ids in sample.instance_ids]
    return int(np.argmax(shown))


def paint_depth(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a colour picture of depth, near is warm, (H, W, 3) RGB."""
    near = np.log(FAR_M / np.clip(np.nan_to_num(depth, nan=FAR_M), NEAR_M, FAR_M))
    gray = (near / np.log(FAR_M / NEAR_M) * 255).astype(np.uint8)
    return cv2.applyColorMap(gray, cv2.COLORMAP_TURBO)[..., ::-1]


def paint_ids(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return a colour for each instance, gray for structure, (H, W, 3) RGB."""
    palette = np.random.default_rng(5).integers(60, 256, (int(ids.max()) + 2, 3), dtype=np.uint8)
    palette[0] = 40
    return palette[ids + 1]


def contact_sheet(seeds: Sequence[int], truths: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return a sheet: a picture of each room, then depth and ids of the first `truths` rooms."""
    pictures, depths, ids = [], [], []
    for seed in seeds:
        sample = make_scene(seed, frames=32, height=height, width=width)
        frame = best_frame(sample)
        pictures.append(sample.frames.images[frame])
        depths.append(paint_depth(sample.depth[frame]))
        ids.append(paint_ids(sample.instance_ids[frame]))
    tiles = pictures + depths[:truths] + ids[:truths]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    framed = [np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=255) for tile in tiles]
    rows = [
        np.concatenate(framed[start : start + COLUMNS], 1)
        for start in range(0, len(framed), COLUMNS)
    ]
    return np.concatenate(rows, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="JPEG or PNG to write")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=24, help="number of rooms")
    parser.add_argument("--truths", type=int, default=6, help="rooms shown with depth and ids")
    parser.add_argument("--height", type=int, default=150, help="px of one picture")
    parser.add_argument("--width", type=int, default=200, help="px of one picture")
    given = parser.parse_args(argv)
    seeds = range(given.start, given.start + given.count)
    sheet = contact_sheet(seeds, given.truths, given.height, given.width)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]  # for a .jpg, a quarter of the size of a .png
    if not cv2.imwrite(given.out, np.ascontiguousarray(sheet[..., ::-1]), quality):
        raise OSError(f"out: cannot write {given.out}")
    print(f"{len(seeds)} rooms in {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
