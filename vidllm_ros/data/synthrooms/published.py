# SPDX-License-Identifier: Apache-2.0
"""Write rooms in the published formats of the real benchmarks, for their readers and scorers.

    python -m vidllm_ros.data.synthrooms.published --out data --start 2000000 --count 3

Into one folder go ScanQA_v1.0_{split}.json, SQA3D's two files, ScanRefer_filtered_{split}.json and
.txt (Scan2Cap reads them too), multi3drefer_train_val/multi3drefer_{split}.json, ScanNet's scans,
posed images, scene list and label table. Scenes are called synth2000000_00. Whoever reads a
benchmark's folder reads this one.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track

from vidllm_ros.data.synthrooms.published_scan import SPACING_M, write_images, write_scan
from vidllm_ros.data.synthrooms.published_words import (
    Record,
    multi3drefer_records,
    scanqa_records,
    scanrefer_records,
    sqa3d_records,
)
from vidllm_ros.data.synthrooms.render import render
from vidllm_ros.data.synthrooms.scene import search_scene
from vidllm_ros.data.synthrooms.vocabulary import OBJECT_LABELS, SPLITS, split_of

MOST_SITUATIONS_A_ROOM = 100
NYU40 = {  # ScanNet's benchmark classes in the NYU40 numbering
    "wall": 1,
    "floor": 2,
    **dict(zip(OBJECT_LABELS[:10], range(3, 13), strict=True)),
    "desk": 14,
    "curtain": 16,
    "refrigerator": 24,
    "shower curtain": 28,
    "toilet": 33,
    "sink": 34,
    "bathtub": 36,
    "trash can": 39,
}
TABLE_COLUMNS = ("id", "raw_category", "category", "nyu40id", "nyu40class")


def scene_name(seed: int) -> str:
    """Return the scene's name in ScanNet's fashion."""
    return f"synth{seed:07d}_00"


def write_published(
    folder: str | os.PathLike[str],
    seeds: Sequence[int],
    frames: int = 32,
    height: int = 84,
    width: int = 112,
    split: str = "",
    spacing_m: float = SPACING_M,
) -> Path:
    """Write these rooms, all of one split, and return the folder.

    Args:
        folder: to write into; files of the same split there are replaced.
        seeds: of the rooms.
        frames: pictures a room.
        height: of the pictures, px.
        width: of the pictures, px.
        split: name of the files; "" means the seeds' own.
        spacing_m: between the mesh's points.

    Raises:
        ValueError: there are no seeds, or they are of several splits.
    """
    splits = sorted({split_of(seed) for seed in seeds})
    if len(splits) != 1:
        raise ValueError(f"seeds: expected rooms of one split, got {splits}; write them apart")
    name = split or splits[0]
    if name not in SPLITS:
        raise ValueError(f"split: expected one of {tuple(SPLITS)}, got {split!r}")
    out = Path(folder)
    qa: list[Record] = []
    asked: list[Record] = []
    told: list[Record] = []
    refer: list[Record] = []
    multi: list[Record] = []
    for seed in track(seeds, "rooms", transient=True):
        _, room, _, sample = search_scene(
            seed, frames, lambda room, walk: render(room, walk, height, width)
        )
        scene_id = scene_name(seed)
        write_scan(out, scene_id, room, sample, spacing_m)
        write_images(out, scene_id, sample)
        qa += scanqa_records(sample, scene_id, name)
        questions, annotations = sqa3d_records(sample, scene_id, seed * MOST_SITUATIONS_A_ROOM)
        asked += questions
        told += annotations
        refer += scanrefer_records(sample, scene_id)
        multi += multi3drefer_records(sample, scene_id)
    qa_name = "test_w_obj" if name == "test" else name
    lists = "".join(f"{scene_name(seed)}\n" for seed in seeds)
    answers = sorted({answer["answer"] for item in told for answer in item["answers"]})
    numbers = {answer: index for index, answer in enumerate(answers)}
    files: dict[str, object] = {
        f"ScanQA_v1.0_{qa_name}.json": qa,
        f"v1_balanced_questions_{name}_scannetv2.json": {"questions": asked},
        f"v1_balanced_sqa_annotations_{name}_scannetv2.json": {"annotations": told},
        "answer_dict.json": [numbers, {str(index): a for a, index in numbers.items()}],
        f"ScanRefer_filtered_{name}.json": refer,
        f"multi3drefer_train_val/multi3drefer_{name}.json": multi,
    }
    for file, records in files.items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text(json.dumps(records, indent=1))
    (out / f"ScanRefer_filtered_{name}.txt").write_text(lists)
    (out / f"scannetv2_{name}.txt").write_text(lists)
    (out / "scannetv2-labels.combined.tsv").write_text(label_table())
    return out


def label_table() -> str:
    """Return ScanNet's label table, cut down to the columns in use and this world's classes."""
    rows = [TABLE_COLUMNS]
    for index, (label, number) in enumerate(NYU40.items(), start=1):
        nyu40 = "otherfurniture" if label == "trash can" else label
        rows.append((str(index), label, label, str(number), nyu40))
    return "".join("\t".join(row) + "\n" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder to write into")
    parser.add_argument("--start", type=int, default=SPLITS["test"], help="first seed")
    parser.add_argument("--count", type=int, default=3, help="number of rooms")
    parser.add_argument("--frames", type=int, default=32, help="pictures a room")
    parser.add_argument("--height", type=int, default=84, help="px")
    parser.add_argument("--width", type=int, default=112, help="px")
    parser.add_argument("--split", default="", choices=("", *SPLITS), help="name of the files")
    parser.add_argument("--spacing", type=float, default=SPACING_M, help="mesh points, m")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds = range(given.start, given.start + given.count)
    size = (given.frames, given.height, given.width)
    out = write_published(given.out, seeds, *size, given.split, given.spacing)
    print(f"{len(seeds)} rooms in {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
