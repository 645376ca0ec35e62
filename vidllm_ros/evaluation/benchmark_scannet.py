# SPDX-License-Identifier: Apache-2.0
"""ScanNet reconstruction: a metric cloud from a video of 32 frames against the scanned mesh.

NeuralRecon's measures (thinned to 2 cm, hits within 5 cm), but its masking renders a mesh, which a
feed-forward model does not give: here the truth is cut to what the 32 frames see and the cloud to
what they can judge (reconstruction_masks.py). The cloud is laid into the scan by the first frame's
true pose alone, rigidly and without scale. Numbers of the whole cloud against the whole scan stand
beside. Next: benchmark_synthrooms.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.scannet_frames import (
    PosedFrames,
    list_scenes,
    load_mesh_vertices,
    load_scannet_view,
    mesh_file,
)
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
from vidllm_ros.evaluation.predictor import Predictor, SceneView, require_ability
from vidllm_ros.evaluation.reconstruction_masks import judged_points, seen_points
from vidllm_ros.evaluation.reconstruction_metrics import (
    HIT_M,
    THINNING_M,
    CloudScore,
    f_score,
    nearest_distances,
    voxel_downsample,
)
from vidllm_ros.evaluation.scannet_views import FRAMES, GIVEN_FRAMES
from vidllm_ros.geometry.transforms import transform_points

CLOUD = "cloud"
NOTHING_M = 5.0  # distance that stands for "no point at all"
VARIANT = (
    "ScanNet, 32 frames evenly over the frames with a pose, clouds thinned to 2 cm, hits nearer"
    " than 5 cm, mean over scenes; prediction laid by the true pose of the first frame (rigid, "
    "no scale, no ICP). Masking, ours: comp and recall ask for the vertices of *_vh_clean_2.ply"
    " that at least one of the 32 frames sees (inside the image, at most 5 cm behind its depth,"
    " within 5 m); recall searches all predicted points for them, judged or not, and so does "
    "comp; acc and precision ask of the predicted points that at least one frame judges (at a "
    "pixel with a depth within 5 m, at most 50 cm behind the nearest predicted point there, "
    "however far from the true one) whether any vertex is near. So a stray point in front takes"
    " right ones behind it out of precision, and a layer more than 50 cm behind another is not "
    "judged from there: judged_share says how much is. *_whole_scan: all points, all vertices. "
    "Not NeuralRecon's rendered and re-fused mesh, so not comparable digit by digit to its "
    "table. A cloud of which nothing is judged hits nothing and counts as 5 m off."
)


class ScanTruth:
    """Mesh and frames of one scene, read when they are needed."""

    def __init__(self, data_dir: Path, scene_id: str, mesh: Path) -> None:
        self.data_dir, self.scene_id, self.mesh = data_dir, scene_id, mesh

    def posed(self) -> PosedFrames:
        return load_scannet_view(self.data_dir, self.scene_id, FRAMES)

    def vertices(self) -> NDArray[np.float64]:
        return load_mesh_vertices(self.mesh)

    def judged(self, points: NDArray[np.float64], posed: PosedFrames) -> NDArray[np.float64]:
        """Return the predicted points that the frames judge; thinned ones, in the scan's world."""
        mask = judged_points(points, posed.load_depths(), posed.K_depth, posed.T_scan_camera)
        return points[mask]

    def seen(self, vertices: NDArray[np.float64], posed: PosedFrames) -> NDArray[np.float64]:
        """Return the vertices that the frames see."""
        mask = seen_points(vertices, posed.load_depths(), posed.K_depth, posed.T_scan_camera)
        if not mask.any():
            raise ValueError(
                f"{self.mesh}: expected its {len(vertices)} vertices to be seen by frames of "
                f"{self.scene_id}, none is; mesh and poses do not belong together"
            )
        return vertices[mask]


def load(data_dir: Path, split: str) -> Cases:
    """List the scenes; frames and meshes are read one by one."""

    def open_scene(scene_id: str) -> SceneView:
        posed = load_scannet_view(data_dir, scene_id, FRAMES)
        return SceneView(scene_id, posed.frames, posed.T_scan_camera[0])

    items = [
        Case(scene, scene, {}, ScanTruth(data_dir, scene, mesh_file(data_dir, scene)))
        for scene in list_scenes(data_dir, split)
    ]
    return cases_from_items(items, open_scene, split)


def predict(predictor: Predictor, seen: Any, case: Case) -> Record:
    """Ask for the cloud, (N, 3), m, in the first frame's optical frame."""
    cloud = np.asarray(require_ability(predictor, "cloud")(seen), np.float32)
    record = {CASE_ID: case.case_id, CLOUD: cloud}
    record_array(record, CLOUD, (None, 3))
    return record


def score(cases: Cases, predictions: Mapping[str, Record]) -> Scores:
    """Score every scene and take means."""
    require_predictions(cases, predictions)
    per_case: dict[str, dict[str, float | str]] = {}
    for case in cases:
        posed, vertices = case.truth.posed(), case.truth.vertices()
        cloud = record_array(predictions[case.case_id], CLOUD, (None, 3))
        points = len(cloud)
        cloud = voxel_downsample(transform_points(posed.T_scan_camera[0], cloud), THINNING_M)
        seen, judged = case.truth.seen(vertices, posed), case.truth.judged(cloud, posed)
        whole = voxel_downsample(vertices, THINNING_M)
        masked = scene_score(judged, whole, voxel_downsample(seen, THINNING_M), cloud)
        per_case[case.case_id] = {
            **asdict(masked),
            **{
                f"{k}_whole_scan": v
                for k, v in asdict(scene_score(cloud, whole, whole, cloud)).items()
            },
            "seen_share": len(seen) / len(vertices),
            "judged_share": len(judged) / max(len(cloud), 1),
            "points": points,
        }
    names = [name for name in next(iter(per_case.values())) if name != "points"]
    values = {name: float(np.mean([row[name] for row in per_case.values()])) for name in names}
    values["scenes"] = len(per_case)
    return Scores(values, per_case, VARIANT, "f", True, ("f", "acc_m", "comp_m"))


def scene_score(
    judged: NDArray[np.float64],
    truth: NDArray[np.float64],
    wanted: NDArray[np.float64],
    cloud: NDArray[np.float64],
) -> CloudScore:
    """Score thinned clouds; one without points is as far off as can be and hits nothing.

    Args:
        judged: predicted points of which precision is asked, (N, 3), m.
        truth: all true points, (M, 3), m: near any of them a predicted one is right.
        wanted: the true points that have to be found, (W, 3), m.
        cloud: all predicted points, among which those are searched, (P, 3), m.
    """
    if len(judged) == 0:
        return CloudScore(NOTHING_M, NOTHING_M, 0.0, 0.0, 0.0)
    to_truth, _ = nearest_distances(judged, truth, voxel_m=None)
    _, to_ours = nearest_distances(cloud, wanted, voxel_m=None)
    score = f_score(to_truth, to_ours, HIT_M)
    means = float(to_truth.mean()), float(to_ours.mean())
    return CloudScore(*means, score.precision, score.recall, score.f)


SCANNET_RECONSTRUCTION = Benchmark(
    name="scannet-reconstruction",
    title="ScanNet reconstruction",
    splits=("test", "val"),
    load=load,
    predict=predict,
    score=score,
    layout=(
        "posed_images/<scene>/00000.{jpg,png,txt}, intrinsic.txt, depth_intrinsic.txt; "
        "scans/<scene>/<scene>_vh_clean_2.ply; scannetv2_<split>.txt"
    ),
    source="NeuralRecon tools/evaluation.py; masking ours",
    given=f"{GIVEN_FRAMES}, the first frame's true pose in the scan's world",
    array_fields=(CLOUD,),
)
