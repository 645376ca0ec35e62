# SPDX-License-Identifier: Apache-2.0
"""NYUv2: metric depth of single images, as AdaBins and ZoeDepth measure it.

654 test images, Eigen crop, depth from 1e-3 to 10 m, the mean of an image's prediction and its
mirror's, every measure a mean over images. Numbers after median scaling stand beside under names
that say so: they are what a network without metric scale can show. Next: benchmark_poses.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.nyuv2 import NyuTestSet
from vidllm_ros.evaluation.benchmark_cases import (
    Benchmark,
    Case,
    Cases,
    Record,
    Scores,
    cases_from_items,
    require_predictions,
)
from vidllm_ros.evaluation.geometry_metrics import DepthErrors, nyuv2_errors, nyuv2_valid
from vidllm_ros.evaluation.predictor import Predictor, SceneView, require_ability
from vidllm_ros.structures import Frames

DEPTH = "depth"
TEST_IMAGES = 654
VARIANT = (
    "official test images, Eigen crop (rows 45:471, columns 41:601), raw depth of 1e-3 to "
    "10 m, prediction bilinear with aligned corners to 480 x 640, clamped, mean with the mirrored "
    "image, means over images; source AdaBins, ZoeDepth. *_median_scaled: each prediction first "
    "multiplied by median(truth)/median(prediction), so not metric. A video model sees one frame "
    "at a time here."
)


class NyuTruth:
    """The depth of one image, read when it is needed."""

    def __init__(self, images: NyuTestSet, name: str) -> None:
        self.images, self.name = images, name

    def depth(self) -> NDArray[np.float32]:
        depth = self.images.depth(self.name)
        if not nyuv2_valid(depth).any():
            raise ValueError(f"{self.name}: expected depth inside the Eigen crop, got none")
        return depth

    def colour(self) -> NDArray[np.uint8]:
        return self.images.colour(self.name)


def load(data_dir: Path, split: str) -> Cases:
    """Read the list of test images; images and depth are read one by one."""
    images = NyuTestSet(data_dir)

    def open_scene(name: str) -> SceneView:
        return SceneView(name, Frames(images.colour(name)[None], (0,)))

    names = [image.name for image in images.images]
    items = [Case(name, name, truth=NyuTruth(images, name)) for name in names]
    return cases_from_items(items, open_scene, split)


def predict(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Average the depth of the image and of its mirror."""
    depth_of = require_ability(predictor, "depth")
    depth = _one_map(depth_of(seen), case)
    mirror = np.ascontiguousarray(case.truth.colour()[None, :, ::-1])
    mirrored = predictor.see(SceneView(f"{case.scene_id} mirrored", Frames(mirror, (0,))))
    flipped = _one_map(depth_of(mirrored), case)[:, ::-1]
    return {DEPTH: (0.5 * (depth + flipped)).astype(np.float32)}


def _one_map(depth: Any, case: Case) -> NDArray[np.float32]:
    array = np.asarray(depth, np.float32)
    if array.ndim != 3 or len(array) != 1:
        raise ValueError(f"{case.case_id}: expected depth of one frame, got shape {array.shape}")
    return array[0]


def score(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score every image and take means."""
    require_predictions(cases, predictions)
    per_case: dict[str, dict[str, float | str]] = {}
    for case in cases:
        depth = predicted_map(predictions[case.case_id], case.case_id)
        truth = case.truth.depth()
        metric, scaled = (nyuv2_errors(depth, truth, align) for align in (False, True))
        per_case[case.case_id] = {
            **_row(metric),
            **{f"{name}_median_scaled": value for name, value in _row(scaled).items()},
            "not_finite_share": float(np.mean(~np.isfinite(depth))),
        }
    names = next(iter(per_case.values()))
    values = {name: float(np.mean([row[name] for row in per_case.values()])) for name in names}
    values["images"] = len(per_case)
    count = len(per_case)
    part = "" if count == TEST_IMAGES else f", not the protocol's {TEST_IMAGES}"
    said = f"{count}{part}: {VARIANT}"
    return Scores(values, per_case, said, "absrel", False, ("absrel", "rmse_m", "delta1"))


def predicted_map(record: Record, case_id: str) -> NDArray[np.float64]:
    """Return the depth of a record, (h, w); NaN and infinity are left to the protocol.

    Raises:
        ValueError: there is none, or it is no map of numbers.
    """
    if DEPTH not in record:
        raise ValueError(f"prediction {case_id!r}: expected {DEPTH!r}, got nothing; mend the file")
    try:
        depth = np.asarray(record[DEPTH], np.float64)
    except (TypeError, ValueError):
        depth = np.zeros(0)
    if depth.ndim != 2 or min(depth.shape) < 2:
        raise ValueError(f"prediction {case_id!r}: expected {DEPTH!r} (h, w), got {depth.shape}")
    return depth


def _row(errors: DepthErrors) -> dict[str, float | str]:
    names = ("delta1", "delta2", "delta3", "absrel", "rmse_m", "log10")
    return {name: getattr(errors, name) for name in names}


NYUV2 = Benchmark(
    name="nyuv2",
    title="NYUv2 metric depth",
    splits=("test",),
    load=load,
    predict=predict,
    score=score,
    layout=(
        "nyudepthv2_test_files_with_gt.txt and its images (BTS), below DIR, DIR/test or "
        "DIR/official_splits/test; or nyu_depth_v2_labeled.mat and splits.mat"
    ),
    source="AdaBins, ZoeDepth (evaluation of NYU Depth v2)",
    given="each image and its mirror, alone and without intrinsics",
    array_fields=(DEPTH,),
)
