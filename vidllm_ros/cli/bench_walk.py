# SPDX-License-Identifier: Apache-2.0
"""`vidllm bench walk`: how a map holds together over a long walk through rooms nobody trained on.

A camera walks through rendered rooms; the session sees it frame by frame, as the node would. The
same windows are also chained by one frame each, the plain twin of the registration. Two sources:
the network, and the truth spoiled by stated errors, which measures streaming/ alone. With
`--keyframe-motion 0` windows are of neighbouring frames; `--calibrated` lets the session know the
lens, as a camera_info does; `--camera-width` renders a camera that sees more than the network.
Next: walk_measures.py for what is counted, walk_picture.py for the picture.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidllm_ros.cli.command import note, run_command
from vidllm_ros.streaming.loading import BackendName, load_backend
from vidllm_ros.streaming.model_folders import BUNDLED_MODEL

if TYPE_CHECKING:
    import numpy as np

    from vidllm_ros.cli.walk_measures import IdentityScore
    from vidllm_ros.data.samples import SceneSample
    from vidllm_ros.streaming.backend import Backend
    from vidllm_ros.streaming.results import WindowResult

FIRST_ROOM = 2_000_000
SURFACE_POINTS, MAP_POINTS = 200_000, 20_000


class Source(str, Enum):
    """Who reconstructs the windows."""

    VIDLLM = "vidllm"
    SPOILED = "spoiled"


@dataclass(frozen=True)
class Conditions:
    """How the camera sees, and how windows are chosen.

    Attributes:
        camera_width: of its images, px.
        calibrated: the session knows its intrinsics.
        keyframe_motion: of `WindowSettings`; None takes the default.
    """

    camera_width: int = 112
    calibrated: bool = False
    keyframe_motion: float | None = None


@dataclass(frozen=True)
class WalkRun:
    """One walk through one room, with what came of it.

    Attributes:
        sample: the truth.
        results: one a window.
        poses: of the frames in windows, as first published, (S, 4, 4).
        chained: the same where windows are chained by one frame.
        truth: the same in truth.
        ids: who was who.
        map_error_m: median distance of map points from the true surface.
        map_points: in the map at the end.
        keyframes: frames that were kept.
        waited_s: time that the session took.
    """

    sample: SceneSample
    results: list[WindowResult]
    poses: np.ndarray
    chained: np.ndarray
    truth: np.ndarray
    ids: IdentityScore
    map_error_m: float
    map_points: int
    keyframes: int
    waited_s: float


def walk(
    frames: Annotated[int, typer.Option(min=16, help="frames of a walk, ten a second")] = 200,
    room: Annotated[list[int] | None, typer.Option(help="seed of a room, may be repeated")] = None,
    source: Annotated[Source, typer.Option(help="the network, or the truth spoiled")] = (
        Source.SPOILED
    ),
    camera_width: Annotated[
        int, typer.Option(min=28, help="width of the camera's images, px; height is 3/4 of it")
    ] = 112,
    calibrated: Annotated[bool, typer.Option(help="the session knows the intrinsics")] = False,
    keyframe_motion: Annotated[
        float | None,
        typer.Option(min=0.0, help="of keyframes; the session's default"),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="folder of weights; the bundled ones")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto")] = "auto",
    out: Annotated[Path | None, typer.Option(help="report, .json")] = None,
    picture: Annotated[Path | None, typer.Option(help="the paths from above, .png")] = None,
) -> None:
    """Walk through unseen rooms; measure drift, against chained windows, and lasting ids."""
    from vidllm_ros.cli.output_files import check_file_target, write_json

    for option, path, suffix in (("--out", out, ".json"), ("--picture", picture, ".png")):
        if path is not None:
            check_file_target(option, path, suffix)
    seeds = room or [FIRST_ROOM + 3]
    runs = []
    conditions = Conditions(camera_width, calibrated, keyframe_motion)
    for seed in seeds:
        run = run_walk(seed, frames, source, model, device, conditions)
        runs.append(run)
        entry = entry_of(run)
        note(
            f"room {seed}: {len(run.results)} windows, {entry['registered']['path_m']:.2f} m; "
            f"error {entry['registered']['error_m']:.3f} m "
            f"({entry['registered']['percent_of_path']:.1f} % drift), "
            f"chained {entry['chained']['error_m']:.3f} m "
            f"({entry['chained']['percent_of_path']:.1f} %), "
            f"{run.ids.switches} id switches over {run.ids.objects} objects"
        )
    report = report_of(runs, source, conditions)
    if out is not None:
        write_json(out, report)
    if picture is not None:
        from vidllm_ros.cli.walk_picture import draw_walks

        draw_walks(picture, [(r.sample.scene_id, r.truth, r.poses, r.chained) for r in runs])
    note(
        f"all: error {report['error_m']:.3f} m, chained {report['chained_error_m']:.3f} m; drift "
        f"{report['drift_percent']:.1f} % of the path, chained "
        f"{report['chained_drift_percent']:.1f} %; "
        f"{report['id_switches_per_object']:.2f} id switches an object"
    )


def run_walk(
    seed: int,
    frames: int,
    source: Source,
    model: Path | None,
    device: str,
    conditions: Conditions,
) -> WalkRun:
    """Render a walk and lead a session along it."""
    from vidllm_ros.cli.spoiled_truth import SpoiledTruth
    from vidllm_ros.data import synthrooms

    width = conditions.camera_width
    sample = synthrooms.make_scene(seed, frames=frames, height=width * 3 // 4, width=width)
    backend: Backend
    if source is Source.SPOILED:
        backend = SpoiledTruth(sample, seed=seed)
    else:
        backend = load_backend(BackendName.VIDLLM, model or BUNDLED_MODEL, device).backend
    return lead(sample, backend, conditions)


def lead(sample: SceneSample, backend: Backend, conditions: Conditions | None = None) -> WalkRun:
    """Show a walk to a session frame by frame and measure what it says."""
    import numpy as np

    from vidllm_ros.cli.walk_measures import (
        IdentityScore,
        boxes_in_room,
        chained_trajectory,
        map_error_m,
        trajectory_of,
    )
    from vidllm_ros.geometry.transforms import invert_transform
    from vidllm_ros.streaming.session import Session, SessionSettings
    from vidllm_ros.streaming.window import WindowSettings

    conditions = conditions or Conditions()
    window = WindowSettings()
    if conditions.keyframe_motion is not None:
        window = replace(window, keyframe_motion=conditions.keyframe_motion)
    session, ids = Session(backend, SessionSettings(window=window)), IdentityScore()
    results: list[WindowResult] = []
    place_of = {stamp: i for i, stamp in enumerate(sample.frames.stamps_ns)}
    begin = time.perf_counter()
    for i in range(len(sample)):
        added = session.add_frame(
            sample.frames.stamps_ns[i],
            sample.frames.images[i],
            sample.frames.frame_id,
            sample.K[i] if conditions.calibrated else None,
        )
        is_last = i == len(sample) - 1
        result = session.process_next(partial=True) if added.is_ready or is_last else None
        if result is not None:
            results.append(result)
            newest = place_of[result.reconstruction.stamps_ns[-1]]
            ids.add(boxes_in_room(result, sample.T_world_camera[newest]), sample.objects)
    waited_s = time.perf_counter() - begin
    poses = trajectory_of(results)
    chained = chained_trajectory([result.reconstruction for result in results])
    stamps = sorted(poses)
    truth = sample.T_world_camera[[place_of[stamp] for stamp in stamps]]
    rng = np.random.default_rng(0)
    points = session.cloud.points
    chosen = rng.permutation(len(points))[:MAP_POINTS]
    T_room_map = truth[0] @ invert_transform(poses[stamps[0]])
    return WalkRun(
        sample=sample,
        results=results,
        poses=np.stack([poses[stamp] for stamp in stamps]),
        chained=np.stack([chained[stamp] for stamp in stamps]),
        truth=truth,
        ids=ids,
        map_error_m=map_error_m(points[chosen], T_room_map, true_surface(sample)),
        map_points=len(points),
        keyframes=session.counts.kept,
        waited_s=waited_s,
    )


def true_surface(sample: SceneSample) -> np.ndarray:
    """Return points of the surfaces a walk shows, (N, 3), m, in the room."""
    import numpy as np

    from vidllm_ros.geometry.camera import unproject
    from vidllm_ros.geometry.transforms import transform_points

    points = transform_points(
        sample.T_world_camera,
        unproject(sample.depth, sample.K).reshape(len(sample), -1, 3),
    ).reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    return points[np.random.default_rng(1).permutation(len(points))[:SURFACE_POINTS]]


def entry_of(run: WalkRun) -> dict[str, Any]:
    """Return a run's numbers."""
    import numpy as np

    from vidllm_ros.cli.walk_measures import measure_drift

    stages = {name for result in run.results for name in result.timings_s}
    times = {
        name: float(np.median([r.timings_s[name] for r in run.results if name in r.timings_s]))
        for name in sorted(stages)
    }
    network_s = times["reconstruct"] + times["detect"]
    return {
        "room": run.sample.scene_id,
        "frames": len(run.truth),
        "keyframes": run.keyframes,
        "windows": len(run.results),
        "worlds": len({result.world_index for result in run.results}),
        "registered": asdict(measure_drift(run.poses, run.truth)),
        "chained": asdict(measure_drift(run.chained, run.truth)),
        "objects": run.ids.objects,
        "id_switches": run.ids.switches,
        "id_switches_per_object": run.ids.switches_per_object,
        "map_points": run.map_points,
        "map_error_m": run.map_error_m,
        "timings_s": times,
        "around_the_network": (sum(times.values()) - network_s) / network_s,
        "seconds": run.waited_s,
    }


def report_of(
    runs: Sequence[WalkRun], source: Source, conditions: Conditions | None = None
) -> dict[str, Any]:
    """Return means over the rooms, and each room's numbers."""
    import numpy as np

    from vidllm_ros.cli.spoiled_truth import Spoiling

    entries = [entry_of(run) for run in runs]
    objects = sum(entry["objects"] for entry in entries)
    switches = sum(entry["id_switches"] for entry in entries)

    def mean(kind: str, name: str) -> float:
        return float(np.mean([entry[kind][name] for entry in entries]))

    return {
        "source": source.value,
        **asdict(conditions or Conditions()),
        "spoiling": asdict(Spoiling()) if source is Source.SPOILED else None,
        "error_m": mean("registered", "error_m"),
        "chained_error_m": mean("chained", "error_m"),
        "drift_percent": mean("registered", "percent_of_path"),
        "chained_drift_percent": mean("chained", "percent_of_path"),
        "turn_deg": mean("registered", "turn_deg"),
        "objects": objects,
        "id_switches": switches,
        "id_switches_per_object": switches / objects if objects else float("nan"),
        "map_error_m": float(np.mean([entry["map_error_m"] for entry in entries])),
        "rooms": entries,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm bench walk` and return its exit code."""
    return run_command(walk, "bench walk", argv)


if __name__ == "__main__":
    raise SystemExit(main())
