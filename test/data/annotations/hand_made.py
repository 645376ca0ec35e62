# SPDX-License-Identifier: Apache-2.0
"""Two scans and a few records of every data set, small enough to work the answers out by hand.

Boxes are stated in the aligned world; the scan's own world is turned by 30 degrees and shifted, so
that a reader that forgets the alignment gets every box wrong.
"""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import sparse
from scipy.spatial.transform import Rotation

ALIGNMENT = np.eye(4)
ALIGNMENT[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix()
ALIGNMENT[:3, 3] = [1.0, -2.0, 0.1]

SCENES: dict[str, list[tuple[str, list[float]]]] = {
    "scene0000_00": [
        ("chair", [0, 0, 0, 1, 1, 1]),
        ("chair", [3, 0, 0, 4, 1, 1]),
        ("table", [0, 3, 0, 2, 4, 1]),
        ("office chair", [6, 0, 0, 7, 1, 1]),
        ("lamp", [0, 6, 0, 1, 7, 2]),
    ],
    "scene0001_00": [("chair", [0, 0, 0, 1, 1, 1]), ("coffee table", [2, 2, 0, 3, 3, 0.5])],
}
LABELS = [  # raw_category, nyu40class
    ("chair", "chair"),
    ("office chair", "chair"),
    ("table", "table"),
    ("coffee table", "table"),
    ("lamp", "lamp"),
]


def box_of(scene_id: str, object_id: int) -> list[float]:
    return [float(value) for value in SCENES[scene_id][object_id][1]]


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def change_json(path: Path, change: Any) -> Path:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    return write_json(path, value)


def write_ply(path: Path, vertices: np.ndarray) -> None:
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    body = b"".join(struct.pack("<fff4B", *vertex, 9, 9, 9, 255) for vertex in vertices)
    path.write_bytes(header.encode() + body + struct.pack("<Biii", 3, 0, 1, 2))


def write_scan(root: Path, scene_id: str) -> Path:
    """Two vertices an object, each a segment of its own, and two of the floor at the end."""
    folder = root / "scans" / scene_id
    folder.mkdir(parents=True, exist_ok=True)
    corners = [np.reshape(box, (2, 3)) for _, box in SCENES[scene_id]]
    aligned = np.concatenate([*corners, [[-1.0, -1, 0], [9, 9, 0]]])
    inverse = np.linalg.inv(ALIGNMENT)
    write_ply(folder / f"{scene_id}_vh_clean_2.ply", aligned @ inverse[:3, :3].T + inverse[:3, 3])
    numbers = " ".join(str(value) for value in ALIGNMENT.ravel())
    (folder / f"{scene_id}.txt").write_text(
        f"axisAlignment = {numbers}\ncolorHeight = 968\nsceneType = Office\n"
    )
    count = 2 * len(corners)
    segments = [10 * index for index in range(count)] + [999, 999]
    write_json(folder / f"{scene_id}_vh_clean_2.0.010000.segs.json", {"segIndices": segments})
    groups = [
        {"id": i, "objectId": i, "label": label, "segments": [20 * i, 20 * i + 10]}
        for i, (label, _) in enumerate(SCENES[scene_id])
    ]
    write_json(folder / f"{scene_id}.aggregation.json", {"segGroups": groups})
    return folder


def write_masks(root: Path, scene_id: str, rows: Sequence[Sequence[int]]) -> Path:
    """Write proposals as lists of vertices."""
    vertices = 2 * len(SCENES[scene_id]) + 2
    dense = np.zeros((len(rows), vertices), np.uint8)
    for row, own in enumerate(rows):
        dense[row, list(own)] = 1
    path = root / "mask" / f"{scene_id}.mask.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    sparse.save_npz(path, sparse.csr_matrix(dense))
    return path


def write_frames(root: Path, scene_id: str, count: int = 3) -> None:
    """Posed images of 8 x 6 px; the camera of frame i stands at (i, 0, 1) of the scan's world."""
    folder = root / "posed_images" / scene_id
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "intrinsic.txt", np.diag([8.0, 8, 1, 1]))
    for index in range(count):
        name = f"{index:05d}"
        cv2.imwrite(str(folder / f"{name}.jpg"), np.full((6, 8, 3), 100, np.uint8))
        cv2.imwrite(str(folder / f"{name}.png"), np.full((6, 8), 1500, np.uint16))
        pose = np.eye(4)
        pose[:3, 3] = [index, 0, 1]
        np.savetxt(folder / f"{name}.txt", pose)


def write_labels(root: Path) -> Path:
    path = root / "scannetv2-labels.combined.tsv"
    lines = ["id\traw_category\tcategory\tcount\tnyu40id\teigen13id\tnyuClass\tnyu40class"]
    lines += [f"{i}\t{raw}\t{raw}\t1\t1\t1\t{raw}\t{c}" for i, (raw, c) in enumerate(LABELS)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_scanqa(root: Path) -> Path:
    records = [
        {
            "scene_id": "scene0000_00",
            "question_id": "val-scene0000-0",
            "question": "What color is the chair?",
            "answers": ["brown", "dark brown"],
            "object_ids": [0],
            "object_names": ["chair"],
        },
        {
            "scene_id": "scene0000_00",
            "question_id": "val-scene0000-1",
            "question": "Where is the table?",
            "answers": ["to the left of the door"],
            "object_ids": [2],
            "object_names": ["table"],
        },
        {
            "scene_id": "scene0001_00",
            "question_id": "val-scene0001-0",
            "question": "How many chairs are there?",
            "answers": ["2", "two chairs."],
            "object_ids": [],
            "object_names": [],
        },
    ]
    return write_json(root / "ScanQA_v1.0_val.json", records)


def write_sqa3d(root: Path) -> tuple[Path, Path]:
    asked = [
        ("What is behind me?", "chair"),
        ("what is on the table?", "lamp"),
        ("Is it dark?", "no"),
        ("How many tables are there?", "one"),
        ("Can I sit?", "yes"),
        ("Which side is the lamp?", "left"),
        ("Am I near a wall?", "yes"),
    ]
    questions = [
        {
            "scene_id": "scene0000_00",
            "situation": "I stand at the table.",
            "alternative_situation": ["Standing at the table."],
            "question": question,
            "question_id": 220602000000 + index,
        }
        for index, (question, _) in enumerate(asked)
    ]
    annotations = [
        {
            "scene_id": "scene0000_00",
            "question_id": 220602000000 + index,
            "question_type": "N/A",
            "answer_type": "other",
            "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": 1}],
            "position": {"x": 0.5, "y": -1, "z": 0},
            "rotation": {"_x": 0, "_y": 0, "_z": 0.6, "_w": 0.8},
        }
        for index, (_, answer) in enumerate(asked)
    ]
    return (
        write_json(
            root / "v1_balanced_questions_test_scannetv2.json",
            {"info": {}, "questions": questions},
        ),
        write_json(
            root / "v1_balanced_sqa_annotations_test_scannetv2.json",
            {"info": {}, "annotations": list(reversed(annotations))},
        ),
    )


def write_scanrefer(root: Path) -> Path:
    """Objects 0, 1, 2 of the first scene (0 twice), 4 and an unlisted name; both of the second."""
    said = [
        ("scene0000_00", 0, "chair", 0, "this is a brown chair. it is at the table."),
        ("scene0000_00", 0, "chair", 1, "the chair at the wall"),
        ("scene0000_00", 3, "office_chair", 0, "an office chair, black"),
        ("scene0000_00", 2, "table", 0, "a round table"),
        ("scene0000_00", 4, "lamp", 0, "a tall lamp"),
        ("scene0001_00", 0, "chair", 0, "a white chair"),
        ("scene0001_00", 1, "coffee_table", 0, "a low table of glass"),
    ]
    records = [
        {
            "scene_id": scene_id,
            "object_id": str(object_id),
            "object_name": name,
            "ann_id": str(ann_id),
            "description": text,
            "token": text.replace(".", " .").replace(",", " ,").split(),
        }
        for scene_id, object_id, name, ann_id, text in said
    ]
    return write_json(root / "ScanRefer_filtered_val.json", records)


def write_multi3drefer(root: Path) -> Path:
    said = [
        ([], "zt_wo_d", "the sofa"),
        ([], "zt_w_d", "the pink chair"),
        ([2], "st_wo_d", "the table"),
        ([0], "st_w_d", "the chair at the wall"),
        ([0, 1, 3], "mt", "all the chairs"),
    ]
    records = [
        {
            "scene_id": "scene0000_00",
            "object_ids": ids,
            "object_name": "chair",
            "ann_id": ann_id,
            "description": text,
            "eval_type": kind,
            "spatial": False,
        }
        for ann_id, (ids, kind, text) in enumerate(said)
    ]
    return write_json(root / "multi3drefer_val.json", records)


NR3D_ROWS: list[dict[str, Any]] = [
    {
        "stimulus_id": "scene0000_00-chair-2-0-1",
        "scan_id": "scene0000_00",
        "instance_type": "chair",
        "target_id": 0,
        "utterance": "the chair in front of you",
        "tokens": "['the', 'chair', 'in', 'front', 'of', 'you']",
        "mentions_target_class": "True",
        "correct_guess": "True",
    },
    {
        "stimulus_id": "scene0000_00-office_chair-3-3-0-1",
        "scan_id": "scene0000_00",
        "instance_type": "office chair",
        "target_id": 3,
        "utterance": "the black office chair",
        "tokens": "['the', 'black', 'office', 'chair']",
        "mentions_target_class": "True",
        "correct_guess": "False",
    },
    {
        "stimulus_id": "scene0000_00-table-1-2",
        "scan_id": "scene0000_00",
        "instance_type": "table",
        "target_id": 2,
        "utterance": "the thing on the left",
        "tokens": "['the', 'thing', 'on', 'the', 'left']",
        "mentions_target_class": "False",
        "correct_guess": "True",
    },
    {
        "stimulus_id": "scene0001_00-chair-1-0",
        "scan_id": "scene0001_00",
        "instance_type": "chair",
        "target_id": 0,
        "utterance": "the chair",
        "tokens": "['the', 'chair']",
        "mentions_target_class": "True",
        "correct_guess": "True",
    },
]


def write_referit3d(
    root: Path,
    rows: Sequence[Mapping[str, Any]] = NR3D_ROWS,
    scenes: Sequence[str] = ("scene0000_00",),
    name: str = "nr3d",
) -> Path:
    path = root / f"{name}.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (root / "scannetv2_val.txt").write_text("\n".join(scenes) + "\n")
    return path


def write_everything(root: Path) -> Path:
    for scene_id in SCENES:
        write_scan(root, scene_id)
    write_labels(root)
    write_scanqa(root)
    write_sqa3d(root)
    write_scanrefer(root)
    write_multi3drefer(root)
    write_referit3d(root)
    return root
