# SPDX-License-Identifier: Apache-2.0
import inspect

import cv2
import numpy as np
import pytest

from vidllm_ros.cli import frames_picture, overview_picture
from vidllm_ros.cli.frames_picture import SeenFrame, depth_span, draw_frames
from vidllm_ros.cli.overview_picture import SceneView, draw_overview, label_colors
from vidllm_ros.structures import GroundedBox


def make_view(title="seen", labels=("bed", "chair")):
    rng = np.random.default_rng(0)
    points = rng.uniform([0, 0, 0], [4, 3, 0.05], (4000, 3)).astype(np.float32)
    rgb = np.tile(np.array([[20, 200, 30]], np.uint8), (4000, 1))
    T_world_camera = np.tile(np.eye(4), (6, 1, 1))
    T_world_camera[:, :3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T_world_camera[:, 0, 3] = np.linspace(1, 2, 6)
    T_world_camera[:, 2, 3] = 1.4
    boxes = tuple(
        GroundedBox(label, 0.9, np.array([1.0 + i, 1.0, 0.4]), np.array([0.8, 0.6, 0.8]))
        for i, label in enumerate(labels)
    )
    outline = np.array([[0.0, 0], [4, 0], [4, 3], [0, 3]])
    return SceneView(title, points, rgb, T_world_camera, boxes, outline)


def test_overview_shows_cloud_beside_truth(tmp_path):
    draw_overview(tmp_path / "one.png", [make_view()])
    draw_overview(tmp_path / "two.png", [make_view(), make_view("truth")], "heading")
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))
    assert two.shape[1] > 1.7 * one.shape[1]
    green = (two[..., 1] > 180) & (two[..., 0] < 60) & (two[..., 2] < 60)
    half = two.shape[1] // 2
    assert green[:, :half].sum() > 10_000  # the floor's colour, in both panels
    assert green[:, half:].sum() > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_overview_leaves_out_what_hangs_above_the_camera(tmp_path):
    view = make_view(labels=())
    view.points[:, 2] += 2.5
    draw_overview(tmp_path / "ceiling.png", [view])
    picture = cv2.imread(str(tmp_path / "ceiling.png"))
    green = (picture[..., 1] > 180) & (picture[..., 0] < 60) & (picture[..., 2] < 60)
    assert green.sum() == 0


def test_overview_of_nothing_seen_still_draws(tmp_path):
    bare = SceneView(
        "nothing", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.eye(4)[None]
    )
    draw_overview(tmp_path / "bare.png", [bare])
    assert cv2.imread(str(tmp_path / "bare.png")) is not None
    with pytest.raises(ValueError, match="views: expected at least one"):
        draw_overview(tmp_path / "none.png", [])


def test_overview_survives_flat_boxes_and_crowded_labels(tmp_path):
    view = make_view(labels=("picture",) * 12)
    flat = tuple(
        GroundedBox(box.label, 0.5, view.boxes[0].center, np.array([0.8, 0.0, 0.0]))
        for box in view.boxes
    )
    crowded = SceneView("crowd", view.points, view.rgb, view.T_world_camera, flat)
    draw_overview(tmp_path / "crowd.png", [crowded])


def test_a_label_has_one_colour_and_neighbours_differ():
    colors = label_colors(["table", "bed", "bed", "chair"])
    assert set(colors) == {"bed", "chair", "table"}
    assert len(set(colors.values())) == 3


def test_frames_share_one_colour_scale(tmp_path):
    image = np.full((60, 80, 3), 128, np.uint8)
    near = np.full((30, 40), 1.0, np.float32)
    far = np.full((60, 80), 3.0, np.float32)
    far[0] = np.nan
    frames = [SeenFrame(image, near, far, 0.1 * i) for i in range(9)]
    draw_frames(tmp_path / "frames.png", frames, columns=4)
    low, high = depth_span(frames)
    assert (low, high) == pytest.approx((1.0, 3.0))
    with_truth = cv2.imread(str(tmp_path / "frames.png"))
    draw_frames(tmp_path / "bare.png", [SeenFrame(image, near)])
    assert with_truth.shape[1] > cv2.imread(str(tmp_path / "bare.png")).shape[1]


def test_frames_without_any_depth_are_drawn_grey(tmp_path):
    unknown = np.full((30, 40), np.nan, np.float32)
    draw_frames(tmp_path / "x.png", [SeenFrame(np.zeros((30, 40, 3), np.uint8), unknown)])
    picture = cv2.imread(str(tmp_path / "x.png"))
    grey = np.abs(picture.astype(int) - 0xD9).max(axis=2) <= 2
    assert grey.mean() > 0.15


def test_no_global_state_of_pyplot_is_touched():
    for module in (overview_picture, frames_picture):
        assert "pyplot" not in inspect.getsource(module)
