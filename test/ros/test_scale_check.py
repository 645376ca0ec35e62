# SPDX-License-Identifier: Apache-2.0
"""The ratio of measured to predicted depth is found pixel by pixel, and only where stamps meet."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vidllm_ros.geometry.camera import K_from_fov
from vidllm_ros.geometry.image import ResizePlan, plan_resize, resize_frames
from vidllm_ros.ros.calibration import Calibration, Rectifier
from vidllm_ros.ros.pixel_grid import CameraView, grid_of
from vidllm_ros.ros.scale_check import KEPT, ScaleCheck
from vidllm_ros.streaming.backend import StandInBackend
from vidllm_ros.structures import Frames, Reconstruction

FRAMES = Frames(np.zeros((4, 84, 112, 3), np.uint8), (100, 200, 300, 400))
SIZE, PATCH = 112, 14


class CuttingBackend(StandInBackend):
    """Prepares frames as the network does, in one of its three ways."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def prepare(self, frames: Frames, shrink: float = 1.0) -> Frames:
        return resize_frames(frames, int(SIZE * shrink), PATCH, self.mode)

    def reconstruct(self, frames: Frames, shrink: float = 1.0) -> Reconstruction:
        return super().reconstruct(self.prepare(frames, shrink))

    def forget_frames(self) -> None:
        pass


def steep_depth(height: int, width: int) -> NDArray[np.float32]:
    """A slanted wall: 1 px of a 100 px image beside the right one is 3 % wrong."""
    v, u = np.mgrid[0:height, 0:width]
    return np.asarray(np.exp(3.0 * u / width + 3.0 * v / height), np.float32)


def as_seen(depth: NDArray[np.float32], plan: ResizePlan) -> NDArray[np.float32]:
    size = (plan.resized_width, plan.resized_height)
    resized = cv2.resize(depth, size, interpolation=cv2.INTER_LINEAR)
    box = resized[plan.top : plan.top + plan.height, plan.left : plan.left + plan.width]
    return np.asarray(box, np.float32)


def window_of(depth: NDArray[np.float32]) -> Reconstruction:
    rec = StandInBackend().reconstruct(Frames(np.zeros((1, *depth.shape, 3), np.uint8), (100,)))
    blank = np.zeros((1, *depth.shape, 3), np.uint8)
    return replace(
        rec, images=blank, depth=depth[None], valid=np.ones((1, *depth.shape), bool),
        confidence=np.ones((1, *depth.shape), np.float32),
    )  # fmt: skip


def spread_of(check: ScaleCheck) -> float:
    return float(check.words.split("spread ")[1].split(",")[0])


def test_ratio_ignores_what_is_unknown() -> None:
    rec = StandInBackend().reconstruct(FRAMES)
    rec = replace(rec, valid=rec.valid.copy())
    rec.depth[:, :, 50:] = 99.0
    rec.valid[:, :, 50:] = False
    check = ScaleCheck()
    assert check.compare(rec) is None
    measured = np.full((480, 640), StandInBackend.wall_m * 1.3, np.float32)
    measured[:100] = np.nan
    grid = grid_of(StandInBackend(), CameraView(84, 112))
    check.offer(200, measured, grid)
    check.offer(250, measured * 5, grid)
    assert check.compare(rec) == pytest.approx(1.3, rel=1e-6)
    assert "1.30 x ours" in check.words


@pytest.mark.parametrize("mode", ["width", "shorter", "square"])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (360, 641)])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_what_the_network_cuts_off_is_not_compared(
    mode: str, height: int, width: int, share: float
) -> None:
    """Portrait images lose top and bottom, square ones the sides; the depth camera does not."""
    measured = steep_depth(height, width)
    rec = window_of(as_seen(measured, plan_resize(height, width, SIZE, PATCH, mode)))
    coarse = measured if share == 1.0 else steep_depth(round(height * share), round(width * share))
    check = ScaleCheck()
    check.offer(100, 1.25 * coarse, grid_of(CuttingBackend(mode), CameraView(height, width)))
    assert check.compare(rec) == pytest.approx(1.25, rel=0.01)
    assert spread_of(check) <= 0.03


def test_comparing_whole_images_would_be_wrong() -> None:
    """The case above can fail: what the mending was for."""
    measured = steep_depth(640, 480)
    rec = window_of(as_seen(measured, plan_resize(640, 480, SIZE, PATCH, "width")))
    check = ScaleCheck()
    check.offer(100, measured, grid_of(StandInBackend(), CameraView(640, 480)))
    check.compare(rec)
    assert spread_of(check) > 0.2


def test_a_window_cut_for_lack_of_memory_is_compared_too() -> None:
    measured = steep_depth(480, 640)
    rec = window_of(as_seen(measured, plan_resize(480, 640, SIZE // 2, PATCH, "width")))
    check = ScaleCheck()
    check.offer(100, measured, grid_of(CuttingBackend("width"), CameraView(480, 640)))
    assert check.compare(rec) == pytest.approx(1.0, rel=0.02)
    assert spread_of(check) <= 0.05


def test_depth_of_a_distorted_camera_is_read_where_the_frame_was() -> None:
    """Frames are undistorted before the network, the depth image is not."""
    height, width = 480, 640
    K = K_from_fov(1.0, 1.3, height, width)
    info = Calibration(K, (-0.3, 0.1, 0.0, 0.0, 0.0), "plumb_bob", width, height)
    rectifier = Rectifier(info)
    measured = steep_depth(height, width)  # in the lens's own pixels
    assert rectifier._maps is not None
    straight = np.asarray(cv2.remap(measured, *rectifier._maps, cv2.INTER_LINEAR), np.float32)
    rec = window_of(as_seen(straight, plan_resize(height, width, SIZE, PATCH, "width")))
    backend = CuttingBackend("width")
    check = ScaleCheck()
    check.offer(100, measured, grid_of(backend, CameraView(height, width, rectifier)))
    assert check.compare(rec) == pytest.approx(1.0, rel=0.01)
    straight_spread = spread_of(check)
    assert straight_spread <= 0.03
    check.offer(100, measured, grid_of(backend, CameraView(height, width)))
    check.compare(rec)
    assert spread_of(check) > 2 * max(straight_spread, 0.01)


def test_places_outside_of_the_depth_image_are_unknown() -> None:
    grid = grid_of(StandInBackend(), CameraView(4, 4))
    outside = replace(grid, source=grid.source + 0.5)
    read = outside.read_source(np.ones((8, 8), np.float32))
    assert np.isnan(read[2:]).all()
    assert np.isnan(read[:, 2:]).all()
    assert (read[:2, :2] == 1).all()


def test_depth_that_meets_no_frame_is_said() -> None:
    rec = StandInBackend().reconstruct(FRAMES)
    check = ScaleCheck()
    assert check.compare(rec) is None
    assert check.words == ""
    check.offer(
        150, np.ones((84, 112), np.float32), grid_of(StandInBackend(), CameraView(84, 112))
    )
    assert check.compare(rec) is None
    assert "none with the stamp of a frame" in check.words


def test_old_depths_are_forgotten() -> None:
    check = ScaleCheck()
    grid = grid_of(StandInBackend(), CameraView(4, 4))
    for stamp in range(KEPT + 10):
        check.offer(stamp, np.ones((4, 4), np.float32), grid)
    assert min(check._depths) == 10


def test_depths_of_a_window_outlast_its_computation() -> None:
    """A window may take seconds; a depth camera of 30 Hz fills what is kept in two."""
    rec = StandInBackend().reconstruct(FRAMES)
    grid = grid_of(StandInBackend(), CameraView(84, 112))
    wall = np.full((84, 112), StandInBackend.wall_m, np.float32)
    check = ScaleCheck()
    for stamp in FRAMES.stamps_ns[:-1]:
        check.offer(stamp, wall, grid)
    check.hold(FRAMES.stamps_ns)
    check.offer(FRAMES.stamps_ns[-1], wall, grid)  # later than its image
    for stamp in range(1000, 1000 + KEPT):
        check.offer(stamp, 9 * wall, grid)
    assert check.compare(rec) == pytest.approx(1.0)
    assert "4 frames" in check.words


def test_keyframes_of_long_ago_keep_their_depths_and_the_others_are_given_back() -> None:
    grid = grid_of(StandInBackend(), CameraView(4, 4))
    check = ScaleCheck()
    for turn in range(50):
        check.offer(turn, np.ones((4, 4), np.float32), grid)
        check.hold((0, turn, turn + 10**6))
        for stamp in range(KEPT):
            check.offer(1000 * turn + 10**9 + stamp, np.ones((4, 4), np.float32), grid)
    assert check._held[0] is not None
    assert set(check._held) == {0, 49, 49 + 10**6}
    assert len(check._depths) == KEPT


def test_a_driver_that_stamped_right_is_not_accused_of_its_stamps() -> None:
    grid = grid_of(StandInBackend(), CameraView(84, 112))
    wall = np.full((84, 112), StandInBackend.wall_m, np.float32)
    check = ScaleCheck()
    check.offer(200, wall, grid)
    check.compare(StandInBackend().reconstruct(FRAMES))
    later = replace(FRAMES, stamps_ns=(500, 600, 700, 800))
    assert check.compare(StandInBackend().reconstruct(later)) is None
    assert "1.00 x ours" in check.words
