# SPDX-License-Identifier: Apache-2.0
"""A camera turns away from a painted wall and back: its corners are found again where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.bundle_adjustment import Adjusted
from vidllm_ros.geometry.relink import correlation, relink
from vidllm_ros.geometry.tracks import Tracks, track_points

WALL_M = 2.0
K = np.array([[100.0, 0, 55.5], [0, 100.0, 41.5], [0, 0, 1]])


@dataclass(frozen=True)
class Film:
    gray: list[np.ndarray]
    depth: np.ndarray
    K: np.ndarray
    T_camera_world: np.ndarray
    tracks: Tracks
    points: np.ndarray

    def adjusted(self, residual_px: float = 0.1) -> Adjusted:
        n = len(self.tracks)
        T, depth = self.T_camera_world, np.zeros(n)
        return Adjusted(T, self.points, depth, np.full(n, residual_px), 1.0)

    def truth(self, tracks: Tracks) -> np.ndarray:
        """Where every observation's point really is, (n, 2), px."""
        T = self.T_camera_world[tracks.frame]
        camera = np.einsum("nij,nj->ni", T[:, :3, :3], self.points[tracks.point]) + T[:, :3, 3]
        return camera[:, :2] / camera[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]


def look_away_and_back(degrees: float = 40.0, frames: int = 13) -> Film:
    """Frames of a wall at z = WALL_M, painted with noise of several sizes."""
    rng = np.random.default_rng(0)
    paint = sum(
        cv2.resize(rng.uniform(0, 1, (n, n)).astype(np.float32), (1200, 1200)) for n in (40, 90)
    )
    paint = cv2.normalize(paint, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)
    to_paint = np.array([[150.0, 0, 600.0], [0, 150.0, 600.0], [0, 0, 1]])  # px of X, Y in m
    turn = degrees * np.sin(np.linspace(0, np.pi, frames))
    T, gray, depth = np.tile(np.eye(4), (frames, 1, 1)), [], []
    v, u = np.mgrid[:84, :112]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], -1)
    for i in range(frames):
        T[i, :3, :3] = Rotation.from_euler("y", -turn[i], degrees=True).as_matrix()
        T[i, :3, 3] = -T[i, :3, :3] @ np.array([0.02 * i, 0.0, 0.0])
        center, back = -T[i, :3, :3].T @ T[i, :3, 3], T[i, :3, :3].T
        ahead = rays @ back.T
        far = (WALL_M - center[2]) / ahead[..., 2]
        places = center + ahead * far[..., None]
        on_paint = (places[..., :2] @ to_paint[:2, :2] + to_paint[:2, 2]).astype(np.float32)
        gray.append(cv2.remap(paint, on_paint[..., 0], on_paint[..., 1], cv2.INTER_LINEAR))
        depth.append(far.astype(np.float32))  # z along the axis, for rays have z = 1
    tracks = track_points(np.repeat(np.array(gray)[..., None], 3, axis=-1))
    first = np.flatnonzero(np.diff(tracks.point, prepend=-1))
    frame, uv = tracks.frame[first], tracks.uv[first]
    ray = np.concatenate([(uv - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(uv), 1))], axis=1)
    back = T[frame][:, :3, :3].transpose(0, 2, 1)
    center = -np.einsum("nij,nj->ni", back, T[frame][:, :3, 3])
    ahead = np.einsum("nij,nj->ni", back, ray)
    points = center + ahead * ((WALL_M - center[:, 2]) / ahead[:, 2])[:, None]
    return Film(gray, np.array(depth), np.tile(K, (frames, 1, 1)), T, tracks, points)


@pytest.fixture(scope="module")
def film() -> Film:
    return look_away_and_back()


def search(film: Film, **changes: object) -> Tracks:
    made = replace(film, **changes)
    return relink(made.tracks, made.gray, made.depth, made.K, made.adjusted(), 0.5)


def is_old(film: Film, found: Tracks) -> np.ndarray:
    """Say which observations were followed, (n,)."""
    old = {(p, f) for p, f in zip(film.tracks.point, film.tracks.frame, strict=True)}
    return np.array([(p, f) in old for p, f in zip(found.point, found.frame, strict=True)])


def test_points_are_found_again_where_they_are(film: Film) -> None:
    found = search(film)
    added = ~is_old(film, found)
    assert added.sum() > 0.2 * len(film.tracks)
    off = np.linalg.norm(found.uv - film.truth(found), axis=1)[added]
    assert np.median(off) < 0.2
    assert np.percentile(off, 95) < 1.0
    ends = film.tracks.frame.max()
    both = np.isin(found.point[found.frame == 0], found.point[found.frame == ends])
    before = np.isin(
        film.tracks.point[film.tracks.frame == 0], film.tracks.point[film.tracks.frame == ends]
    )
    assert both.sum() > 2 * before.sum() + 20  # the last frame sees what the first one saw


def test_every_observation_is_kept_once_and_in_order(film: Film) -> None:
    found = search(film)
    rows = list(zip(found.point.tolist(), found.frame.tolist(), strict=True))
    assert rows == sorted(set(rows))
    kept = {(p, f): uv for p, f, uv in zip(found.point, found.frame, found.uv, strict=True)}
    for p, f, uv in zip(film.tracks.point, film.tracks.frame, film.tracks.uv, strict=True):
        np.testing.assert_array_equal(kept[p, f], uv)
    assert found.sharp is not None
    assert found.sharp.shape == (len(found), 2, 2)


def test_beside_tracks_of_finer_images_nothing_found_is_believed_more(film: Film) -> None:
    found = search(film, tracks=replace(film.tracks, sharp=None))
    assert found.sharp is not None
    old = is_old(film, found)
    np.testing.assert_allclose(found.sharp[old], np.broadcast_to(2 * np.eye(2), (old.sum(), 2, 2)))
    assert np.linalg.norm(found.sharp[~old], axis=2).max() <= 2.0 + 1e-9
    assert np.linalg.norm(search(film).sharp, axis=2).max() > 4.0


def test_what_is_hidden_is_not_looked_for(film: Film) -> None:
    """By a depth that says something stands before the wall."""
    assert len(search(film, depth=film.depth / 2)) == len(film.tracks)
    nothing = np.full_like(film.depth, np.nan)
    assert len(search(film, depth=nothing)) == len(film.tracks)


def test_what_looks_otherwise_is_not_taken(film: Film) -> None:
    rng = np.random.default_rng(5)
    repainted = [
        *film.gray[:7],
        *(rng.integers(0, 255, g.shape).astype(np.uint8) for g in film.gray[7:]),
    ]
    found = search(film, gray=repainted)
    added = len(search(film)) - len(film.tracks)
    late = found.frame >= 7
    assert late.sum() - (film.tracks.frame >= 7).sum() < 0.05 * added


def test_an_unsound_observation_leads_nowhere(film: Film) -> None:
    wild = film.adjusted(residual_px=10.0)
    found = relink(film.tracks, film.gray, film.depth, film.K, wild, 0.5)
    assert found is film.tracks


def test_correlation_of_flat_squares_is_none() -> None:
    flat = np.full((2, 121), 7.0, np.float32)
    ramp = np.tile(np.arange(121, dtype=np.float32), (2, 1))
    np.testing.assert_array_equal(correlation(flat, ramp), [0, 0])
    np.testing.assert_allclose(correlation(ramp, 3 * ramp + 1), [1, 1], rtol=1e-5)
    np.testing.assert_allclose(correlation(ramp, -ramp), [-1, -1], rtol=1e-5)
