# SPDX-License-Identifier: Apache-2.0
"""Turns are as long as memory and cache allow; test_dense_head.py: they change nothing."""

import torch

from vidllm_ros.network.frame_turns import finish_at_a_time, in_turns


def test_turns_are_about_equally_long_and_never_shorter_than_asked() -> None:
    assert in_turns(32, 98304, 1 << 21, 8) == 16  # the bundled network: 21 would fit
    assert in_turns(16, 98304, 1 << 21, 8) == 16
    assert in_turns(32, 17_000_000, 1 << 21, 8) == 8  # paper size
    assert in_turns(33, 1, 16, 1) == 11
    assert in_turns(5, 1, 100, 8) == 5
    assert in_turns(0, 1, 100, 8) >= 1
    on_gpu = torch.empty(9, 1, 1, 1, device="meta")
    assert finish_at_a_time(on_gpu, (5000, 5000), 32) == 9
    assert finish_at_a_time(torch.empty(9, 1, 1, 1), (5000, 5000), 32) == 1
