# SPDX-License-Identifier: Apache-2.0
"""`vidllm infer INPUT`: one window of a film, reconstructed and asked, without ROS.

The order is the paper's figure from left to right: frames -> `reconstruct` -> cloud, and
`answer(scene, question)`. What is printed and written is z up and metric: x ahead of the first
camera, y to its left. Next: demo.py does the same through the node.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidllm_ros.cli.command import TOPIC_HELP, note, run_command
from vidllm_ros.cli.output_files import check_file_target, check_folder_target, write_json
from vidllm_ros.cli.within_memory import load_within_memory, reconstruct_within_memory
from vidllm_ros.streaming.loading import BackendName
from vidllm_ros.streaming.model_folders import BUNDLED_MODEL

if TYPE_CHECKING:
    from vidllm_ros.geometry.point_cloud import PointCloud
    from vidllm_ros.streaming.backend import Backend
    from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction

VOXEL_M = 0.02
LEAST_SURE = 0.1  # share of the points, the least confident, that no cloud shows


def infer(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="video file, folder of images, or rosbag2")
    ],
    topic: Annotated[str | None, typer.Option(help=TOPIC_HELP)] = None,
    ask: Annotated[
        list[str] | None, typer.Option(help="a question; may be given several times")
    ] = None,
    ply: Annotated[Path | None, typer.Option(help="write the coloured cloud here (.ply)")] = None,
    json: Annotated[Path | None, typer.Option(help="write all results here (.json)")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="write overview.png and frames.png into this folder")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="frames, evenly over the film")] = 32,
    model: Annotated[
        Path | None, typer.Option(help="folder of weights; the bundled model if left out")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    backend: Annotated[
        BackendName, typer.Option(help="standin computes nothing and says so")
    ] = BackendName.VIDLLM,
) -> None:
    """Reconstruct a film in metres and answer questions about it."""
    for option, path, suffix in (("--ply", ply, ".ply"), ("--json", json, ".json")):
        if path is not None:
            check_file_target(option, path, suffix)
    if pictures is not None:
        check_folder_target("--pictures", pictures)
    film = read_film(source, frames, topic)
    loaded = load_within_memory(backend, model or BUNDLED_MODEL, device, len(film))
    for line in loaded.notes:
        note(line)
    network = loaded.backend
    begin = time.perf_counter()
    scene = reconstruct_within_memory(loaded, film)
    timings_s = {"reconstruct": time.perf_counter() - begin}
    film = film.select([film.stamps_ns.index(stamp) for stamp in scene.stamps_ns])
    cloud, boxes = lift(network, scene)
    print(
        f"{source}: {len(film)} frames, {len(cloud)} points, {len(boxes)} objects "
        f"in {timings_s['reconstruct']:.1f} s"
    )
    questions = [_ask(network, scene, question) for question in ask or []]
    if ply is not None:
        _write_cloud(ply, cloud)
    if pictures is not None:
        _draw(pictures, film, scene, cloud, boxes)
    if json is not None:
        report = {
            "input": str(source),
            "backend": backend.value,
            "frames": len(film),
            "stamps_ns": film.stamps_ns,
            "scale": scene.scale,
            "scale_spread": scene.scale_spread,
            "T_world_camera": _upright_poses(scene),
            "objects": [box_entry(box) for box in boxes],
            "questions": questions,
            "timings_s": timings_s,
        }
        if loaded.memory is not None:
            report["memory"] = loaded.memory.words
        write_json(json, report)
        print(f"wrote {json}")


def read_film(source: Path, wanted: int, topic: str | None = None) -> Frames:
    """Read `wanted` frames evenly over a film; says so where there are fewer."""
    from vidllm_ros.data.video import sample_uniform

    film = sample_uniform(source, wanted, topic)
    if len(film) < wanted:
        note(f"{source}: {len(film)} frames where {wanted} were wanted; going on with these")
    return film


def lift(network: Backend, scene: Reconstruction) -> tuple[PointCloud, tuple[GroundedBox, ...]]:
    """Return cloud and objects of a window, z up, in the level frame of its first camera."""
    from vidllm_ros.geometry.boxes import transform_box
    from vidllm_ros.geometry.point_cloud import cloud_from_reconstruction
    from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL

    cloud = cloud_from_reconstruction(scene, T_WORLD_OPTICAL_LEVEL, LEAST_SURE, VOXEL_M)
    boxes = network.detect(scene.scene)
    return cloud, tuple(transform_box(T_WORLD_OPTICAL_LEVEL, box) for box in boxes)


def _upright_poses(scene: Reconstruction) -> Any:
    from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL

    return T_WORLD_OPTICAL_LEVEL @ scene.T_world_camera


def _ask(network: Backend, scene: Reconstruction, question: str) -> dict[str, Any]:
    """Ask, print question and answer with its boxes, and return both for the report."""
    from vidllm_ros.geometry.boxes import transform_box
    from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL
    from vidllm_ros.prompts import place_answer

    begin = time.perf_counter()
    answer: Answer = network.answer(scene.scene, question)
    latency_s = time.perf_counter() - begin
    boxes = [transform_box(T_WORLD_OPTICAL_LEVEL, box) for box in answer.boxes]
    text = place_answer(question, answer.text, bool(boxes))
    print(f"Q: {question}")
    print(f"A: {text}  (confidence {answer.confidence:.2f}, {latency_s:.2f} s)")
    for box in boxes:
        print(f"   {box_line(box)}")
    return {
        "question": question,
        "answer": text,
        "confidence": answer.confidence,
        "latency_s": latency_s,
        "objects": [box_entry(box) for box in boxes],
    }


def box_line(box: GroundedBox) -> str:
    """Return a box as a line to read."""
    center = ", ".join(f"{value:.2f}" for value in box.center)
    size = " x ".join(f"{value:.2f}" for value in box.size)
    return f"{box.label} at ({center}) m, {size} m, score {box.score:.2f}"


def box_entry(box: GroundedBox) -> dict[str, Any]:
    """Return a box as a report keeps it."""
    return {
        "label": box.label,
        "score": box.score,
        "center": box.center,
        "size": box.size,
        "quat_xyzw": box.quat_xyzw,
    }


def _write_cloud(path: Path, cloud: PointCloud) -> None:
    from vidllm_ros.geometry.point_cloud import write_ply

    path.parent.mkdir(parents=True, exist_ok=True)
    write_ply(path, cloud)
    print(f"wrote {path}")


def _draw(
    folder: Path,
    film: Frames,
    scene: Reconstruction,
    cloud: PointCloud,
    boxes: tuple[GroundedBox, ...],
) -> None:
    import numpy as np

    from vidllm_ros.cli.frames_picture import SeenFrame, draw_frames
    from vidllm_ros.cli.measures import is_cropped
    from vidllm_ros.cli.overview_picture import SceneView, draw_overview

    folder.mkdir(parents=True, exist_ok=True)
    view = SceneView("from above", cloud.points, cloud.rgb, _upright_poses(scene), boxes)
    draw_overview(folder / "overview.png", [view])
    depth = np.where(scene.valid, scene.depth, np.nan).astype(np.float32)
    seconds = (np.array(film.stamps_ns) - film.stamps_ns[0]) / 1e9
    images = film.images
    if is_cropped(images.shape[1:3], scene.images.shape[1:3]):
        images = scene.images
    seen = [SeenFrame(images[i], depth[i], time_s=float(seconds[i])) for i in range(len(film))]
    draw_frames(folder / "frames.png", seen)
    print(f"wrote {folder / 'overview.png'} and {folder / 'frames.png'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm infer` and return the exit code."""
    return run_command(infer, "infer", argv)
