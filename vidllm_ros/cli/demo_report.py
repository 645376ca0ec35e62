# SPDX-License-Identifier: Apache-2.0
"""What a demo leaves: overview.png, frames.png, scene.ply and report.json, and what it prints.

Drawn in the truth's world where that is upright (a room's walls then follow the axes), in the
node's otherwise. Next: measures.py for the numbers, overview_picture.py for the picture.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.cli.demo_run import DemoOutcome, DemoSettings
from vidllm_ros.cli.frames_picture import SeenFrame, draw_frames
from vidllm_ros.cli.measures import (
    Truth,
    first_camera_alignment,
    match_view,
    measure,
    truth_cloud,
)
from vidllm_ros.cli.output_files import write_json
from vidllm_ros.cli.overview_picture import SceneView, draw_overview
from vidllm_ros.cli.recording import Recording
from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.geometry.transforms import invert_transform, transform_points

Float64 = NDArray[np.float64]
VOXEL_M = 0.03
NUMBERS_PRINTED = (
    ("depth_absrel", "depth AbsRel"),
    ("depth_absrel_median_scaled", "depth AbsRel, median-scaled"),
    ("scale_error", "scale error"),
    ("trajectory_error_m", "trajectory error (m), first camera aligned"),
    ("trajectory_error_aligned_m", "trajectory error (m), similarity aligned"),
    ("rotation_error_aligned_deg", "rotation error (deg), similarity aligned"),
)
ALWAYS_REPORTED = ("depth_absrel", "scale_error", "trajectory_error_m")


def write_report(
    settings: DemoSettings, outcome: DemoOutcome, folder: Path, elapsed_s: float
) -> str:
    """Write the four files into `folder`, and return the lines that sum them up."""
    folder.mkdir(parents=True, exist_ok=True)
    camera, recording = settings.camera, outcome.recording
    numbers: dict[str, Any] = dict.fromkeys(ALWAYS_REPORTED)
    if camera.truth is not None:
        numbers.update(measure(recording, camera.truth))
    answered = [entry for entry in outcome.questions if entry["correct"] is not None]
    right = sum(bool(entry["correct"]) for entry in answered)
    report = {
        "input": camera.name,
        "backend": settings.backend.value,
        "model": None if settings.model is None else settings.model.name,
        "questions": outcome.questions,
        "questions_right": right if answered else None,
        "windows": len(recording.windows),
        "window_size": settings.window,
        "frames_played": outcome.frames_played,
        "frames_placed": len(recording.poses()),
        "dropped_frames": recording.windows[-1].get("dropped_frames"),
        "skipped_windows": recording.windows[-1].get("skipped_windows"),
        "scale": [entry.get("scale") for entry in recording.windows],
        "scale_spread": [entry.get("scale_spread") for entry in recording.windows],
        **numbers,
        "objects": recording.windows[-1].get("objects", []),
        "timings": {**recording.timings_s(), "demo_until_report": elapsed_s},
    }
    said = f"{right} of {len(answered)} answers right" if answered else "answers unchecked"
    heading = f"{camera.name}: {said}"
    draw_overview(folder / "overview.png", scene_views(recording, camera.truth), heading)
    draw_frames(folder / "frames.png", seen_frames(settings, recording))
    shutil.copyfile(outcome.map_ply, folder / "scene.ply")
    write_json(folder / "report.json", report)
    return "\n".join(summary(report, said))


def summary(report: dict[str, Any], said: str) -> list[str]:
    """Return the lines a person reads at the end."""
    lines = [
        f"{report['input']}: {report['frames_played']} frames, {report['windows']} windows, {said}"
    ]
    for name, words in NUMBERS_PRINTED:
        if report.get(name) is not None:
            lines.append(f"  {words}: {report[name]:.3f}")
    return lines


def scene_views(recording: Recording, truth: Truth | None) -> list[SceneView]:
    """Return what the node saw and, if known, the truth beside it, in one frame."""
    T_panel_world, T_panel_truth = np.eye(4), np.eye(4)
    poses = recording.poses()
    if truth is not None and poses:
        T_truth_world = first_camera_alignment(recording, truth)
        if truth.is_upright:
            T_panel_world = T_truth_world
        else:
            T_panel_truth = invert_transform(T_truth_world)
    cloud = recording.cloud(VOXEL_M)
    track = np.stack(list(poses.values())) if poses else np.zeros((0, 4, 4))
    views = [
        SceneView(
            title="what the node saw",
            points=transform_points(T_panel_world, cloud.points).astype(np.float32),
            rgb=cloud.rgb,
            T_world_camera=T_panel_world @ track,
            boxes=tuple(transform_box(T_panel_world, box) for box in recording.boxes()),
            outline=None if truth is None else truth.outline,
        )
    ]
    if truth is not None:
        points, rgb = truth_cloud(truth)
        boxes = tuple(transform_box(T_panel_truth, box) for box in truth.boxes or ())
        views.append(
            SceneView(
                title="truth",
                points=transform_points(T_panel_truth, points).astype(np.float32),
                rgb=rgb,
                T_world_camera=T_panel_truth @ truth.T_truth_camera,
                boxes=boxes,
                outline=truth.outline,
            )
        )
    return views


def seen_frames(settings: DemoSettings, recording: Recording) -> list[SeenFrame]:
    """Return the frames the node published depth of, with the true depth if it is known."""
    camera = settings.camera
    depths = recording.depths()
    start_ns = min(recording.original_ns.values())
    frames = []
    for seen in depths:
        true = None
        if camera.truth is not None:
            true = match_view(
                camera.truth.depth[camera.truth.index(seen.stamp_ns)], seen.depth.shape
            )
        frames.append(
            SeenFrame(
                image=camera.image(seen.stamp_ns),
                depth=seen.depth,
                truth=true,
                time_s=(seen.stamp_ns - start_ns) / 1e9,
            )
        )
    return frames
