# SPDX-License-Identifier: Apache-2.0
"""Co3Dv2 and RealEstate10K: relative camera poses of ten frames of a sequence.

Co3Dv2 pools the pairs of a category and takes the mean over categories, RealEstate10K pools all
pairs; both in per cent. Which ten frames is a draw of numpy's generator with seed 0,
sequence after sequence, as in VGGT's evaluation. Next: benchmark_scannet.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data import co3d, realestate10k
from vidllm_ros.data.published_files import read_colour
from vidllm_ros.evaluation.benchmark_cases import (
    CASE_ID,
    Benchmark,
    Case,
    Cases,
    Record,
    Scores,
    cases_from_items,
    record_array,
    require_predictions,
)
from vidllm_ros.evaluation.pose_metrics import PoseScore, relative_pose_errors, score_pairs
from vidllm_ros.evaluation.predictor import Predictor, SceneView, require_ability
from vidllm_ros.structures import Frames

POSES = "T_world_camera"
FRAMES = 10
SEED = 0
PER_CENT = 100.0
GIVEN = "the ten images in the order drawn, without intrinsics"
PAIRS = (
    "all 45 pairs of 10 random frames (numpy seed 0), relative pose E_i E_j^-1, direction of "
    "translation up to sign, RRA/RTA below 15 deg, mAA(30) by one-degree bins with the last one "
    "closed, in per cent; source VGGT evaluation/test_co3d.py"
)
CO3D_VARIANT = (
    "Co3Dv2 fewview_dev test frames, sequences of viewpoint quality above 0.5 with 50 frames or "
    f"more, RelPose's 41 categories, {PAIRS}; pairs pooled in a category, mean over categories."
)
RE10K_VARIANT = (
    f"RealEstate10K, PoseDiffusion's list re10k_test_1800 where it lies in DIR, {PAIRS}; all "
    "pairs pooled. Sequences whose frames can no longer be had are left out and counted."
)


def draw_frames(generator: np.random.RandomState, available: int) -> list[int]:
    """Draw ten of the frames, without replacement, in the order drawn."""
    return [int(i) for i in generator.choice(available, FRAMES, replace=False)]


def views_of(files: Mapping[str, Sequence[Path]]) -> Callable[[str], SceneView]:
    """Return what opens a sequence: its drawn images, uncalibrated."""

    def open_scene(scene_id: str) -> SceneView:
        images = [read_colour(file) for file in files[scene_id]]
        for file, image in zip(files[scene_id], images, strict=True):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"{file}: expected {images[0].shape[:2]} px as the sequence's first image, "
                    f"got {image.shape[:2]}; copy it again"
                )
        return SceneView(scene_id, Frames(np.stack(images), tuple(range(len(images)))))

    return open_scene


def load_co3d(data_dir: Path, split: str) -> Cases:
    """Read the annotations of every seen category that lies in the folder."""
    generator = np.random.RandomState(SEED)
    items: list[Case] = []
    files: dict[str, list[Path]] = {}
    for category in co3d.categories_of(data_dir):
        for sequence in co3d.load_category(data_dir, category, split):
            chosen = draw_frames(generator, len(sequence.images))
            scene_id = f"{category}/{sequence.name}"
            files[scene_id] = [data_dir / sequence.images[i] for i in chosen]
            request = {"images": [sequence.images[i] for i in chosen], "category": category}
            truth = sequence.T_world_camera[chosen]
            items.append(Case(scene_id, scene_id, request, truth))
    return cases_from_items(items, views_of(files), split)


def load_re10k(data_dir: Path, split: str) -> Cases:
    """Read the camera files; frames that nobody has taken from the films are left out."""
    generator = np.random.RandomState(SEED)
    items: list[Case] = []
    files: dict[str, list[Path]] = {}
    missing = 0
    for name in realestate10k.list_sequences(data_dir, split):
        file = data_dir / split / f"{name}.txt"
        cameras = realestate10k.load_camera_file(file)
        images = [realestate10k.image_of(data_dir, split, name, s) for s in cameras.stamps_us]
        have = [index for index, image in enumerate(images) if image is not None]
        if len(have) < FRAMES:
            missing += 1
            continue
        chosen = [have[i] for i in draw_frames(generator, len(have))]
        files[name] = [image for i in chosen if (image := images[i]) is not None]
        request = {"images": [str(file.relative_to(data_dir)) for file in files[name]]}
        items.append(Case(name, name, request, cameras.T_world_camera[chosen]))
    if not items:
        raise FileNotFoundError(
            f"{data_dir}: expected frames/{split}/<sequence>/<microseconds>.png of at least one "
            f"of {missing} sequences, found none; take them from the films"
        )
    return cases_from_items(items, views_of(files), f"{split}, {missing} sequences missing")


def predict(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Ask for the poses of all frames at once."""
    poses = np.asarray(require_ability(predictor, "poses")(seen), np.float64)
    if poses.shape != case.truth.shape:
        raise ValueError(f"{case.case_id}: expected poses {case.truth.shape}, got {poses.shape}")
    record = {CASE_ID: case.case_id, POSES: poses.tolist()}
    checked_poses(record, case)
    return record


def checked_poses(record: Record, case: Case) -> NDArray[np.float64]:
    """Return the poses of a record, (S, 4, 4).

    Raises:
        ValueError: they are missing, of another shape, not finite or no rotations; names the case.
    """
    poses = record_array(record, POSES, case.truth.shape)
    for index, R in enumerate(poses[:, :3, :3]):
        if np.abs(R @ R.T - np.eye(3)).max() > 1e-2 or np.linalg.det(R) < 0:
            raise ValueError(
                f"prediction {case.case_id!r}, {POSES}[{index}]: expected a rotation, got "
                f"{np.round(R, 3).tolist()}; mend it"
            )
    return poses


def pair_errors(
    cases: Cases, predictions: Mapping[str, Record]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return errors of rotation and direction of all pairs, deg, by case id."""
    require_predictions(cases, predictions)
    errors = {}
    for case in cases:
        poses = checked_poses(predictions[case.case_id], case)
        errors[case.case_id] = relative_pose_errors(poses, case.truth)
    return errors


def case_rows(
    errors: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> dict[str, dict[str, float | str]]:
    """Return what the pages show of every sequence."""
    return {
        name: {
            **{k: PER_CENT * v for k, v in asdict(score_pairs(*pair)).items() if k != "pairs"},
            "rotation_deg_median": float(np.median(pair[0])),
            "direction_deg_median": float(np.median(pair[1])),
        }
        for name, pair in errors.items()
    }


def pooled(
    errors: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], names: Sequence[str]
) -> PoseScore:
    """Score the pairs of several sequences together."""
    rotation, direction = (np.concatenate([errors[name][i] for name in names]) for i in (0, 1))
    return score_pairs(rotation, direction)


def score(
    cases: Cases,
    predictions: Mapping[str, Record],
    group_of: Callable[[Case], str] | None,
    variant: str,
) -> Scores:
    """Pool pairs by group where there are groups, then take the mean over groups."""
    errors = pair_errors(cases, predictions)
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(group_of(case) if group_of else "", []).append(case.case_id)
    by_group = {group: pooled(errors, names) for group, names in groups.items()}
    values = {
        name: PER_CENT * float(np.mean([getattr(s, name) for s in by_group.values()]))
        for name in ("rra15", "rta15", "maa30")
    }
    values["sequences"] = len(errors)
    if group_of:
        values["categories"] = len(groups)
        values.update({f"maa30_{g}": PER_CENT * s.maa30 for g, s in by_group.items()})
    plotted = ("rotation_deg_median", "direction_deg_median", "maa30")
    said = variant if not cases.split.endswith("missing") else f"{variant} Here: {cases.split}."
    return Scores(values, case_rows(errors), said, "maa30", True, plotted)


def category_of(case: Case) -> str:
    """Return the category of a Co3D sequence."""
    return str(case.request["category"])


CO3DV2 = Benchmark(
    name="co3dv2",
    title="Co3Dv2 camera poses",
    splits=("test",),
    load=load_co3d,
    predict=predict,
    score=partial(score, group_of=category_of, variant=CO3D_VARIANT),
    layout=(
        "<category>/frame_annotations.jgz, sequence_annotations.jgz, "
        "set_lists/set_lists_fewview_dev.json and the images they name"
    ),
    source="VGGT evaluation/test_co3d.py; RelPose's categories",
    given=GIVEN,
)
RE10K = Benchmark(
    name="re10k",
    title="RealEstate10K camera poses",
    splits=("test",),
    load=load_re10k,
    predict=predict,
    score=partial(score, group_of=None, variant=RE10K_VARIANT),
    layout=(
        "test/<sequence>.txt, frames/test/<sequence>/<microseconds>.png or .jpg, and "
        "re10k_test_1800.txt of PoseDiffusion"
    ),
    source="VGGT evaluation/test_co3d.py on PoseDiffusion's list",
    given=GIVEN,
)
