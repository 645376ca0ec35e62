# SPDX-License-Identifier: Apache-2.0
"""The adjustment finds the minimum: against exact data, scipy's least squares, and outliers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from camera_walk import Walk, angle_deg, walk
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.bundle_adjustment import Trust, adjust
from vidllm_ros.geometry.tracks import Tracks

GENTLE = Trust(pixel_outlier=1e6, depth_outlier=1e6, iterations=60, stop=1e-12)


def spoiled(T_camera_world: np.ndarray, degrees: float = 4.0) -> np.ndarray:
    rng = np.random.default_rng(7)
    out = T_camera_world.copy()
    turn = np.radians(rng.normal(0.0, degrees, (len(out), 3)))
    out[1:, :3, :3] = (Rotation.from_rotvec(turn).as_matrix() @ out[:, :3, :3])[1:]
    out[1:, :3, 3] += rng.normal(0.0, 0.1, (len(out) - 1, 3))
    return out


def longer_lens(made: Walk, by: float) -> np.ndarray:
    K = made.K.copy()
    K[:, [0, 1], [0, 1]] *= by
    return K


def test_exact_measurements_are_met_exactly() -> None:
    made = walk(noise_px=0.0)
    trust = Trust(acceleration=1e6, iterations=60, stop=1e-12)
    found = adjust(
        made.tracks, made.depth, made.K, spoiled(made.T_camera_world), made.stamps_s, trust
    )
    np.testing.assert_allclose(found.T_camera_world, made.T_camera_world, atol=1e-4)
    np.testing.assert_allclose(found.points, made.points, atol=1e-3)
    assert found.residual_px.max() < 1e-2
    np.testing.assert_allclose(found.depth, made.depth, rtol=1e-3)


def plain_minimum(made: Walk, K: np.ndarray, trust: Trust) -> tuple[float, float]:
    """The same minimum by scipy's dense least squares over rotation vectors: cost and focal."""
    frames, tracks = len(K), made.tracks
    cameras = 6 * (frames - 1)

    def residuals(x: np.ndarray) -> np.ndarray:
        poses = np.concatenate([np.zeros((1, 6)), x[:cameras].reshape(-1, 6)])
        points = x[cameras:-1].reshape(-1, 3)
        log_focal = 0.0 if trust.log_focal is None else x[-1]
        R = Rotation.from_rotvec(poses[:, :3]).as_matrix()
        center = -np.einsum("sji,sj->si", R, poses[:, 3:])
        camera = np.einsum("nij,nj->ni", R[tracks.frame], points[tracks.point])
        camera = camera + poses[tracks.frame, 3:]
        uv = camera[:, :2] / camera[:, 2:] * K[0, 0, 0] * np.exp(log_focal) + K[0, :2, 2]
        velocity = np.diff(center, axis=0) / 0.1
        bend = np.diff(velocity, axis=0) / (trust.acceleration * 0.1)
        away = (np.log(camera[:, 2]) - np.log(made.depth) - log_focal) / trust.log_depth
        guess = x[-1] / (trust.log_focal or 1.0)
        pixels = ((uv - tracks.uv) / trust.pixel).ravel()
        return np.concatenate([pixels, away, bend.ravel(), [guess]])

    turns = Rotation.from_matrix(made.T_camera_world[1:, :3, :3]).as_rotvec()
    poses = np.concatenate([turns, made.T_camera_world[1:, :3, 3]], axis=1)
    first = np.concatenate([poses.ravel(), made.points.ravel(), [0.0]])
    found = least_squares(residuals, first, x_scale="jac", ftol=1e-12, xtol=1e-12, gtol=1e-12)
    return float(found.cost), float(np.exp(found.x[-1]))


def own_minimum(made: Walk, K: np.ndarray, trust: Trust) -> tuple[float, float]:
    start = spoiled(made.T_camera_world)
    found = adjust(made.tracks, made.depth, K, start, made.stamps_s, trust)
    centers = np.linalg.inv(found.T_camera_world)[:, :3, 3]
    bend = np.diff(centers, 2, axis=0) / 0.1 / (trust.acceleration * 0.1)
    log_focal = np.log(found.focal)
    away = (np.log(found.depth) - np.log(made.depth) - log_focal) / trust.log_depth
    pixels = found.residual_px / trust.pixel
    guess = log_focal / (trust.log_focal or 1.0)
    cost = 0.5 * ((bend**2).sum() + (away**2).sum() + (pixels**2).sum() + guess**2)
    return float(cost), found.focal


@pytest.mark.parametrize(("log_focal", "by"), [(None, 1.0), (0.1, 1.15), (0.02, 0.9)])
def test_finds_the_minimum_scipy_finds(log_focal: float | None, by: float) -> None:
    made = walk(frames=4, noise_px=0.4, depth_noise=0.15, count=60)  # dense: 160 take a minute
    trust, K = replace(GENTLE, log_focal=log_focal), longer_lens(made, by)
    wanted, wanted_focal = plain_minimum(made, K, trust)
    cost, focal = own_minimum(made, K, trust)
    np.testing.assert_allclose(cost, wanted, rtol=1e-7)
    np.testing.assert_allclose(focal, wanted_focal, rtol=1e-5)
    assert (focal == 1.0) == (log_focal is None)


def test_noise_is_averaged_and_outliers_count_little() -> None:
    made = walk(frames=10, noise_px=0.4, depth_noise=0.2)
    uv = made.tracks.uv.copy()
    bad = np.random.default_rng(2).random(len(uv)) < 0.05
    uv[bad] += 15.0
    tracks = Tracks(made.tracks.frame, made.tracks.point, uv)
    start = spoiled(made.T_camera_world)
    found = adjust(tracks, made.depth, made.K, start, made.stamps_s)
    assert angle_deg(found.T_camera_world, made.T_camera_world).max() < 1.0
    error = found.T_camera_world[:, :3, 3] - made.T_camera_world[:, :3, 3]
    assert np.linalg.norm(error, axis=1).max() < 0.08
    assert np.median(found.residual_px[bad]) > 8.0


def test_depth_sets_the_scale() -> None:
    made = walk(noise_px=0.1)
    found = adjust(
        made.tracks,
        1.3 * made.depth,
        made.K,
        made.T_camera_world,
        made.stamps_s,
        Trust(acceleration=1e6, iterations=60, stop=1e-12),
    )
    travelled = np.linalg.norm(np.linalg.inv(found.T_camera_world)[-1, :3, 3])
    truth = np.linalg.norm(np.linalg.inv(made.T_camera_world)[-1, :3, 3])
    np.testing.assert_allclose(travelled / truth, 1.3, rtol=0.02)


def test_a_wrong_focal_length_is_found_and_depth_follows_it() -> None:
    made = walk(frames=12, noise_px=0.2, depth_noise=0.1)
    start, K = spoiled(made.T_camera_world), longer_lens(made, 1.15)
    # a network that takes the lens for longer has put everything as much too far
    far = 1.15 * made.depth
    trust = Trust(log_focal=0.1, iterations=40)
    found = adjust(made.tracks, far, K, start, made.stamps_s, trust)
    np.testing.assert_allclose(1.15 * found.focal, 1.0, atol=0.015)
    assert angle_deg(found.T_camera_world, made.T_camera_world).max() < 0.6
    np.testing.assert_allclose(np.median(found.depth / made.depth), 1.0, atol=0.03)
    kept = adjust(made.tracks, far, K, start, made.stamps_s)
    assert kept.focal == 1.0
    assert angle_deg(kept.T_camera_world, made.T_camera_world).max() > 1.2


def test_the_guess_holds_where_the_camera_does_not_move() -> None:
    made = walk(frames=6, noise_px=0.0)
    first = made.tracks.frame == 0
    frame = np.tile(np.arange(6), first.sum())
    point = np.repeat(np.arange(first.sum()), 6)
    uv = np.repeat(made.tracks.uv[first], 6, axis=0)
    uv += np.random.default_rng(5).normal(0.0, 0.3, uv.shape)
    depth = np.repeat(made.depth[first], 6)
    still = np.tile(np.eye(4), (6, 1, 1))
    tracks, K = Tracks(frame, point, uv), longer_lens(made, 1.15)
    found = adjust(tracks, depth, K, still, made.stamps_s, Trust(log_focal=0.1, iterations=40))
    np.testing.assert_allclose(found.focal, 1.0, atol=0.03)


def test_a_frame_without_points_and_stamps_that_stand_still_do_no_harm() -> None:
    made = walk(frames=6, noise_px=0.2)
    keep = made.tracks.frame != 3
    frame, point = made.tracks.frame[keep], made.tracks.point[keep]
    tracks, rows = Tracks(frame, point, made.tracks.uv[keep]).cut(np.zeros(keep.sum(), bool))
    found = adjust(tracks, made.depth[keep][rows], made.K, made.T_camera_world, np.zeros(6))
    assert np.isfinite(found.T_camera_world).all()
    np.testing.assert_allclose(found.T_camera_world[3], made.T_camera_world[3], atol=1e-6)


def test_a_piece_no_point_links_keeps_its_step() -> None:
    made = walk(frames=8, noise_px=0.2)
    later = made.tracks.frame >= 4
    tracks, rows = made.tracks.cut(
        later & np.r_[False, ~later[:-1] | (np.diff(made.tracks.point) > 0)]
    )
    start = made.T_camera_world.copy()
    corner = np.eye(4)
    corner[:3, :3] = Rotation.from_euler("y", 60, degrees=True).as_matrix()
    start[4:] = start[4:] @ corner  # the later piece goes another way
    assert not np.isin(tracks.point[tracks.frame < 4], tracks.point[tracks.frame >= 4]).any()
    found = adjust(tracks, made.depth[rows], made.K, start, made.stamps_s)
    assert angle_deg(found.T_camera_world, start).max() < 1.0


def test_a_point_that_slides_along_its_edge_does_no_harm_when_that_is_known() -> None:
    made = walk(noise_px=0.0)
    rng = np.random.default_rng(8)
    # each point lies on an edge of its own, sliding by 2 px along it, placed to 0.1 px across
    angle = rng.uniform(0.0, np.pi, made.tracks.points)[made.tracks.point]
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    slide, shake = rng.normal(0.0, 2.0, len(angle)), rng.normal(0.0, 0.1, len(angle))
    uv = made.tracks.uv + slide[:, None] * along + shake[:, None] * across
    sharp = np.stack([across / 0.1, along / 2.0], axis=1)
    worst = []
    for known in (sharp, None):
        tracks = Tracks(made.tracks.frame, made.tracks.point, uv, known)
        start = spoiled(made.T_camera_world, 1.0)
        found = adjust(tracks, made.depth, made.K, start, made.stamps_s, Trust(iterations=40))
        worst.append(angle_deg(found.T_camera_world, made.T_camera_world).max())
    assert worst[0] < 0.7
    assert worst[0] < worst[1] / 2


def test_equal_sharpness_is_the_deviation_of_a_pixel() -> None:
    made = walk()
    sharp = np.tile(np.eye(2) / Trust().pixel, (len(made.tracks), 1, 1))
    tracks = Tracks(made.tracks.frame, made.tracks.point, made.tracks.uv, sharp)
    start = spoiled(made.T_camera_world)
    ours = adjust(tracks, made.depth, made.K, start, made.stamps_s)
    plain = adjust(made.tracks, made.depth, made.K, start, made.stamps_s)
    np.testing.assert_allclose(ours.T_camera_world, plain.T_camera_world, atol=1e-9)
    np.testing.assert_allclose(ours.residual_px, plain.residual_px, atol=1e-6)


def test_an_adjustment_goes_on_where_one_before_ended() -> None:
    made = walk(noise_px=0.3, depth_noise=0.05)
    K = longer_lens(made, 1.15)
    trust = Trust(log_focal=0.1, iterations=40, stop=1e-9)
    first = adjust(made.tracks, made.depth, K, made.T_camera_world, made.stamps_s, trust)
    assert abs(np.log(first.focal)) > 0.05
    short = replace(trust, iterations=1)
    given = (made.tracks, made.depth, K, first.T_camera_world, made.stamps_s, short)
    on = adjust(*given, focal=first.focal)
    anew = adjust(*given)
    assert on.focal == pytest.approx(first.focal, rel=0.01)
    assert np.median(on.residual_px) < 1.1 * np.median(first.residual_px)
    assert abs(np.log(anew.focal / first.focal)) > 0.05
