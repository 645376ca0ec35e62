# SPDX-License-Identifier: Apache-2.0
"""Followed corners correct poses in a rendered room; where they cannot, nothing is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms import make_scene
from vidllm_ros.geometry.corner_follower import CornerFollower, work_image
from vidllm_ros.geometry.tracks import Tracks
from vidllm_ros.network import pose_refinement
from vidllm_ros.network.metric_geometry import MetricGeometry
from vidllm_ros.network.pose_refinement import refine_poses
from vidllm_ros.structures import Corners


@pytest.fixture(scope="module")
def room() -> SceneSample:
    return make_scene(1_000_011, frames=32).select(range(12))


def predicted(room: SceneSample, depth: np.ndarray, K: np.ndarray | None = None) -> MetricGeometry:
    """A network that sees depth but thinks that the camera stood still."""
    frames = len(depth)
    return MetricGeometry(
        depth=torch.as_tensor(np.nan_to_num(depth, nan=0.0))[None],
        valid=torch.as_tensor(np.isfinite(depth))[None],
        K=torch.as_tensor(room.K if K is None else K).float()[None],
        T_world_camera=torch.eye(4).repeat(1, frames, 1, 1),
        scale=torch.ones(1),
        spread=torch.zeros(1),
    )


def rotation_errors(T_world_camera: torch.Tensor, room: SceneSample) -> np.ndarray:
    ours = T_world_camera[0].double().numpy()
    truth = np.linalg.inv(room.T_world_camera[0]) @ room.T_world_camera
    cosine = (np.einsum("sij,sij->s", ours[:, :3, :3], truth[:, :3, :3]) - 1.0) / 2.0
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def stamps(room: SceneSample) -> list[tuple[int, ...]]:
    return [room.frames.stamps_ns]


def test_poses_are_found_from_pictures_and_rough_depth(room: SceneSample) -> None:
    rng = np.random.default_rng(0)
    rough = (room.depth * np.exp(rng.normal(0.0, 0.1, (12, 1, 1)))).astype(np.float32)
    before = predicted(room, rough)
    after = refine_poses(before, room.frames.images[None], room.K[None], stamps(room))
    assert np.median(rotation_errors(before.T_world_camera, room)) > 5.0
    assert np.median(rotation_errors(after.T_world_camera, room)) < 1.5
    np.testing.assert_allclose(after.T_world_camera[0, 0], np.eye(4), atol=1e-6)
    assert after.T_world_camera.dtype == before.T_world_camera.dtype


def test_depth_of_a_frame_is_pulled_towards_the_others(room: SceneSample) -> None:
    odd = room.depth.copy()
    odd[5] *= 1.35
    after = refine_poses(
        predicted(room, odd), room.frames.images[None], room.K[None], stamps(room)
    )
    seen = np.isfinite(room.depth[5])
    ratio = np.median(after.depth[0, 5].numpy()[seen] / room.depth[5][seen])
    assert ratio < 1.2


def test_known_intrinsics_replace_the_predicted_ones(room: SceneSample) -> None:
    wrong = room.K.copy()
    wrong[:, [0, 1], [0, 1]] *= np.linspace(0.8, 1.1, 12)[:, None]
    metric = predicted(room, room.depth, wrong)
    known = refine_poses(metric, room.frames.images[None], room.K[None], stamps(room))
    np.testing.assert_allclose(known.K[0], room.K, rtol=1e-6)
    assert torch.equal(known.scale, metric.scale)


def test_a_guessed_lens_is_corrected_and_takes_depth_and_scale_along(room: SceneSample) -> None:
    """Of a network that takes the lens for 15 % too long and puts all as much too far."""
    spread = np.exp(np.random.default_rng(1).normal(0.0, 0.02, 12))
    wrong = room.K.copy()
    wrong[:, [0, 1], [0, 1]] *= 1.15 * spread[:, None]
    metric = predicted(room, (1.15 * room.depth).astype(np.float32), wrong)
    after = refine_poses(metric, room.frames.images[None], None, stamps(room))
    focal = after.K[0, :, [0, 1], [0, 1]].numpy() / room.K[:, [0, 1], [0, 1]]
    assert np.ptp(focal) < 1e-5  # one lens for the whole window
    assert abs(focal[0, 0] - 1.0) < 0.07
    ratio = 1.15 * np.median(spread)
    np.testing.assert_allclose(after.scale[0], focal[0, 0] / ratio, rtol=1e-4)
    seen = np.isfinite(room.depth)
    np.testing.assert_allclose(
        np.median(after.depth[0].numpy()[seen] / room.depth[seen]), 1.0, atol=0.08
    )
    assert torch.equal(after.K[0, :, :2, 2], metric.K[0, :, :2, 2])
    assert np.median(rotation_errors(after.T_world_camera, room)) < 1.5


def test_corners_followed_through_the_film_do_without_its_pictures(room: SceneSample) -> None:
    """Every other frame, by corners that were followed through all of them."""
    follower, corners = CornerFollower(), []
    for i, image in enumerate(room.frames.images):
        follower.add(work_image(image), image.shape)
        if i % 2 == 0:
            follower.mark()
            corners.append(follower.corners)
    chosen = room.select(range(0, 12, 2))
    before = predicted(chosen, chosen.depth)
    blank = np.full_like(chosen.frames.images, 90)[None]
    after = refine_poses(before, blank, chosen.K[None], stamps(chosen), [corners])
    assert np.median(rotation_errors(before.T_world_camera, chosen)) > 5.0
    assert np.median(rotation_errors(after.T_world_camera, chosen)) < 1.5
    few = [Corners(seen.ids[:3], seen.uv[:3]) for seen in corners]
    kept = refine_poses(before, blank, chosen.K[None], stamps(chosen), [few])
    assert torch.equal(kept.T_world_camera, before.T_world_camera)


def test_blank_pictures_keep_what_the_network_said(room: SceneSample) -> None:
    metric = predicted(room, room.depth)
    blank = np.full_like(room.frames.images, 90)[None]
    after = refine_poses(metric, blank, room.K[None], stamps(room))
    assert torch.equal(after.T_world_camera, metric.T_world_camera)
    assert torch.equal(after.depth, metric.depth)
    guessed = refine_poses(metric, blank, None, stamps(room))
    np.testing.assert_allclose(guessed.K[0], room.K, rtol=1e-6)
    assert torch.equal(guessed.scale, metric.scale)


def test_frames_without_depth_are_refused(room: SceneSample) -> None:
    metric = predicted(room, room.depth[:4])
    with pytest.raises(ValueError, match="dense_frames"):
        refine_poses(metric, room.frames.images[None], room.K[None], stamps(room))


def position_errors(T_world_camera: torch.Tensor, room: SceneSample) -> np.ndarray:
    ours = T_world_camera[0].double().numpy()
    truth = np.linalg.inv(room.T_world_camera[0]) @ room.T_world_camera
    return np.linalg.norm(ours[:, :3, 3] - truth[:, :3, 3], axis=1)


def test_points_found_again_bring_a_whole_walk_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    long = make_scene(1_000_012, frames=32)
    rng = np.random.default_rng(0)
    rough = (long.depth * np.exp(rng.normal(0.0, 0.1, (32, 1, 1)))).astype(np.float32)
    given = (predicted(long, rough), long.frames.images[None], long.K[None], stamps(long))
    after = refine_poses(*given)
    monkeypatch.setattr(pose_refinement, "relink", lambda tracks, *_: tracks)
    without = refine_poses(*given)
    errors = [np.mean(position_errors(poses.T_world_camera, long)) for poses in (after, without)]
    assert errors[0] < 0.9 * errors[1], errors


def test_lost_points_are_looked_for_with_the_adjusted_lens_and_depth(
    room: SceneSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = room.K.copy()
    wrong[:, [0, 1], [0, 1]] *= 1.15
    holes = room.depth.copy()
    holes[:, :10] = np.nan
    seen = []
    real = pose_refinement.relink

    def spy(*args: object) -> object:
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(pose_refinement, "relink", spy)
    after = refine_poses(
        predicted(room, holes, wrong), room.frames.images[None], None, stamps(room)
    )
    _, gray, depth, K, adjusted, _ = seen[0]
    assert len(gray) == len(room)
    assert np.isnan(depth[:, :10]).all()
    assert adjusted.focal < 0.99
    np.testing.assert_allclose(K[:, 0, 0] / np.median(wrong[:, 0, 0]), adjusted.focal, rtol=1e-5)
    before = np.median(depth[:, 10:] / holes[:, 10:], axis=(1, 2))
    assert np.abs(np.log(before / adjusted.focal)).max() < 0.2  # the lens, and a frame's own
    assert after.K[0, 0, 0, 0] < wrong[0, 0, 0]


def test_what_contradicts_the_followed_points_is_left_out(
    room: SceneSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (predicted(room, room.depth), room.frames.images[None], room.K[None], stamps(room))
    monkeypatch.setattr(pose_refinement, "relink", lambda tracks, *_: tracks)
    plain = refine_poses(*given)

    def mistaken(tracks: Tracks, *_: object) -> Tracks:
        """Every point is seen in all later frames too, three pixels further each time."""
        frames = 12
        point = np.repeat(np.arange(tracks.points), frames)
        frame = np.tile(np.arange(frames), tracks.points)
        first = np.searchsorted(tracks.point, np.arange(tracks.points))
        uv = tracks.uv[first][point] + 3.0 * frame[:, None]
        known = tracks.point * frames + tracks.frame
        uv[known] = tracks.uv
        sharp = np.broadcast_to(8.0 * np.eye(2), (len(uv), 2, 2)).copy()
        sharp[known] = tracks.sharp
        return Tracks(frame, point, uv, sharp)

    monkeypatch.setattr(pose_refinement, "relink", mistaken)
    misled = refine_poses(*given)
    torch.testing.assert_close(misled.T_world_camera, plain.T_world_camera)
