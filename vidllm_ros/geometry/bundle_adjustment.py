# SPDX-License-Identifier: Apache-2.0
"""Bundle adjustment of a window: all poses and points that explain the tracks best.

Minimised by Levenberg-Marquardt with the points eliminated (Schur complement): reprojection,
weighed by how sharp each point is (sharpness.py), and the network's depth in logarithms, both
under a Cauchy loss, and the camera's acceleration. Depth gives the scale, acceleration steadies
steps that are shorter than their error. Source: Triggs et al., "Bundle Adjustment - A Modern
Synthesis"; the depth and acceleration terms are ours. Next: network/pose_refinement.py, which
calls it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.tracks import Tracks

Float64 = NDArray[np.float64]

NEAREST_M = 0.05
LARGEST_DAMPING = 1e4


@dataclass(frozen=True)
class Trust:
    """Standard deviations of what is measured.

    Attributes:
        pixel: of a followed point whose tracks do not say how sharp it is, px.
        log_depth: of the network's depth, in logarithms.
        acceleration: of the camera, m/s^2.
        log_focal: of the focal length, in logarithms; None takes it as known.
        pixel_outlier, depth_outlier: deviations from which an error counts less (Cauchy).
        iterations: at most.
        stop: relative fall of the cost below which it ends.
    """

    pixel: float = 0.5
    log_depth: float = 1.0
    acceleration: float = 1.5
    log_focal: float | None = None
    pixel_outlier: float = 3.0
    depth_outlier: float = 1.5
    iterations: int = 12
    stop: float = 1e-4


@dataclass(frozen=True)
class Adjusted:
    """The result.

    Attributes:
        T_camera_world: (S, 4, 4), m; the first as given.
        points: in the world, (P, 3), m.
        depth: of every observation by pose and point, (n,), m.
        residual_px: distance of every observation from its projection, (n,), px.
        focal: what the focal length is to be multiplied by.
    """

    T_camera_world: Float64
    points: Float64
    depth: Float64
    residual_px: Float64
    focal: float


@dataclass
class _State:
    R: Float64
    t: Float64
    points: Float64
    log_focal: float


@dataclass(frozen=True)
class _Residuals:
    camera: Float64  # points in their cameras, (n, 3), m
    value: Float64  # (n, 3): u, v and log depth, in deviations
    weight: Float64  # (n, 3), of the Cauchy loss
    bend: Float64  # (S - 2, 3), acceleration in deviations
    cost: float


def adjust(
    tracks: Tracks,
    depth: Float64,
    K: Float64,
    T_camera_world: Float64,
    stamps_s: Float64,
    trust: Trust | None = None,
    focal: float = 1.0,
) -> Adjusted:
    """Adjust poses and points.

    Args:
        tracks: n observations of P points over S frames.
        depth: the network's, at every observation, (n,), m.
        K: (S, 3, 3), px.
        T_camera_world: where to start, (S, 4, 4), m.
        stamps_s: (S,), s; where they do not rise, acceleration is left out.
        trust: deviations.
        focal: what the focal length of `T_camera_world` is `K`'s times, where the lens is not
            known: of an adjustment before.
    """
    problem = _Problem(tracks, depth, K, stamps_s, trust or Trust())
    return problem.solve(T_camera_world, float(np.log(focal)))


class _Problem:
    def __init__(
        self, tracks: Tracks, depth: Float64, K: Float64, stamps_s: Float64, trust: Trust
    ) -> None:
        self.tracks, self.trust = tracks, trust
        self.frame, self.point = tracks.frame, tracks.point
        alike = np.broadcast_to(np.eye(2) / self.trust.pixel, (len(tracks), 2, 2))
        self.sharp = alike if tracks.sharp is None else tracks.sharp
        self.log_depth = np.log(depth)
        self.depth = depth
        self.focal = K[self.frame][:, [0, 1], [0, 1]]
        self.center = K[self.frame][:, :2, 2]
        self.frames, self.points = len(K), tracks.points
        self.starts = np.searchsorted(self.point, np.arange(self.points))
        self.by_frame = np.argsort(self.frame, kind="stable")
        self.present, self.frame_starts = np.unique(self.frame[self.by_frame], return_index=True)
        self.bends = _bends(np.asarray(stamps_s, np.float64), trust.acceleration, self._linked())

    def _linked(self) -> NDArray[np.bool_]:
        """Say which neighbouring frames share a point, (S - 1,)."""
        same = (self.point[1:] == self.point[:-1]) & (np.diff(self.frame) == 1)
        linked = np.zeros(max(self.frames - 1, 0), bool)
        linked[self.frame[:-1][same]] = True
        return linked

    def solve(self, T_camera_world: Float64, log_focal: float) -> Adjusted:
        R = T_camera_world[:, :3, :3].astype(np.float64)
        t = T_camera_world[:, :3, 3].astype(np.float64)
        state = _State(R, t, self._first_points(R, t, np.exp(log_focal)), log_focal)
        now = self._residuals(state)
        damping = 1e-3
        for _ in range(self.trust.iterations):
            system = self._system(state, now)
            fall = 0.0
            while damping < LARGEST_DAMPING:
                tried = self._step(state, system, damping)
                then = self._residuals(tried)
                if np.isfinite(then.cost) and then.cost < now.cost:
                    fall = now.cost - then.cost
                    state, now, damping = tried, then, max(damping / 5.0, 1e-7)
                    break
                damping *= 5.0
            if fall < self.trust.stop * now.cost:
                break
        T = np.tile(np.eye(4), (self.frames, 1, 1))
        T[:, :3, :3], T[:, :3, 3] = state.R, state.t
        error = np.linalg.norm(np.linalg.solve(self.sharp, now.value[:, :2, None]), axis=(1, 2))
        return Adjusted(T, state.points, now.camera[:, 2], error, float(np.exp(state.log_focal)))

    def _first_points(self, R: Float64, t: Float64, focal: float) -> Float64:
        """Median over its observations of where the network's depth puts each point, (P, 3)."""
        rays = (self.tracks.uv - self.center) / (self.focal * focal)
        depth = self.depth[:, None] * focal
        camera = np.concatenate([rays, np.ones((len(rays), 1))], axis=1) * depth
        world = np.einsum("nji,nj->ni", R[self.frame], camera - t[self.frame])
        count = np.diff(np.append(self.starts, len(world)))
        middle = self.starts + (count - 1) // 2, self.starts + count // 2
        ordered = [axis[np.lexsort((axis, self.point))] for axis in world.T]
        return np.stack([(axis[middle[0]] + axis[middle[1]]) / 2 for axis in ordered], axis=1)

    def _residuals(self, state: _State) -> _Residuals:
        trust = self.trust
        camera = np.einsum("nij,nj->ni", state.R[self.frame], state.points[self.point])
        camera += state.t[self.frame]
        camera[:, 2] = np.maximum(camera[:, 2], NEAREST_M)
        focal = self.focal * np.exp(state.log_focal)
        uv = camera[:, :2] / camera[:, 2:] * focal + self.center
        value = np.empty((len(uv), 3))
        value[:, :2] = np.einsum("nij,nj->ni", self.sharp, uv - self.tracks.uv)
        value[:, 2] = (np.log(camera[:, 2]) - self.log_depth - state.log_focal) / trust.log_depth
        pixel = (value[:, :2] ** 2).sum(1) / trust.pixel_outlier**2
        away = value[:, 2] ** 2 / trust.depth_outlier**2
        weight = 1.0 / (1.0 + np.stack([pixel, pixel, away], axis=1))
        cost = 0.5 * trust.pixel_outlier**2 * np.log1p(pixel).sum()
        cost += 0.5 * trust.depth_outlier**2 * np.log1p(away).sum()
        center = -np.einsum("sji,sj->si", state.R, state.t)
        bend = self.bends @ center
        cost += 0.5 * (bend**2).sum()
        if trust.log_focal is not None:
            cost += 0.5 * (state.log_focal / trust.log_focal) ** 2
        return _Residuals(camera, value, weight, bend, float(cost))

    def _system(self, state: _State, now: _Residuals) -> tuple[Float64, ...]:
        """Build the equations: cameras and focal length (6S + 1,), points (P, 3), between them."""
        trust, camera = self.trust, now.camera
        z = camera[:, 2]
        focal = self.focal * np.exp(state.log_focal)
        by_camera = np.zeros((len(z), 3, 3))  # of the residuals by the point in its camera
        by_camera[:, 0, 0], by_camera[:, 1, 1] = (focal / z[:, None]).T
        by_camera[:, :2, 2] = -focal * camera[:, :2] / z[:, None] ** 2
        by_camera[:, :2] = self.sharp @ by_camera[:, :2]
        by_camera[:, 2, 2] = 1.0 / z / trust.log_depth
        turned = camera - state.t[self.frame]
        by_pose = np.concatenate([-by_camera @ _skew(turned), by_camera], axis=2)  # (n, 3, 6)
        by_point = by_camera @ state.R[self.frame]
        weighted_pose = (now.weight[:, :, None] * by_pose).transpose(0, 2, 1)
        weighted_point = (now.weight[:, :, None] * by_point).transpose(0, 2, 1)
        error = now.value[:, :, None]
        size = 6 * self.frames
        blocks = np.zeros((self.frames, 6, self.frames, 6))
        own = np.arange(self.frames)
        blocks[own, :, own] = self._sum_frames(weighted_pose @ by_pose)
        H, g = np.zeros((size + 1, size + 1)), np.zeros(size + 1)
        H[:size, :size] = blocks.reshape(size, size)
        g[:size] = self._sum_frames(weighted_pose @ error).reshape(size)
        back = state.R.transpose(0, 2, 1)
        by_center = np.concatenate([-back @ _skew(state.t), -back], axis=2)  # (S, 3, 6)
        bend = np.einsum("as,sij->aisj", self.bends, by_center).reshape(-1, size)
        H[:size, :size] += bend.T @ bend
        g[:size] += bend.T @ now.bend.ravel()
        points = np.add.reduceat(weighted_point @ by_point, self.starts)
        g_points = np.add.reduceat(weighted_point @ error, self.starts)[..., 0]
        between = np.zeros((size + 1, self.points, 3))
        placed = between[:size].reshape(self.frames, 6, self.points, 3)
        placed[self.frame, :, self.point] = weighted_pose @ by_point
        if trust.log_focal is not None:
            by_focal = np.empty((len(z), 3, 1))
            by_focal[:, :2, 0] = focal * camera[:, :2] / z[:, None]
            by_focal[:, :2] = self.sharp @ by_focal[:, :2]
            by_focal[:, 2] = -1.0 / trust.log_depth
            H[:size, size] = self._sum_frames(weighted_pose @ by_focal).ravel()
            H[size, :size] = H[:size, size]
            weighted = now.weight * by_focal[:, :, 0]
            H[size, size] = (weighted * by_focal[:, :, 0]).sum() + trust.log_focal**-2
            g[size] = (weighted * now.value).sum() + state.log_focal * trust.log_focal**-2
            between[size] = np.add.reduceat(weighted_point @ by_focal, self.starts)[..., 0]
        return H, g, points, g_points, between.reshape(size + 1, -1)

    def _sum_frames(self, values: Float64) -> Float64:
        """Sum the observations of each frame, (n, ...) -> (S, ...)."""
        out = np.zeros((self.frames, *values.shape[1:]))
        out[self.present] = np.add.reduceat(values[self.by_frame], self.frame_starts)
        return out

    def _step(self, state: _State, system: tuple[Float64, ...], damping: float) -> _State:
        H, g, points, g_points, between = system
        diagonal = np.einsum("pii->pi", points)
        damped = points + np.eye(3) * (damping * diagonal + 1e-9)[:, None, :]
        inverse = np.linalg.inv(damped)
        eliminated = (between.reshape(len(H), -1, 1, 3) @ inverse).reshape(len(H), -1)
        A = H + np.diag(damping * np.diag(H) + 1e-9) - eliminated @ between.T
        b = g - eliminated @ g_points.ravel()
        move = np.zeros(len(H))
        last = len(H) if self.trust.log_focal is not None else len(H) - 1
        free = slice(6, last)  # the first camera is the world
        move[free] = -np.linalg.solve(A[free, free], b[free])
        shift = g_points + (between.T @ move).reshape(-1, 3)
        shift = -np.einsum("pij,pj->pi", inverse, shift)
        turn, walk = np.split(move[:-1].reshape(-1, 6), 2, axis=1)
        return _State(
            Rotation.from_rotvec(turn).as_matrix() @ state.R,
            state.t + walk,
            state.points + shift,
            state.log_focal + float(move[-1]),
        )


def _bends(stamps_s: Float64, acceleration: float, linked: NDArray[np.bool_]) -> Float64:
    """Matrix (S - 2, S) that turns camera centres into accelerations over their deviation.

    Where no point links two frames only the given step does, and a smooth path would turn
    everything after it: such rows are zero, and so are those of stamps that do not rise.
    """
    count = len(stamps_s)
    rows = np.zeros((max(count - 2, 0), count))
    steps = np.diff(stamps_s)
    for i in range(len(rows)):
        first, second = steps[i], steps[i + 1]
        if min(first, second) <= 0 or not (linked[i] and linked[i + 1]):
            continue
        deviation = acceleration * (first + second) / 2.0  # of the change of velocity
        rows[i, i : i + 3] = np.array([1 / first, -1 / first - 1 / second, 1 / second]) / deviation
    return rows


def _skew(v: Float64) -> Float64:
    """Cross-product matrices, (n, 3) -> (n, 3, 3)."""
    out = np.zeros((len(v), 3, 3))
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    return out - out.transpose(0, 2, 1)
