# SPDX-License-Identifier: Apache-2.0
"""The fast writers against their plain twins, byte for byte."""

from __future__ import annotations

import array
import struct

import numpy as np
import pytest

from vidllm_ros.geometry.point_cloud import PointCloud
from vidllm_ros.ros.message_bytes import POINT_WORDS, append_points

RNG = np.random.default_rng(0)


def cloud_of(count: int) -> PointCloud:
    return PointCloud(
        RNG.normal(size=(count, 3)).astype(np.float32),
        RNG.integers(0, 256, (count, 3), np.uint8),
        RNG.random(count, np.float32),
    )


def packed_plainly(cloud: PointCloud) -> bytes:
    """Write one point after the other, as the documentation says it."""
    rows = []
    for xyz, (red, green, blue), confidence in zip(
        cloud.points, cloud.rgb.tolist(), cloud.confidence, strict=True
    ):
        rows.append(struct.pack("<3f", *xyz))
        rows.append(struct.pack("<I", red << 16 | green << 8 | blue))
        rows.append(struct.pack("<f", confidence))
    return b"".join(rows)


def packed(cloud: PointCloud) -> bytes:
    data = array.array("B")
    append_points(data, cloud)
    return data.tobytes()


@pytest.mark.parametrize("count", [0, 1, 17, 16384, 16385, 40000])
def test_points_are_packed_as_one_by_one(count: int) -> None:
    cloud = cloud_of(count)
    assert packed(cloud) == packed_plainly(cloud)


def test_every_colour_keeps_its_bits() -> None:
    """Many colours read as a float are not numbers, or denormal; none may be touched."""
    levels = np.arange(256, dtype=np.uint8)
    rgb = np.stack([levels, levels[::-1], np.roll(levels, 7)], axis=1)
    cloud = PointCloud(np.zeros((256, 3), np.float32), rgb, np.ones(256, np.float32))
    words = np.frombuffer(packed(cloud), np.uint32).reshape(256, POINT_WORDS)[:, 3]
    np.testing.assert_array_equal(np.stack([words >> 16, words >> 8 & 255, words & 255], 1), rgb)


def test_arrays_that_are_not_contiguous_are_packed_too() -> None:
    cloud = cloud_of(40)
    strided = PointCloud(cloud.points[::2], cloud.rgb[::2], cloud.confidence[::2])
    assert packed(strided) == packed_plainly(strided)
