# SPDX-License-Identifier: Apache-2.0
"""What a model may see of a ScanNet scene: 32 posed frames, and boxes where the rules give some.

The frames' poses are in the scan's world, the boxes in the axis-aligned one: the first frame's
true pose, aligned, is the only link, and "video only" is not strictly true of a benchmark that
asks for boxes. Next: qa_benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vidllm_ros.data.annotations.proposals import read_proposals
from vidllm_ros.data.annotations.scannet_scene import Instance, ScannetScene, read_scene
from vidllm_ros.data.scannet_frames import load_scannet_view
from vidllm_ros.evaluation.predictor import Proposal, SceneView

FRAMES = 32
FRAMES_LAYOUT = """posed_images/{scene}/00000.jpg .png .txt    colour, depth in mm, camera to scan
posed_images/{scene}/intrinsic.txt          4 x 4"""
GIVEN_FRAMES = "32 frames evenly over those with a pose, their intrinsics"
GIVEN_PROPOSALS = (
    f"{GIVEN_FRAMES}, the first frame's true pose in the axis-aligned world, and where the data "
    "has them Mask3D's boxes without labels"
)
GIVEN_TRUE_BOXES = (
    f"{GIVEN_FRAMES}, the first frame's true pose in the axis-aligned world, and the true boxes "
    "of all objects without labels"
)
OpenScene = Callable[[str], SceneView]


def open_frames(data_dir: Path) -> OpenScene:
    """Return what opens a scene for questions: frames alone, no pose and no boxes."""

    def open_scene(scene_id: str) -> SceneView:
        return SceneView(scene_id, load_scannet_view(data_dir, scene_id, FRAMES).frames)

    return open_scene


def open_with_proposals(data_dir: Path) -> OpenScene:
    """Return what opens a scene for boxes: the aligned first pose, Mask3D's boxes if present."""

    def open_scene(scene_id: str) -> SceneView:
        found = read_proposals(data_dir, scene_id) or ()
        boxes = tuple(Proposal(item.row, item.aabb) for item in found)
        return _with_boxes(data_dir, scene_id, boxes)

    return open_scene


def open_with_true_boxes(data_dir: Path) -> OpenScene:
    """Return what opens a scene for Nr3D and Sr3D: every annotated object's true box, no label.

    The protocol gives boxes, not classes: with them most utterances could be solved by their noun.
    An object whose vertices later ones took has no box and is no candidate; `without_box` names
    it, and an utterance that means it is refused by its reader.
    """

    def open_scene(scene_id: str) -> SceneView:
        found = read_scene(data_dir, scene_id).instances
        boxes = [Proposal(item.object_id, item.aabb) for item in found if item.aabb is not None]
        return _with_boxes(data_dir, scene_id, tuple(boxes))

    return open_scene


def without_box(scene: ScannetScene) -> tuple[Instance, ...]:
    """Return the annotated objects that have no vertices and so cannot be chosen."""
    return tuple(item for item in scene.instances if item.aabb is None)


def _with_boxes(data_dir: Path, scene_id: str, boxes: tuple[Proposal, ...]) -> SceneView:
    posed = load_scannet_view(data_dir, scene_id, FRAMES)
    T_aligned_scan = read_scene(data_dir, scene_id).T_aligned_scan
    return SceneView(scene_id, posed.frames, T_aligned_scan @ posed.T_scan_camera[0], boxes)
