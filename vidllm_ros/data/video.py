# SPDX-License-Identifier: Apache-2.0
"""A person's own camera: a video file, a folder of images or a rosbag2, through one door.

Frames are decoded one at a time; a long film never lies in memory. Images in a folder are taken
in the order a person would read their names, videos keep their own times, bags their header
stamps. What cannot be read is said in one sentence that names the file.
Next: video_file.py, image_folder.py and bags.py, one for each kind; geometry/image.py resizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.frame_source import FrameSource, VideoFrame
from vidllm_ros.data.image_folder import IMAGE_SUFFIXES, ImageFolder
from vidllm_ros.data.video_file import VideoFile
from vidllm_ros.structures import Frames

__all__ = ["VideoFrame", "count_frames", "iterate_frames", "open_film", "sample_uniform"]

BAG_SUFFIXES = (".mcap", ".db3")


def open_film(path: str | Path, topic: str | None = None) -> FrameSource:
    """Find out what kind of film this is and open it; nothing is decoded yet.

    Args:
        path: video file, folder of images, rosbag2 folder, or one .mcap or .db3 file.
        topic: image topic of a bag that has several.

    Raises:
        FileNotFoundError: there is nothing at this path, or nothing to see in this folder.
        ValueError: it is no film, or a bag whose image topic is not clear.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a video, images or a bag")
    is_folder = path.is_dir()
    suffix = "" if is_folder else path.suffix.lower()
    if suffix in BAG_SUFFIXES or (is_folder and _holds_a_bag(path)):
        from vidllm_ros.data.bags import Bag

        return Bag(path, topic)
    if topic is not None:
        raise ValueError(f"topic: expected none, since {path} is no rosbag2, got {topic}")
    if suffix == ".bag":
        raise ValueError(
            f"{path}: expected a rosbag2, got a ROS 1 bag; convert it with `rosbags-convert`"
        )
    if is_folder or suffix in IMAGE_SUFFIXES:
        return ImageFolder(path)
    return VideoFile(path)


def _holds_a_bag(folder: Path) -> bool:
    """Tell a bag's folder; a metadata.yaml beside images may be anybody's."""
    entries = list(folder.iterdir())
    if any(entry.suffix in BAG_SUFFIXES for entry in entries):
        return True
    has_images = any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries)
    return not has_images and any(entry.name == "metadata.yaml" for entry in entries)


def iterate_frames(path: str | Path, topic: str | None = None) -> Iterator[VideoFrame]:
    """Open a film at once and yield its frames one by one, oldest first.

    A clock that was set back, or a message recorded twice, would make two frames one; frames that
    are not newer than the one before are left out, and the log says how many.

    Raises:
        FileNotFoundError, ValueError: as `open_film`, and in the middle of a torn film.
    """
    return open_film(path, topic).read()


def count_frames(path: str | Path, topic: str | None = None) -> int:
    """Return how many frames a film announces, without decoding where it says so itself."""
    source = open_film(path, topic)
    return source.count() or sum(1 for _ in source.read())


def sample_uniform(path: str | Path, count: int, topic: str | None = None) -> Frames:
    """Read `count` frames evenly over a film, the first and the last among them.

    A film with fewer gives all it has: compare `len()` of the result with `count`.

    Raises:
        FileNotFoundError, ValueError: as `iterate_frames`; the images differ in size; no frames.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1 frame, got {count}")
    source = open_film(path, topic)
    available = source.count()
    places = even_places(available, count)
    frames = join_frames(source, places)
    if frames is None or len(frames) < min(count, len(places) or count):
        # the film announced more frames than it holds, or none: see how many there really are
        available = sum(1 for _ in source.read())
        frames = join_frames(source, even_places(available, count))
    if frames is None:
        raise ValueError(f"{path}: expected a film, got one without any frame; record it again")
    return frames


def even_places(available: int, count: int) -> list[int]:
    """Return `count` places spread evenly over `available`, both ends included; all if fewer."""
    if available <= count:
        return list(range(available))
    return np.linspace(0, available - 1, count).round().astype(int).tolist()


def join_frames(source: FrameSource, places: list[int]) -> Frames | None:
    """Read the frames at these places into one array; None if there are none."""
    if not places:
        return None
    images: NDArray[np.uint8] | None = None
    read: list[VideoFrame] = []
    for frame in source.read(places):
        if images is None:
            images = np.empty((len(places), *frame.rgb.shape), np.uint8)
        if frame.rgb.shape != images.shape[1:]:
            was, now = images.shape[1:3], frame.rgb.shape[:2]
            raise ValueError(
                f"{source.path}: expected images of one size, got {was[1]} x {was[0]} and then "
                f"{now[1]} x {now[0]}; split the film where the size changes"
            )
        images[len(read)] = frame.rgb
        read.append(VideoFrame(frame.stamp_ns, images[len(read)], frame.frame_id, frame.K))
    if images is None:
        return None
    matrices = [frame.K for frame in read if frame.K is not None]
    return Frames(
        images=images[: len(read)],
        stamps_ns=tuple(frame.stamp_ns for frame in read),
        frame_id=read[0].frame_id,
        K=np.stack(matrices) if len(matrices) == len(read) else None,
    )
