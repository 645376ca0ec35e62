# SPDX-License-Identifier: Apache-2.0
"""Every benchmark's files torn, missing, repeated, not finite, without volume: named, never 0."""

import gzip
import json
import shutil

import geometry_sets as sets
import hand_made
import numpy as np
import pytest

from vidllm_ros.cli import evaluate
from vidllm_ros.evaluation import caption_metrics

SCENE, OTHER = "scene0000_00", "scene0001_00"
SCAN = f"scans/{SCENE}/{SCENE}"
FRAMES = f"posed_images/{SCENE}"
RECONSTRUCTED = "scene0707_00"
LIST = "nyudepthv2_test_files_with_gt.txt"
APPLE = "apple/frame_annotations.jgz"


def tear(name, count=None):
    """Cut bytes off the end of a file, half of it where it is not said how many."""

    def spoil(root):
        (path,) = root.glob(name)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - (count or len(data) // 2)])

    return spoil


def change(name, edit, packed=False):
    """Edit a JSON file."""

    def spoil(root):
        path = root / name
        data = path.read_bytes()
        value = json.loads(gzip.decompress(data) if packed else data)
        edit(value)
        text = json.dumps(value).encode()
        path.write_bytes(gzip.compress(text) if packed else text)

    return spoil


def rewrite(name, old, new):
    """Replace words of a text file, which have to be there."""

    def spoil(root):
        path = root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return spoil


def remove(name):
    """Take files or a folder away."""

    def spoil(root):
        for path in list(root.glob(name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def repeat(name, index=0):
    """Write a record of a list twice."""
    return change(name, lambda value: value.append(value[index]))


def flatten(object_id):
    """Leave an object one vertex: its box has no volume."""
    groups = f"{SCAN}.aggregation.json"
    return change(groups, lambda v: v["segGroups"][object_id].update(segments=[20 * object_id]))


def nan_vertex(root):
    """Make the first vertex of the scan's mesh not a number."""
    path = root / f"{SCAN}_vh_clean_2.ply"
    head, mark, body = path.read_bytes().partition(b"end_header\n")
    path.write_bytes(head + mark + np.float32(np.nan).tobytes() + body[4:])


SCANREFER = "ScanRefer_filtered_val.json"
QUESTIONS = "v1_balanced_questions_test_scannetv2.json"
TOLD = "v1_balanced_sqa_annotations_test_scannetv2.json"
MULTI = "multi3drefer_val.json"
POSE = f"{FRAMES}/00000.txt"
POSED = (
    ("missing scene", remove(FRAMES), [f"posed_images/{SCENE}"]),
    ("not finite", rewrite(POSE, "1.000000000000000000e+00", "nan"), [POSE, "rigid"]),
    ("torn image", tear(f"{FRAMES}/00001.jpg"), [f"{FRAMES}/00001.jpg"]),
)
BOXES = (
    *POSED,
    ("missing scan", remove(f"scans/{SCENE}"), [SCENE, "expected its scan"]),
    ("torn segments", tear(f"{SCAN}_vh_clean_2.0.010000.segs.json"), ["segs.json", "cut off"]),
    ("torn mesh", tear(f"{SCAN}_vh_clean_2.ply", 60), ["vh_clean_2.ply: vertices", "cut off"]),
    ("vertex not finite", nan_vertex, ["vh_clean_2.ply: vertex 0", "finite"]),
)
SPOILS = {
    "scanqa": (
        *POSED,
        ("torn", tear("ScanQA_v1.0_val.json"), ["ScanQA_v1.0_val.json: line 1", "cut off"]),
        ("repeated", repeat("ScanQA_v1.0_val.json"), ["record 3", "question_id", "record 0"]),
    ),
    "sqa3d": (
        *POSED,
        ("torn", tear(TOLD), [TOLD, "cut off"]),
        (
            "repeated",
            change(QUESTIONS, lambda v: v["questions"].append(v["questions"][0])),
            [QUESTIONS, "record 7", "question_id"],
        ),
    ),
    "scan2cap": (
        *BOXES,
        ("torn", tear(SCANREFER), [SCANREFER, "cut off"]),
        ("repeated", repeat(SCANREFER), ["record 7", "ann_id", "record 0"]),
        ("no volume", flatten(2), [f"{SCANREFER}: record 3", "object 2 ('table')", "a volume"]),
    ),
    "scanrefer": (
        *BOXES,
        ("torn", tear(SCANREFER), [SCANREFER, "cut off"]),
        ("repeated", repeat(SCANREFER), ["record 7", "ann_id", "record 0"]),
        ("no volume", flatten(2), [f"{SCANREFER}: record 3", "object 2 ('table')", "a volume"]),
    ),
    "multi3drefer": (
        *BOXES,
        ("torn", tear(MULTI), [MULTI, "cut off"]),
        ("repeated", repeat(MULTI), [f"{MULTI}: record 5", "ann_id", "record 0"]),
        ("no volume", flatten(2), [f"{MULTI}: record 2", "object 2 ('table')", "a volume"]),
    ),
    "nr3d": (
        *BOXES,
        ("torn", tear("nr3d.csv"), ["nr3d.csv: row", "expected"]),
        ("no volume", flatten(3), ["nr3d.csv: row 3", "object 3 ('office chair')", "a volume"]),
        ("no list", remove("scannetv2_val.txt"), ["scannetv2_val.txt", "expected the published"]),
    ),
    "nyuv2": (
        ("torn depth", tear("test/bathroom/sync_depth_00000.png"), ["sync_depth_00000.png"]),
        ("torn list", rewrite(LIST, " 518.8579", ""), [f"{LIST}, line 1", "focal length"]),
        ("missing", remove("test/bathroom/rgb_00001.jpg"), ["rgb_00001.jpg", f"{LIST}, line 2"]),
        ("repeated", rewrite(LIST, "rgb_00001", "rgb_00000"), [f"{LIST}, line 2", "twice"]),
    ),
    "co3dv2": (
        ("torn", tear(APPLE), ["frame_annotations.jgz", "expected JSON"]),
        ("missing", remove("apple/a/images/*"), ["apple/a/images/frame", "no such image"]),
        ("repeated", change(APPLE, lambda v: v.append(v[3]), True), ["record 50", "twice"]),
        (
            "not finite",
            change(APPLE, lambda v: v[3]["viewpoint"].update(T=[0, 0, float("nan")]), True),
            ["record 3 (a, frame 3)", "viewpoint.T", "finite"],
        ),
    ),
    "re10k": (
        ("torn", tear("test/one.txt"), ["test/one.txt, line 7", "expected 19 finite numbers"]),
        ("missing", remove("frames/test/one"), ["of 1 sequences", "take them from the films"]),
        ("not finite", rewrite("test/one.txt", " 0.9 ", " nan "), ["test/one.txt, line 2"]),
        ("repeated", rewrite("test/one.txt", "1033367", "1000000"), ["one.txt, line 3", "a time"]),
    ),
    "scannet-reconstruction": (
        ("torn mesh", tear(f"scans/{RECONSTRUCTED}/*.ply"), ["vh_clean_2.ply", "cut off"]),
        ("missing mesh", remove(f"scans/{RECONSTRUCTED}/*"), ["vh_clean_2.ply: no such mesh"]),
        ("torn depth", tear(f"posed_images/{RECONSTRUCTED}/00001.png"), ["00001.png"]),
        (
            "missing scene",
            lambda root: (root / "scannetv2_test.txt").write_text("scene0708_00\n"),
            ["scene0708_00"],
        ),
        (
            "repeated",
            lambda root: (root / "scannetv2_test.txt").write_text(f"{RECONSTRUCTED}\n" * 2),
            ["scannetv2_test.txt", "listed twice"],
        ),
    ),
}
SPOILS["sr3d"] = tuple(
    (
        what,
        tear("sr3d.csv") if what == "torn" else spoil,
        [w.replace("nr3d", "sr3d") for w in said],
    )
    for what, spoil, said in SPOILS["nr3d"]
)
MAKERS = {
    "nyuv2": lambda root: sets.write_nyuv2(root, [np.full(sets.NYU_SIZE, 2.0)] * 2),
    "co3dv2": lambda root: sets.write_co3d(
        root, {"apple": {"a": (0.9, sets.random_poses(50, 1))}}
    ),
    "re10k": lambda root: sets.write_re10k(root, "one", sets.random_poses(12, 1)),
    "scannet-reconstruction": lambda root: sets.write_scannet(root, RECONSTRUCTED),
}


def make(name, root):
    root.mkdir()
    if name in MAKERS:
        MAKERS[name](root)
        return
    hand_made.write_everything(root)
    hand_made.write_referit3d(root, name="sr3d")
    for scene_id in hand_made.SCENES:
        hand_made.write_frames(root, scene_id)


@pytest.mark.parametrize(
    ("name", "what"), [(name, row[0]) for name, rows in SPOILS.items() for row in rows]
)
def test_a_file_that_is_off_is_named(name, what, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(caption_metrics, "find_java", lambda: None)
    root, out = tmp_path / "data", tmp_path / "r.json"
    make(name, root)
    _, spoil, said = next(row for row in SPOILS[name] if row[0] == what)
    spoil(root)
    run = [name, "--data", str(root), "--out", str(out), "--no-pages"]
    assert evaluate.main([*run, "--predictor", "blind_models:Blind"]) == 1
    error = capsys.readouterr().err
    line = error[error.index("vidllm evaluate:") :].strip()
    assert "\n" not in line
    for words in said:
        assert words in line
    assert not out.exists()


def test_every_published_benchmark_is_here():
    from vidllm_ros.evaluation.benchmark_registry import BENCHMARKS

    assert set(SPOILS) | {"synthrooms"} == set(BENCHMARKS)


def test_a_room_that_is_torn_or_of_another_size_is_named(tmp_path, capsys):
    run = ["synthrooms", "--data", str(tmp_path / "rooms"), "--out", str(tmp_path / "r.json")]
    run += ["--seeds", "1000000:1000001", "--frames", "2", "--baseline-rooms", "0", "--no-pages"]
    run += ["--predictor", "blind_models:Blind"]
    assert evaluate.main(run) == 0
    capsys.readouterr()
    again = [*run, "--out", str(tmp_path / "again.json")]
    assert evaluate.main([*again, "--frames", "3"]) == 1
    assert "frames" in capsys.readouterr().err
    tear("rooms/*.npz")(tmp_path)
    assert evaluate.main(again) == 1
    assert "1000000.npz" in capsys.readouterr().err
    assert not (tmp_path / "again.json").exists()
