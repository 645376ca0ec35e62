# SPDX-License-Identifier: Apache-2.0
"""A video file as a film, whatever FFmpeg reads: its own times, and silence on stderr.

A container may announce more frames than it holds, or none at all; what counts is what can be
read. Next: video.py, where all kinds of film meet.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterator
from contextlib import closing
from itertools import count as count_up
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.frame_source import FIRST_STAMP_NS, OPTICAL_FRAME, VideoFrame, check_size

ASSUMED_RATE_HZ = 30.0
log = logging.getLogger(__name__)


class VideoFile:
    """A video file, whatever FFmpeg reads; stamps are its own times from FIRST_STAMP_NS on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(_Capture(path)) as capture:
            if not capture.grab():
                raise ValueError(
                    f"{path}: expected a video, got one without any readable frame; "
                    "record it again"
                )
            check_size(str(path), capture.retrieve())
            self._announced = capture.announced

    def count(self) -> int:
        return self._announced

    def read(self, chosen: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Yield the frames at these places; a film that ends early is said in the log."""
        last = max(chosen, default=-1) if chosen is not None else math.inf
        wanted = None if chosen is None else frozenset(chosen)
        stamp_ns = FIRST_STAMP_NS - 1
        with closing(_Capture(self.path)) as capture:
            for place in count_up():
                if place > last:
                    return
                if not capture.grab():
                    break
                now_ns = FIRST_STAMP_NS + capture.time_ns(place)
                if now_ns <= stamp_ns:  # a film without times, or with a clock set back
                    now_ns = stamp_ns + capture.period_ns
                stamp_ns = now_ns
                if wanted is None or place in wanted:
                    yield VideoFrame(stamp_ns, capture.retrieve(), OPTICAL_FRAME, None)
        if place < self._announced:
            log.warning(
                "%s: %d frames announced, %d can be read", self.path, self._announced, place
            )
        self._announced = place


class _Capture:
    """cv2.VideoCapture without its chatter on stderr, and with an error that names the file."""

    def __init__(self, path: Path) -> None:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            with path.open("rb"):  # says by itself why a file cannot be opened
                pass
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        finally:
            cv2.utils.logging.setLogLevel(level)
        self.path = path
        if not self._capture.isOpened():
            size = path.stat().st_size
            raise ValueError(
                f"{path}: expected a video, got {size} bytes that FFmpeg cannot read; "
                "give an intact mp4, mov, mkv, avi or webm"
            )
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.period_ns = round(1e9 / (rate_hz if 0.1 <= rate_hz <= 1000 else ASSUMED_RATE_HZ))
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def grab(self) -> bool:
        """Go to the next frame; False at the end."""
        return bool(self._capture.grab())

    def time_ns(self, place: int) -> int:
        """Return the time of the grabbed frame since the film's beginning."""
        time_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if place > 0 and time_ms <= 0:
            return place * self.period_ns
        return round(time_ms * 1e6)

    def retrieve(self) -> NDArray[np.uint8]:
        """Decode the grabbed frame to RGB, (H, W, 3)."""
        done, image = self._capture.retrieve()
        if not done:
            raise ValueError(
                f"{self.path}: expected a video, got a frame that is torn; convert it"
            )
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        self._capture.release()
