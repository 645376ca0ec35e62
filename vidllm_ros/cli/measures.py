# SPDX-License-Identifier: Apache-2.0
"""How far the node's world is from the true one: depth, scale, trajectory, objects.

Nothing is aligned but what the name says: `trajectory_error_m` after laying the first camera on
the true first camera, `*_aligned` after the best similarity (Umeyama, which takes scale out), of
rotations after their best common turn. Depth is compared where the truth has one, on the node's
pixels. Next: evaluation/ for the data
sets' own measures; demo.py for the report these numbers go to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.cli.recording import Recording, SeenDepth
from vidllm_ros.evaluation.geometry_metrics import depth_errors, scale_error
from vidllm_ros.geometry.box_overlap import oriented_iou_matrix
from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import (
    invert_transform,
    nearest_rotation,
    rotation_angle,
    transform_points,
    umeyama,
)
from vidllm_ros.structures import GroundedBox, check_shape

Float64 = NDArray[np.float64]
FOUND_IOU = 0.25
CROPPED_FROM = 0.15  # log of the ratio of pixel pitches: beyond it the image was cropped


@dataclass(frozen=True)
class Truth:
    """What a film really shows.

    Attributes:
        stamps_ns: one a frame, as the film has them.
        images: (S, H, W, 3), uint8 RGB.
        depth: z along the optical axis, (S, H, W), m, NaN where unknown.
        K: (S, 3, 3), px.
        T_truth_camera: poses in the truth's own world, (S, 4, 4), m.
        boxes: of the objects seen, in that world; None where they are not known.
        outline: corners of the room's floor, (K, 2), m; None where it is not known.
        is_upright: whether that world is z up, and so the one to draw in.
    """

    stamps_ns: tuple[int, ...]
    images: NDArray[np.uint8]
    depth: NDArray[np.float32]
    K: Float64
    T_truth_camera: Float64
    boxes: tuple[GroundedBox, ...] | None = None
    outline: Float64 | None = None
    is_upright: bool = True

    def __post_init__(self) -> None:
        check_shape("depth", self.depth, (len(self.stamps_ns), None, None))
        check_shape("T_truth_camera", self.T_truth_camera, (len(self.stamps_ns), 4, 4))

    def index(self, stamp_ns: int) -> int:
        """Return the frame of this stamp."""
        return self.stamps_ns.index(stamp_ns)


def first_camera_alignment(recording: Recording, truth: Truth) -> Float64:
    """Return T_truth_world that lays the node's first camera on the true one, (4, 4).

    Raises:
        ValueError: the node gave no pose.
    """
    for stamp, T_world_camera in recording.poses().items():
        return truth.T_truth_camera[truth.index(stamp)] @ invert_transform(T_world_camera)
    raise ValueError("poses: expected at least one from the node, got none; see node.log")


def measure(recording: Recording, truth: Truth) -> dict[str, float | None]:
    """Return every number of the report that needs the truth; None where nothing was published."""
    numbers: dict[str, float | None] = dict(measure_depth(recording.depths(), truth))
    numbers.update(measure_trajectory(recording.poses(), truth))
    if truth.boxes is not None and recording.poses():
        T_truth_world = first_camera_alignment(recording, truth)
        boxes = [transform_box(T_truth_world, box) for box in recording.boxes()]
        numbers.update(measure_objects(boxes, truth.boxes))
    return numbers


def measure_depth(depths: Sequence[SeenDepth], truth: Truth) -> dict[str, float | None]:
    """Return errors of the published depth images as they are, and after median scaling."""
    shown, true = [], []
    for seen in depths:
        matched = match_view(truth.depth[truth.index(seen.stamp_ns)], seen.depth.shape)
        both = np.isfinite(matched) & np.isfinite(seen.depth) & (matched > 0)
        if both.any():
            shown.append(seen.depth[both])
            true.append(matched[both])
    if not shown:
        return dict.fromkeys(("depth_absrel", "depth_absrel_median_scaled", "scale_error"))
    pixels = [np.ones(len(values), bool) for values in true]
    aligned = [
        depth_errors(a, b, valid, align=True).absrel
        for a, b, valid in zip(shown, true, pixels, strict=True)
    ]
    every, every_true = np.concatenate(shown), np.concatenate(true)
    valid = np.ones(len(every), bool)
    plain = depth_errors(every, every_true, valid)
    return {
        "depth_absrel": plain.absrel,
        "depth_delta1": plain.delta1,
        "depth_absrel_median_scaled": float(np.mean(aligned)),
        "scale_error": scale_error(every, every_true, valid),
    }


def is_cropped(shape: tuple[int, ...], view: tuple[int, ...]) -> bool:
    """Say whether a view (h, w) is a part of an image (H, W) rather than all of it, stretched."""
    return bool(abs(np.log(shape[0] / view[0] / (shape[1] / view[1]))) > CROPPED_FROM)


def match_view(depth: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Sample a depth image on the pixels of a smaller view of the same camera, (h, w).

    The network stretches the whole image to whole patches, or keeps its centre where the shapes
    are far apart; so does this. Nearest neighbours: a mean over an edge is a depth of nothing.
    """
    height, width = depth.shape
    rows, columns = shape
    pitch_v, pitch_u = height / rows, width / columns
    if is_cropped(depth.shape, shape):
        pitch_v = pitch_u = min(pitch_v, pitch_u)
    v = (np.arange(rows) + 0.5 - rows / 2) * pitch_v + height / 2
    u = (np.arange(columns) + 0.5 - columns / 2) * pitch_u + width / 2
    row = np.clip(v.astype(int), 0, height - 1)
    column = np.clip(u.astype(int), 0, width - 1)
    return depth[row[:, None], column]


def measure_trajectory(poses: Mapping[int, Float64], truth: Truth) -> dict[str, float | None]:
    """Return errors of the camera's path: RMSE over the frames the node has placed."""
    names = (
        "trajectory_error_m",
        "trajectory_length_m",
        "trajectory_error_aligned_m",
        "rotation_error_aligned_deg",
    )
    if not poses:
        return dict.fromkeys(names)
    ours = np.stack(list(poses.values()))
    true = np.stack([truth.T_truth_camera[truth.index(stamp)] for stamp in poses])
    laid = true[0] @ invert_transform(ours[0]) @ ours
    length = np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum()
    fit = umeyama(ours[:, :3, 3], true[:, :3, 3], with_scale=True)
    # The rotations have their own best alignment: a straight path leaves Umeyama's a choice.
    R_true_ours = nearest_rotation(
        (true[:, :3, :3] @ np.swapaxes(ours[:, :3, :3], -1, -2)).sum(axis=0)
    )
    turned = R_true_ours @ ours[:, :3, :3]
    angles = rotation_angle(np.swapaxes(true[:, :3, :3], -1, -2) @ turned)
    return {
        "trajectory_error_m": _rmse(laid[:, :3, 3], true[:, :3, 3]),
        "trajectory_length_m": float(length),
        "trajectory_error_aligned_m": _rmse(fit.apply(ours[:, :3, 3]), true[:, :3, 3]),
        "rotation_error_aligned_deg": float(np.degrees(angles).mean()),
    }


def _rmse(positions: Float64, true: Float64) -> float:
    return float(np.sqrt(((positions - true) ** 2).sum(axis=1).mean()))


def measure_objects(
    boxes: Sequence[GroundedBox], true: Sequence[GroundedBox]
) -> dict[str, float | None]:
    """Return the shares of true objects found and of found objects that are true (IoU 0.25).

    Each true object answers for one box at most, the best first; the labels must agree.
    """
    overlaps = oriented_iou_matrix(list(boxes), list(true))
    for row, box in enumerate(boxes):
        overlaps[row, [entry.label != box.label for entry in true]] = 0.0
    found = 0
    while overlaps.size and overlaps.max() >= FOUND_IOU:
        row, column = divmod(int(overlaps.argmax()), len(true))
        overlaps[row, :] = overlaps[:, column] = 0.0
        found += 1
    return {
        "objects_recall": found / len(true) if true else None,
        "objects_precision": found / len(boxes) if boxes else None,
    }


def truth_cloud(
    truth: Truth, frames: int = 16, step: int = 2
) -> tuple[Float64, NDArray[np.uint8]]:
    """Return points (N, 3), m, and colours (N, 3) of the true depth of some frames."""
    chosen = np.unique(np.linspace(0, len(truth.stamps_ns) - 1, frames).round().astype(int))
    points, colors = [], []
    for index in chosen:
        pointmap = unproject(truth.depth[index], truth.K[index])[::step, ::step]
        keep = np.isfinite(pointmap).all(axis=-1) & (pointmap[..., 2] > 0)
        points.append(transform_points(truth.T_truth_camera[index], pointmap[keep]))
        colors.append(truth.images[index, ::step, ::step][keep])
    return np.concatenate(points), np.concatenate(colors)
