# SPDX-License-Identifier: Apache-2.0
"""The one page another model has to implement to be put through every benchmark.

    class MyModel:                                  # any class; nothing to inherit
        name = "my model"
        def see(self, view): return my_network(view.frames.images)
        def answer(self, seen, question, situation=""): return seen.ask(question)

    vidllm evaluate scanqa --data DIR --predictor my_package.my_module:MyModel --out report.json

A model implements `see` and those methods its benchmarks ask for; asked for another, the run stops
and names it. Boxes are axis-aligned, (6,): min x y z, max x y z, m, in the benchmark's own world.
Next: predictor_vidllm.py, this project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.structures import Frames, check_shape

Float64 = NDArray[np.float64]
Seen = Any


@dataclass(frozen=True)
class Proposal:
    """A box the benchmark gives: of another detector (Mask3D) or the true one, as its rules say.

    Attributes:
        object_id: its number in the benchmark.
        aabb: (6,), min x y z, max x y z, m, the benchmark's world.
        score: of the detector; 1 where the box is the true one.
        label: its class where the benchmark gives it.
    """

    object_id: int
    aabb: Float64
    score: float = 1.0
    label: str = ""

    def __post_init__(self) -> None:
        check_shape("aabb", self.aabb, (6,))


@dataclass(frozen=True)
class SceneView:
    """What a model may see of a scene.

    Attributes:
        scene_id: the benchmark's name of it.
        frames: the images, oldest first, with K where the protocol gives intrinsics.
        T_benchmark_first: true pose of the first frame in the benchmark's world, (4, 4), m: it
            alone ties a video to boxes given in that world. None where nothing needs it.
        proposals: boxes to choose among; none where the protocol gives none.
    """

    scene_id: str
    frames: Frames
    T_benchmark_first: Float64 | None = None
    proposals: tuple[Proposal, ...] = ()


@dataclass(frozen=True)
class ScoredAabb:
    """A predicted box, (6,), m, in the benchmark's world, and how sure the model is, 0 to 1."""

    aabb: Float64
    score: float = 1.0


class Predictor(Protocol):
    """What is measured. `seen` is whatever `see` returned for the scene."""

    name: str

    def see(self, view: SceneView) -> Seen:
        """Look at a scene, once for all its cases."""

    def depth(self, seen: Seen) -> NDArray[np.float32]:
        """Metric depth along the optical axis of every frame, (S, h, w), m.

        Any size that covers the whole image; finite everywhere.
        """

    def poses(self, seen: Seen) -> Float64:
        """Poses T_world_camera of every frame, (S, 4, 4), in any world of the model's."""

    def cloud(self, seen: Seen) -> Float64:
        """Metric points, (N, 3), m, in the first frame's optical frame."""

    def answer(self, seen: Seen, question: str, situation: str = "") -> str:
        """Answer a question in few words."""

    def ground(self, seen: Seen, phrase: str) -> Sequence[ScoredAabb]:
        """Every box the phrase means, best first; none where nothing fits."""

    def ground_one(self, seen: Seen, phrase: str) -> ScoredAabb | None:
        """Return the best box for a phrase that means exactly one object."""

    def choose(self, seen: Seen, phrase: str) -> int | None:
        """Return the `object_id` of the proposal the phrase means."""

    def caption(self, seen: Seen, aabb: Float64) -> str:
        """Describe what is in a box."""

    def detect(self, seen: Seen) -> Sequence[ScoredAabb]:
        """Every object, where the benchmark gives no proposals."""


def load_predictor(name: str) -> Predictor:
    """Import `module:factory` and call it.

    Raises:
        ValueError: the name is not of that form, or what it makes has no `see`.
        ImportError: there is no such module or factory.
    """
    predictor: Predictor = find_factory(name)()
    if not callable(getattr(predictor, "see", None)):
        raise ValueError(
            f"predictor: expected {name} to make something with see(), got {predictor!r}"
        )
    return predictor


def find_factory(name: str) -> Callable[[], Any]:
    """Import `module:factory`.

    Raises:
        ValueError: the name is not of that form.
        ImportError: there is no such module or factory.
    """
    module, colon, factory = name.partition(":")
    if not colon or not module or not factory:
        raise ValueError(f"predictor: expected module:factory, got {name!r}")
    try:
        found = import_module(module)
    except ImportError as error:
        raise ImportError(
            f"predictor: expected a module {module} to import, got: {error}; install it, or run "
            "from its folder with PYTHONPATH=."
        ) from error
    made: Callable[[], Any] | None = getattr(found, factory, None)
    if made is None:
        raise ImportError(f"predictor: expected {factory!r} in {module}, got none; check its name")
    return made


def require_ability(predictor: Predictor, ability: str) -> Any:
    """Return a method of a predictor.

    Raises:
        TypeError: the predictor has no such method.
    """
    method = getattr(predictor, ability, None)
    if not callable(method):
        name = getattr(predictor, "name", type(predictor).__name__)
        raise TypeError(
            f"predictor: expected {name!r} to have {ability}(), got none; "
            "implement it (vidllm_ros/evaluation/predictor.py) or choose another benchmark"
        )
    return method
