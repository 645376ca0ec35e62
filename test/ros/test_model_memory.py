# SPDX-License-Identifier: Apache-2.0
"""What the log says about memory is measured."""

from __future__ import annotations

import mmap
import re

import pytest

pytest.importorskip("rclpy")

from vidllm_ros.ros.model_memory import (
    describe_memory,
    describe_torch,
    memory_used_bytes,
    release_memory,
)
from vidllm_ros.streaming.loading import load_backend

pytestmark = pytest.mark.ros
BALLAST = 50_000_000


def test_memory_is_measured() -> None:
    before = memory_used_bytes("cpu")
    ballast = mmap.mmap(-1, BALLAST)  # fresh pages: the heap may have free ones left
    ballast.write(b"x" * BALLAST)
    grown = memory_used_bytes("cpu")
    assert grown - before > 40_000_000
    del ballast
    assert grown - release_memory("cpu") > 40_000_000


def test_the_words_of_configure_hold_what_was_taken() -> None:
    before = memory_used_bytes("cpu")
    ballast = mmap.mmap(-1, BALLAST)
    ballast.write(b"x" * BALLAST)
    words = describe_memory(load_backend("standin", ""), before)
    taken = re.fullmatch(r"standin on cpu in float32; (\d+) MiB taken, \d+ MiB free", words)
    assert taken is not None, words
    assert int(taken.group(1)) > 40
    ballast.close()


def test_torch_says_its_build_and_what_it_sees() -> None:
    assert re.match(r"torch \S+ \((CUDA \S+|no CUDA)\), .* seen, \d+ threads", describe_torch())
