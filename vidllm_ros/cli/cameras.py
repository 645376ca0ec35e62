# SPDX-License-Identifier: Apache-2.0
"""What is played to the node: a rendered room with its truth, or a person's own film.

A camera hands its frames to the player process (`python -m vidllm_ros.ros.play`), remembers small
copies of them for the pictures, and knows the truth if there is one: of a room all of it, of a
7-Scenes folder depth and poses. Next: demo.py, which plays one of these.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.cli.measures import Truth
from vidllm_ros.cli.ros_processes import RosProcess, RosProcesses
from vidllm_ros.data import seven_scenes, synthrooms
from vidllm_ros.data.samples import Question, SceneSample
from vidllm_ros.data.video import VideoFrame, iterate_frames

ROOM_FRAMES = 48
ROOM_SIZE = (240, 320)
ROOM_RATE_HZ = 5.0
QUESTIONS = 5
FAMILIES = ("existence", "color", "count", "place", "relation", "object", "nearest", "size")
GENERAL_QUESTIONS = (
    "is there a table in the room?",
    "how many chairs can you see?",
    "what color is the cabinet?",
    "is there a bed in the room?",
    "what is the nearest object in the first view?",
)
PLAYER_OPTIONS = ["--json", "--wait", "300", "--hold", "1"]
FOR_EVER = 0  # of Playback.loops
LOOP_REST_S = 6.0
"""Above the node's max_gap_s: the camera jumps back to its start, so the node begins a new world
instead of joining the end of the film to its beginning."""
THUMBNAIL_PX = 320
JPEG_QUALITY = 90


@dataclass(frozen=True)
class AskedQuestion:
    """A question and every answer that is right; None where nobody knows."""

    question: str
    answers: tuple[str, ...] | None


@dataclass(frozen=True)
class Playback:
    """How frames are played.

    Attributes:
        rate_hz: frames a second, or None for their own times.
        loops: how often, FOR_EVER until somebody ends it.
        compressed: as JPEG on image/compressed.
        keep_stamps: publish the stamps of the film instead of the present.
        image: topic of the images instead of `image`; camera_info goes beside it.
    """

    rate_hz: float | None = None
    loops: int = 1
    compressed: bool = False
    keep_stamps: bool = False
    image: str | None = None

    def options(self, rate_hz: float | None = None) -> list[str]:
        """Return the player's command line; `rate_hz` holds where none was chosen."""
        rate_hz = self.rate_hz or rate_hz
        words = [*PLAYER_OPTIONS, *([] if rate_hz is None else ["--rate", str(rate_hz)])]
        words += ["--transport", "compressed"] if self.compressed else []
        words += ["--stamps", "keep"] if self.keep_stamps else []
        if self.loops != 1 and not self.keep_stamps:  # kept ones jump back, which says it all
            words += ["--rest", str(LOOP_REST_S)]
        if self.image:
            info = "/".join([*self.image.split("/")[:-1], "camera_info"])
            twin = f"image/compressed:={self.image}/compressed"
            words += ["--ros-args", "-r", f"image:={self.image}", "-r", twin]
            words += ["-r", f"camera_info:={info}"]
        return words


class Camera(Protocol):
    """Frames to play, and what is known about them."""

    name: str
    truth: Truth | None
    frames: int | None
    fault: BaseException | None

    def play(self, processes: RosProcesses, folder: Path, playback: Playback) -> RosProcess:
        """Start the player; `folder` is for files on the way to it."""

    def image(self, stamp_ns: int) -> NDArray[np.uint8]:
        """Return the frame of this stamp, perhaps smaller than it was played."""

    def questions(self, stamps_ns: Sequence[int]) -> tuple[AskedQuestion, ...]:
        """Return what to ask about the frames of these stamps."""


class RoomCamera:
    """A walk through a rendered room; seeds of the test split are rooms no training has seen."""

    def __init__(self, seed: int) -> None:
        height, width = ROOM_SIZE
        self.sample: SceneSample = synthrooms.make_scene(
            seed, frames=ROOM_FRAMES, height=height, width=width
        )
        self.name = f"SynthRooms {seed}"
        self.is_of_training = synthrooms.split_of(seed) == "train"
        self.frames: int | None = len(self.sample)
        self.fault: BaseException | None = None
        self.truth: Truth | None = Truth(
            stamps_ns=self.sample.frames.stamps_ns,
            images=self.sample.frames.images,
            depth=self.sample.depth,
            K=self.sample.K,
            T_truth_camera=self.sample.T_world_camera,
            boxes=tuple(entry.box for entry in self.sample.objects),
            outline=floor_outline(self.sample, seed),
        )

    def play(self, processes: RosProcesses, folder: Path, playback: Playback) -> RosProcess:
        frames = self.sample.frames
        np.savez(
            folder / "room.npz",
            images=frames.images,
            stamps_ns=np.asarray(frames.stamps_ns, np.int64),
            K=self.sample.K,
            frame_id=np.array(frames.frame_id),
        )
        words = ["--loop", str(playback.loops), *playback.options(ROOM_RATE_HZ)]
        return processes.start("play", [str(folder / "room.npz"), *words])

    def image(self, stamp_ns: int) -> NDArray[np.uint8]:
        return self.sample.frames.images[self.sample.frames.stamps_ns.index(stamp_ns)]

    def questions(self, stamps_ns: Sequence[int]) -> tuple[AskedQuestion, ...]:
        """Choose questions of different kinds that these frames can answer."""
        places = [self.sample.frames.stamps_ns.index(stamp) for stamp in stamps_ns]
        seen = synthrooms.annotate_frames(self.sample, places)
        return tuple(
            AskedQuestion(entry.question, entry.answers) for entry in one_of_each(seen.questions)
        )


def floor_outline(sample: SceneSample, seed: int) -> NDArray[np.float64] | None:
    """Return the corners of the room's floor, (4, 2), m; of the attempt the sample shows."""
    for attempt in range(synthrooms.scene.MOST_ATTEMPTS):
        room = synthrooms.generate_room(seed, attempt)
        centers = {entry.object_id: entry.box.center for entry in room.objects}
        seen = [(centers.get(entry.object_id), entry.box.center) for entry in sample.objects]
        if all(center is not None and np.allclose(center, truth) for center, truth in seen):
            half = np.array(room.size[:2]) / 2
            return half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    return None


def one_of_each(questions: Sequence[Question], count: int = QUESTIONS) -> list[Question]:
    """Choose `count` questions, going round the families so that no kind rules."""
    by_family = {name: [q for q in questions if q.family == name] for name in FAMILIES}
    chosen: list[Question] = []
    while len(chosen) < count and any(by_family.values()):
        for family in FAMILIES:
            if by_family[family] and len(chosen) < count:
                chosen.append(by_family[family].pop(0))
    return chosen


@dataclass
class FilmCamera:
    """A person's own video, folder of images or bag, streamed to the player as it is read.

    Attributes:
        path: the film.
        window: frames a window wants; fewer in the film are said and used.
        asked: questions to ask instead of the general ones.
        topic: of the images, in a bag of several cameras.
        is_remembered: small copies of the frames are kept for pictures.
        frames: how many there are, where that is known before they are read.
        fault: what went wrong while the film was read.
    """

    path: Path
    window: int
    asked: tuple[str, ...] = ()
    topic: str | None = None
    is_remembered: bool = True
    name: str = ""
    truth: Truth | None = None
    frames: int | None = None
    fault: BaseException | None = None
    _first: list[VideoFrame] = field(default_factory=list)
    _rest: Iterator[VideoFrame] = field(default_factory=lambda: iter(()))
    _small: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.path.name
        if seven_scenes.is_sequence(self.path):
            self.truth = seven_scenes_truth(self.path)
        self._rest = iter(iterate_frames(self.path, self.topic))
        self._first = list(islice(self._rest, self.window))
        if not self._first:
            raise ValueError(f"{self.path}: expected a film, got one without any frame")
        if len(self._first) < self.window:
            self.frames = len(self._first)

    def play(self, processes: RosProcesses, folder: Path, playback: Playback) -> RosProcess:
        player = processes.start("play", ["-", *playback.options()], has_input=True)
        feeder = threading.Thread(target=self._feed, args=(player, playback.loops), daemon=True)
        feeder.start()
        return player

    def _every_frame(self, loops: int) -> Iterator[VideoFrame]:
        """Yield the film `loops` times; the first time what was read already comes first."""
        yield from chain(self._first, self._rest)
        for _ in repeat(None) if loops == FOR_EVER else range(loops - 1):
            yield from iterate_frames(self.path, self.topic)

    def _feed(self, player: RosProcess, loops: int = 1) -> None:
        """Write every frame to the player; it takes them no faster than it plays."""
        stream = player.process.stdin
        if stream is None:  # started with has_input
            raise AssertionError("a player without stdin")
        try:
            with stream:
                for frame in self._every_frame(loops):
                    if self.is_remembered:
                        self._keep(frame)
                    stream.write(frame_header(frame) + np.ascontiguousarray(frame.rgb).tobytes())
                    stream.flush()
        except BrokenPipeError:
            pass  # the player ended; whoever watches it says why
        except (OSError, ValueError) as error:
            self.fault = error

    def _keep(self, frame: VideoFrame) -> None:
        height, width = frame.rgb.shape[:2]
        factor = min(1.0, THUMBNAIL_PX / width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        done, coded = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)
        if done:
            self._small[frame.stamp_ns] = coded.tobytes()

    def image(self, stamp_ns: int) -> NDArray[np.uint8]:
        coded = np.frombuffer(self._small[stamp_ns], np.uint8)
        image = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        if image is None:  # we coded it
            raise AssertionError(f"thumbnail of {stamp_ns} cannot be read")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def questions(self, stamps_ns: Sequence[int]) -> tuple[AskedQuestion, ...]:
        return tuple(AskedQuestion(text, None) for text in self.asked or GENERAL_QUESTIONS)


def frame_header(frame: VideoFrame) -> bytes:
    """Return the line that tells the player what bytes follow."""
    height, width = frame.rgb.shape[:2]
    content = {
        "stamp_ns": int(frame.stamp_ns),
        "height": height,
        "width": width,
        "frame_id": frame.frame_id,
        "K": None if frame.K is None else np.asarray(frame.K, float).ravel().tolist(),
    }
    return json.dumps(content).encode() + b"\n"


def seven_scenes_truth(folder: Path) -> Truth:
    """Read depth and poses of a 7-Scenes folder; its world is not upright and has no boxes."""
    sequence = seven_scenes.load_sequence(folder)
    return Truth(
        stamps_ns=sequence.frames.stamps_ns,
        images=sequence.frames.images,
        depth=sequence.depth,
        K=sequence.K,
        T_truth_camera=sequence.T_world_camera,
        is_upright=False,
    )
