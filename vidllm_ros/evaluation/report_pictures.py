# SPDX-License-Identifier: Apache-2.0
"""Pictures of a case: what the model saw, and prediction beside truth where that can be drawn.

Depth as colours on one scale, clouds, cameras and boxes from above. Everything is drawn from the
record and the case alone, so that anybody's predictions get the same page. Next: report_page.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.evaluation.benchmark_cases import Case, Cases, Record
from vidllm_ros.evaluation.benchmark_nyuv2 import NyuTruth
from vidllm_ros.evaluation.benchmark_scannet import ScanTruth
from vidllm_ros.evaluation.benchmark_synthrooms_scores import truth_in_window
from vidllm_ros.evaluation.caption_benchmarks import CaptionTruth
from vidllm_ros.evaluation.geometry_metrics import resize_aligned_corners
from vidllm_ros.evaluation.grounding_benchmarks import BoxTruth
from vidllm_ros.evaluation.predictor_vidllm import window_cloud
from vidllm_ros.geometry.transforms import invert_transform, transform_points, umeyama

Image = NDArray[np.uint8]
Float64 = NDArray[np.float64]
HEIGHT = 150
GAP = 4
STRIP = 5  # frames of a case
PLAN = 240  # px, plans from above
MOST_POINTS = 40_000
TRUE_COLOR, OUR_COLOR = (40, 120, 40), (200, 60, 40)  # RGB
PAPER = 250
ROOM_M = 4.0  # a plan of boxes shows at least as much


@dataclass(frozen=True)
class Picture:
    """An image with a line under it."""

    image: Image
    caption: str


def pictures_of(cases: Cases, case: Case, record: Record) -> list[Picture]:
    """Return the pictures of a case; the frames are always among them."""
    frames = cases.open_scene(case.scene_id).frames.images
    shown = min(STRIP, len(frames))
    said = f"{shown} of {len(frames)} frames" if shown < len(frames) else "all frames"
    pictures = [Picture(strip(frames), said)]
    for draw in (depth_pictures, cloud_pictures, pose_pictures, box_pictures):
        pictures += draw(case, record)
    return pictures


def strip(frames: NDArray[np.uint8], count: int = STRIP) -> Image:
    """Return some of the frames side by side."""
    chosen = np.unique(
        np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    )
    shown = [to_height(frames[i]) for i in chosen]
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    parts = [part for image in shown for part in (gap, image)]
    return np.concatenate(parts[1:], axis=1)


def to_height(image: NDArray[np.uint8], height: int = HEIGHT) -> Image:
    """Resize an image to a height."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def depth_pictures(case: Case, record: Record) -> list[Picture]:
    """Return truth, prediction and relative error of a depth map, the room's middle frame."""
    if "depth" not in record:
        return []
    predicted = np.asarray(record["depth"], np.float64)
    if isinstance(case.truth, NyuTruth):
        truth = case.truth.depth().astype(np.float64)
    elif isinstance(case.truth, SceneSample):
        middle = len(case.truth) // 2
        truth, predicted = case.truth.depth[middle].astype(np.float64), predicted[middle]
    else:
        return []
    predicted = resize_aligned_corners(predicted, (truth.shape[0], truth.shape[1]))
    valid = np.isfinite(truth) & (truth > 0)
    if not valid.any():
        return []
    low, high = (float(v) for v in np.quantile(truth[valid], (0.02, 0.98)))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(valid, np.abs(predicted - truth) / truth, np.nan)
    return [
        Picture(
            colored(np.where(valid, truth, np.nan), low, high), f"true {low:.1f}-{high:.1f} m"
        ),
        Picture(colored(predicted, low, high), "predicted, same colours"),
        Picture(colored(error, 0.0, 0.5), "|error| / truth, 0 to 0.5"),
    ]


def colored(values: Float64, low: float, high: float) -> Image:
    """Return a map as colours, grey where it is not finite."""
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-9), 0, 1)
    colours = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    image = np.where(known[..., None], colours, 128).astype(np.uint8)
    return to_height(np.ascontiguousarray(image))


def cloud_pictures(case: Case, record: Record) -> list[Picture]:
    """Return predicted and true cloud over each other, seen along the first camera's y axis."""
    if "cloud" not in record:
        return []
    cloud = np.asarray(record["cloud"], np.float64).reshape(-1, 3)
    if isinstance(case.truth, SceneSample):
        sample = case.truth
        valid = np.isfinite(sample.depth) & (sample.depth > 0)
        truth = window_cloud(sample.depth, valid, sample.K, truth_in_window(sample))
    elif isinstance(case.truth, ScanTruth):
        first = case.truth.posed().T_scan_camera[0]
        truth = transform_points(invert_transform(first), case.truth.vertices())
    else:
        return []
    layers = [(truth[:, [0, 2]], TRUE_COLOR), (cloud[:, [0, 2]], OUR_COLOR)]
    return [plan(layers, "from above the first camera", unit="m")]


def pose_pictures(case: Case, record: Record) -> list[Picture]:
    """Return both paths of the camera from above, scaled onto each other."""
    if "T_world_camera" not in record:
        return []
    if isinstance(case.truth, SceneSample):
        truth = truth_in_window(case.truth)
    elif isinstance(case.truth, np.ndarray):
        truth = invert_transform(case.truth[0]) @ case.truth
    else:
        return []
    poses = np.asarray(record["T_world_camera"], np.float64)
    ours = (invert_transform(poses[0]) @ poses)[:, :3, 3]
    true = truth[:, :3, 3]
    fit = umeyama(ours, true, with_scale=True) if np.ptp(ours, axis=0).max() > 0 else None
    placed = ours if fit is None else fit.apply(ours)
    layers = [(true[:, [0, 2]], TRUE_COLOR), (placed[:, [0, 2]], OUR_COLOR)]
    return [plan(layers, "camera centres after the best similarity", radius=3)]


def box_pictures(case: Case, record: Record) -> list[Picture]:
    """Return true and predicted boxes from above, in the benchmark's world."""
    if isinstance(case.truth, BoxTruth):
        true = np.asarray(case.truth.aabbs, np.float64).reshape(-1, 6)
    elif isinstance(case.truth, CaptionTruth):
        true = np.asarray(case.truth.aabb, np.float64).reshape(-1, 6)
    else:
        return []
    said: Any = record.get("boxes", [record["box"]] if record.get("box") is not None else [])
    ours = np.asarray(said, np.float64).reshape(-1, 6)
    if not len(true) and not len(ours):
        return []
    layers = [(edges(true), TRUE_COLOR), (edges(ours), OUR_COLOR)]
    return [plan(layers, "boxes from above", radius=1, least_span=ROOM_M, unit="m")]


def edges(aabbs: Float64, steps: int = 60) -> Float64:
    """Return points along the outlines of boxes from above, (N, 2)."""
    along = np.linspace(0, 1, steps)
    lines = []
    for x0, y0, _, x1, y1, _ in aabbs:
        x, y = x0 + (x1 - x0) * along, y0 + (y1 - y0) * along
        for line_x, line_y in ((x, y0), (x, y1), (x0, y), (x1, y)):
            pair = np.broadcast_arrays(line_x, line_y)
            lines.append(np.stack(pair, axis=1))
    return np.concatenate(lines) if lines else np.zeros((0, 2))


def plan(
    layers: Iterable[tuple[Float64, tuple[int, int, int]]],
    caption: str,
    radius: int = 0,
    least_span: float = 1e-6,
    unit: str = "of the truth's unit",
) -> Picture:
    """Draw sets of points (N, 2) over each other on one square, the second axis upwards.

    Args:
        layers: points and their colour; later ones are drawn over earlier ones.
        caption: said under it, with how much the square is across.
        radius: of a point's disc, px; 0 draws thin, transparent pixels.
        least_span: the square shows at least as much.
        unit: of the points.
    """
    drawn = [(points[np.isfinite(points).all(axis=1)], color) for points, color in layers]
    every = np.concatenate([points for points, _ in drawn])
    image = np.full((PLAN, PLAN, 3), PAPER, np.uint8)
    caption += ": true green, predicted red"
    if not len(every):
        return Picture(image, f"{caption}; nothing to draw")
    low, high = np.quantile(every, (0.002, 0.998), axis=0) if not radius else limits(every)
    span = max(float((high - low).max()) * 1.08, least_span)
    middle = (low + high) / 2
    for points, color in drawn:
        step = max(1, len(points) // MOST_POINTS)
        place = ((points[::step] - middle) / span + 0.5) * (PLAN - 1)
        column, row = place[:, 0].round().astype(int), (PLAN - 1 - place[:, 1]).round().astype(int)
        inside = (column >= 0) & (column < PLAN) & (row >= 0) & (row < PLAN)
        if radius:
            for x, y in zip(column[inside], row[inside], strict=True):
                cv2.circle(image, (int(x), int(y)), radius, color, -1)
        else:
            paint = 0.55 * image[row[inside], column[inside]] + 0.45 * np.array(color)
            image[row[inside], column[inside]] = paint.astype(np.uint8)
    return Picture(image, f"{caption}; {span:.2g} {unit} across")


def limits(points: Float64) -> tuple[Float64, Float64]:
    """Return least and greatest coordinates."""
    return points.min(axis=0), points.max(axis=0)


def words_of(truth: Any) -> str:
    """Say a truth in words where it has some."""
    for name in ("answers", "texts"):
        if hasattr(truth, name):
            return " | ".join(getattr(truth, name))
    if isinstance(truth, BoxTruth):
        return f"{truth.kind}, {counted(len(truth.aabbs))}"
    return ""


def said_of(record: Record) -> str:
    """Say a prediction in words where it has some."""
    parts = [str(record[name]) for name in ("answer", "caption") if record.get(name)]
    for name in ("box", "object_id"):
        if name in record:
            parts.append(f"{name} {short(record[name])}")
    if "boxes" in record:
        parts.append(counted(len(record["boxes"])))
    return "; ".join(parts)


def counted(boxes: int) -> str:
    """Say how many boxes."""
    return f"{boxes} box" if boxes == 1 else f"{boxes} boxes"


def short(value: Any) -> str:
    """Write numbers with two digits."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(f"{v:.2f}" for v in value) + "]"
    return str(value)


def asked_of(request: Mapping[str, Any]) -> str:
    """Say what was asked."""
    keys = ("situation", "question", "phrase", "category")
    return " ".join(str(request[key]) for key in keys if key in request)
