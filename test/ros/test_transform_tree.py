# SPDX-License-Identifier: Apache-2.0
"""The tree chains, inverts, interpolates and says what it does not know."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vidllm_ros.geometry.transforms import make_transform, quat_xyzw_from_matrix
from vidllm_ros.ros.transform_tree import HISTORY_NS, TransformLookupError, TransformTree

S = 1_000_000_000


def turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def message(stamp_ns: int, parent: str, child: str, T: np.ndarray) -> Any:
    x, y, z, w = (float(v) for v in quat_xyzw_from_matrix(T[:3, :3]))
    return SimpleNamespace(
        header=SimpleNamespace(
            frame_id=parent, stamp=SimpleNamespace(sec=stamp_ns // S, nanosec=stamp_ns % S)
        ),
        child_frame_id=child,
        transform=SimpleNamespace(
            translation=SimpleNamespace(**dict(zip("xyz", T[:3, 3].tolist(), strict=True))),
            rotation=SimpleNamespace(x=x, y=y, z=z, w=w),
        ),
    )


def moving_tree() -> TransformTree:
    tree = TransformTree()
    for second, angle in ((1, 0.0), (2, 90.0), (3, 90.0)):
        T = make_transform(turn(angle), [second, 0, 0])
        tree.add(message(second * S, "map", "base", T), False)
    T_base_camera = make_transform(turn(10), [0, 0, 0.5])
    tree.add(message(0, "base", "camera", T_base_camera), True)
    return tree


def test_interpolates_position_and_angle() -> None:
    T = moving_tree().lookup("map", "base", int(1.5 * S))
    np.testing.assert_allclose(T, make_transform(turn(45), [1.5, 0, 0]), atol=1e-9)


def test_chains_over_static_and_moving_and_back() -> None:
    tree = moving_tree()
    T_map_camera = tree.lookup("map", "camera", 2 * S)
    np.testing.assert_allclose(T_map_camera, make_transform(turn(100), [2, 0, 0.5]), atol=1e-9)
    T_camera_map = tree.lookup("camera", "map", 2 * S)
    np.testing.assert_allclose(T_camera_map @ T_map_camera, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(tree.lookup("camera", "camera", 2 * S), np.eye(4), atol=1e-12)


def test_stamp_zero_is_the_newest() -> None:
    np.testing.assert_allclose(moving_tree().lookup("map", "base", 0)[:3, 3], [3, 0, 0])


@pytest.mark.parametrize(
    ("target", "source", "stamp", "words"),
    [
        ("map", "wheel", 2 * S, "wheel: no transform leads from it to map"),
        ("map", "base", 4 * S, "expected a stamp from 1000000000 to 3000000000"),
    ],
)
def test_says_what_it_does_not_know(target: str, source: str, stamp: int, words: str) -> None:
    with pytest.raises(TransformLookupError, match=words):
        moving_tree().lookup(target, source, stamp)


def test_history_is_bounded_and_a_loop_ends() -> None:
    tree = TransformTree()
    for second in range(1, 40):
        tree.add(message(second * S, "map", "base", np.eye(4)), False)
    edge = tree._edges["base"]
    assert edge.stamps_ns[0] == 39 * S - HISTORY_NS
    tree.add(message(S, "base", "map", np.eye(4)), False)
    with pytest.raises(TransformLookupError):
        tree.lookup("nowhere", "base", S)


def test_a_lookup_never_sees_a_transform_half_put(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = moving_tree()
    wanted = tree.lookup("map", "base", int(2.2 * S))
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(tree.lookup("map", "base", int(2.2 * S)))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=look)

    class Slow(list[Any]):
        def insert(self, *args: Any) -> None:  # stamps are in, positions not yet
            thread.start()
            thread.join(0.2)
            super().insert(*args)

    edge = tree._edges["base"]
    edge.positions = Slow(edge.positions)
    late = make_transform(turn(0), [100.0, 0, 0])
    tree.add(message(int(1.5 * S), "map", "base", late), False)
    thread.join()
    np.testing.assert_allclose(found[0], wanted, atol=1e-9)
