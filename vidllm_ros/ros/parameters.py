# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node, once: default, description, range, and when it may change.

`NodeParameters` is the only place a default stands; YAML and launch files override it, the table
in docs/ros_interface.md is held against it by a test. Plain Python, no ROS. Next:
parameter_server.py, which declares these fields on the node.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from vidllm_ros.streaming.loading import (
    DEVICE_PATTERN,
    DEVICE_WORDS,
    MEMORY_STEPS,
    PRECISIONS,
    BackendName,
)
from vidllm_ros.streaming.model_folders import BUNDLED_MODEL
from vidllm_ros.streaming.session import SessionSettings
from vidllm_ros.streaming.tracking import TrackingSettings
from vidllm_ros.streaming.window import WindowSettings

Value = bool | int | float | str
T = TypeVar("T", bool, int, float, str)


class Change(Enum):
    """When a parameter may be changed."""

    LIVE = "at any time, acts at once"
    CONFIGURE = "while unconfigured; acts at the next configure"
    FIXED = "only at start (read-only)"


@dataclass(frozen=True)
class Spec:
    """What a parameter means and what it may be."""

    description: str
    change: Change
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    pattern_words: str = ""


def _parameter(
    default: T,
    description: str,
    change: Change = Change.LIVE,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    pattern: tuple[str, str] = ("", ""),
) -> T:
    low, high = limits if limits is not None else (None, None)
    spec = Spec(description, change, low, high, choices, *pattern)
    return dataclasses.field(default=default, metadata={"spec": spec})


_CONFIGURE, _LIVE, _FIXED = Change.CONFIGURE, Change.LIVE, Change.FIXED


@dataclass(frozen=True)
class NodeParameters:
    """The node's parameters; building one checks every value.

    Raises:
        ValueError: a value has another type than its default, is out of range, or does not fit
            another.
    """

    backend: str = _parameter(
        BackendName.VIDLLM.value,
        "What computes: 'vidllm' is the network; 'vggt_llava3d' and 'vggt_vlm' are public models "
        "in a row (docs/public_weights.md); 'standin' answers the same topics and services "
        "without one and says so in every reply, for tests of launch and transport.",
        _CONFIGURE,
        choices=tuple(name.value for name in BackendName),
    )
    model: str = _parameter(
        BUNDLED_MODEL,
        "Folder of the weights (as save_pretrained or vidllm concatenate writes it), or the name "
        "of a bundled model.",
        _CONFIGURE,
        pattern=(r"\s*\S.*", "a folder or a name"),
    )
    device: str = _parameter(
        "auto", "Where the network runs: auto, cpu, cuda or cuda:N; auto takes a GPU if there.",
        _CONFIGURE, pattern=(DEVICE_PATTERN, DEVICE_WORDS),
    )  # fmt: skip
    precision: str = _parameter(
        "auto",
        "Number format of the weights; auto is bfloat16 on a GPU that has it, else float32.",
        _CONFIGURE,
        choices=PRECISIONS,
    )
    memory_step: str = _parameter(
        MEMORY_STEPS[0],
        "How much of a window is computed: auto measures at configure what there is memory for; "
        "full, int8, int4 (language model), half_frames, quarter_frames, images_75 or images_50 "
        "fixes it.",
        _CONFIGURE,
        choices=MEMORY_STEPS,
    )
    autostart: bool = _parameter(
        True, "Configure and activate without being asked.", _FIXED
    )  # fmt: skip
    image_transport: str = _parameter(
        "raw",
        "Which topic frames come from: raw listens to image, compressed to image/compressed.",
        _CONFIGURE,
        choices=("raw", "compressed"),
    )
    world_frame: str = _parameter(
        "vidllm_world",
        "Frame of everything published: z up, origin at the first camera of a world.",
        _CONFIGURE,
        pattern=(r"[^/\s]\S*", "a frame name without leading slash or blanks"),
    )
    publish_tf: bool = _parameter(
        False,
        "Publish world_frame -> camera optical frame on /tf; held back, with a warning, where "
        "the camera frame already has a parent.",
        _CONFIGURE,
    )
    place_by_tf: bool = _parameter(
        False,
        "Place each new world by TF, where world_frame (map, odom) -> camera is known there, "
        "instead of putting the first camera at the origin; where it is not known, a warning says "
        "why.",
        _CONFIGURE,
    )
    find_up: bool = _parameter(
        True,
        "Where TF does not place a new world, let its first window say how the first camera is "
        "tilted (cameras that turn without rolling, floors and walls); where it cannot, and "
        "with false, that camera is taken as level.",
        _CONFIGURE,
    )
    rectify: bool = _parameter(
        True, "Undistort frames where camera_info has distortion (plumb_bob and the like)."
    )
    window_size: int = _parameter(
        WindowSettings.size, "Frames in a full window.", _CONFIGURE, (2, 256)
    )
    window_stride: int = _parameter(
        WindowSettings.stride, "New frames between two windows; at most window_size.", _CONFIGURE,
        (1, 256),
    )  # fmt: skip
    window_min_frames: int = _parameter(
        WindowSettings.min_frames,
        "Frames of the first, shorter window of a world; at most window_size, which then means "
        "that no window is shorter.",
        _CONFIGURE,
        (1, 256),
    )
    min_gap_s: float = _parameter(
        WindowSettings.min_gap_s,
        "Frames closer in time than this to the last used one are passed over.",
        _CONFIGURE,
        (0.0, 60.0),
    )
    min_motion: float = _parameter(
        WindowSettings.min_motion,
        "Frames whose mean change of brightness (0 to 255) to the last keyframe is smaller show "
        "the same view: the newest is shown, and none is kept; 0 keeps them.",
        _CONFIGURE,
        (0.0, 255.0),
    )
    keyframe_motion: float = _parameter(
        WindowSettings.keyframe_motion,
        "Windows are made of keyframes: frames whose view has moved by this share of the image's "
        "width since the last one (median of followed corners). The newest frame is always "
        "shown; 0 makes every frame a keyframe.",
        _CONFIGURE,
        (0.0, 1.0),
    )
    max_gap_s: float = _parameter(
        WindowSettings.max_gap_s,
        "A longer silence between two frames begins a new world, unless the node was paused or "
        "deactivated meanwhile; above min_gap_s.",
        _CONFIGURE,
        (0.01, 3600.0),
    )
    clock_jump_s: float = _parameter(
        WindowSettings.backward_tolerance_s,
        "A stamp further back than this is a jump of the clock (a looping bag) and begins a new "
        "world; one less far back is a frame out of order and dropped.",
        _CONFIGURE,
        (0.0, 60.0),
    )
    voxel_m: float = _parameter(
        SessionSettings.voxel_m,
        "Edge of the voxels that thin the clouds.",
        _CONFIGURE,
        (0.001, 1.0),
    )
    confidence_quantile: float = _parameter(
        SessionSettings.confidence_quantile,
        "Share of the least confident points that is left out of clouds; ~/depth/image is whole.",
        _LIVE,
        (0.0, 0.99),
    )
    max_map_points: int = _parameter(
        SessionSettings.max_map_points,
        "Bound of the fused cloud that ~/save_map writes; where it is reached the cloud's voxels "
        "double, with a warning.",
        _CONFIGURE,
        (1_000, 100_000_000),
    )
    score_threshold: float = _parameter(
        -1.0,
        "Objects with a lower score are not published. Below 0: all that the model reports, which "
        "has a threshold of its own, chosen for it on validation data (grounding_threshold in its "
        "config.json); this parameter can only be stricter.",
        _LIVE,
        (-1.0, 1.0),
    )
    object_min_windows: int = _parameter(
        TrackingSettings.min_windows,
        "Windows that must find an object before it is published, or all so far where there were "
        "fewer: what is seen once and never again is mostly not there.",
        _LIVE,
        (1, 100),
    )
    max_path_poses: int = _parameter(
        1024, "Poses kept in ~/path; the oldest go first.", _LIVE, (1, 100_000)
    )
    ask_timeout_s: float = _parameter(
        30.0, "Longest wait for an answer where a question sets none.", _LIVE, (0.1, 3600.0)
    )
    ask_queue: int = _parameter(
        8, "Questions that may wait at once; one more is answered BUSY.", _LIVE, (1, 32)
    )
    max_question_chars: int = _parameter(
        SessionSettings.max_question_chars,
        "Longest question; a longer one is answered TOO_LONG.",
        _LIVE,
        (1, 100_000),
    )
    input_timeout_s: float = _parameter(
        5.0, "Silence of the camera after which the diagnostic names the cause.", _LIVE,
        (0.5, 3600.0),
    )  # fmt: skip
    stale_after_s: float = _parameter(
        2.0, "Age of a frame's stamp on arrival from which it is reported as stale.", _LIVE,
        (0.01, 3600.0),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for reason in problems_of(dataclasses.asdict(self)).values():
            raise ValueError(reason)


def specs() -> dict[str, Spec]:
    """Name every parameter with its description, limits and when it may change."""
    return {field.name: field.metadata["spec"] for field in dataclasses.fields(NodeParameters)}


def defaults() -> dict[str, Value]:
    """Name every parameter with its default."""
    return {field.name: field.default for field in dataclasses.fields(NodeParameters)}  # type: ignore[misc]


_ORDERED = (
    ("window_stride", "window_size", False, "at most"),
    ("window_min_frames", "window_size", False, "at most"),
    ("min_gap_s", "max_gap_s", True, "less than"),
)


def problems_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Say what is wrong with a full set of values, by parameter; empty where all is well."""
    reasons = {f.name: _problem(f, values[f.name]) for f in dataclasses.fields(NodeParameters)}
    problems = {name: reason for name, reason in reasons.items() if reason}
    for name, limit, is_below, words in _ORDERED:
        if problems.keys() & {name, limit}:
            continue
        value, bound = values[name], values[limit]
        if not (value < bound if is_below else value <= bound):
            problems[name] = f"{name}: expected {words} {limit} ({bound}), got {value}"
    return problems


def _problem(field: dataclasses.Field[Any], value: Any) -> str:
    """Say why the value cannot be taken, or return an empty string."""
    spec: Spec = field.metadata["spec"]
    name = field.name
    if type(value) is not type(field.default):
        wanted = _type_words(field.default)
        return f"{name}: expected {wanted}, got {value!r} ({_type_words(value)})"
    if spec.choices and value not in spec.choices:
        return f"{name}: expected one of {' '.join(spec.choices)}, got {value!r}"
    if spec.pattern and not re.fullmatch(spec.pattern, str(value)):
        return f"{name}: expected {spec.pattern_words}, got {value!r}"
    if spec.low is not None and spec.high is not None:
        number = float(str(value))
        if not (math.isfinite(number) and spec.low <= number <= spec.high):
            return f"{name}: expected {spec.low:g} to {spec.high:g}, got {value}"
    return ""


def _type_words(value: object) -> str:
    """Name a type as somebody writing YAML knows it."""
    names = {bool: "true or false", int: "an integer", str: "a string"}
    return names.get(type(value), "a number with a decimal point")
