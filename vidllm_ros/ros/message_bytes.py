# SPDX-License-Identifier: Apache-2.0
"""Bytes of large messages, written once and where they stay: in the message's own array.

rclpy copies what is handed to a constructor or assigned, so an array that was filled before
travels twice. Here the array that a new message already has is appended to. Knows numpy and
OpenCV alone, so that it is tested without ROS. Next: conversions.py, which calls it.
"""

from __future__ import annotations

import array

import cv2
import numpy as np

from vidllm_ros.geometry.point_cloud import PointCloud

POINT_WORDS = 5
"""x y z, the packed colour and the confidence: five words of four bytes a point."""
_BLOCK = 16384
"""Points at a time: 320 kB, which the processor's cache holds while they are interleaved."""
_RGB_BITS = np.uint32(0xFFFFFF)
_STRAIGHT = [channel for word in range(POINT_WORDS) for channel in (word, word)]


def append_points(data: array.array[int], cloud: PointCloud) -> None:
    """Append a cloud as rows of x y z rgb confidence, colours packed as PCL and RViz read them.

    The colour's word is 0x00RRGGBB in a float's place; it is moved as bits, never as a number.
    Blocks are interleaved in a buffer that stays in cache, so that the long array is written
    once and read never: twice the cost of copying the bytes, where three passes cost six times.

    Args:
        data: of a message, typecode B.
        cloud: its points.
    """
    points = np.ascontiguousarray(cloud.points, np.float32)[None]
    rgb = np.ascontiguousarray(cloud.rgb)[None]
    confidence = np.ascontiguousarray(cloud.confidence, np.float32)[None, :, None]
    rows = np.empty((1, _BLOCK, POINT_WORDS), np.float32)
    colours = np.empty((1, _BLOCK, 4), np.uint8)
    for start in range(0, len(cloud), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(cloud)))
        room = slice(0, block.stop - start)
        cv2.cvtColor(rgb[:, block], cv2.COLOR_RGB2BGRA, dst=colours[:, room])
        words = colours.view(np.uint32)[:, room]  # alpha 255 on top
        words &= _RGB_BITS
        sources = [points[:, block], words.view(np.float32), confidence[:, block]]
        cv2.mixChannels(sources, [rows[:, room]], _STRAIGHT)
        data.frombytes(rows[0, room].data.cast("B"))
