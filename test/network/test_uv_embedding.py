# SPDX-License-Identifier: Apache-2.0
"""The uv embedding against its formula, pixel by pixel, and how it is added."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from vidllm_ros.network.uv_embedding import add_uv, uv_embedding

CPU = torch.device("cpu")


def plain_uv(channels: int, rows: int, columns: int, aspect: float) -> Tensor:
    """Pixel by pixel in float64."""
    out = torch.zeros(channels, rows, columns, dtype=torch.float64)
    half, quarter = channels // 2, channels // 4
    spans = (aspect / math.hypot(aspect, 1), 1 / math.hypot(aspect, 1))
    for y in range(rows):
        for x in range(columns):
            for axis, (index, count) in enumerate(((x, columns), (y, rows))):
                edge = spans[axis] * (count - 1) / count
                place = -edge + (2 * edge * index / (count - 1) if count > 1 else 0)
                for i in range(quarter):
                    angle = place * 100 ** (-i / quarter)
                    out[axis * half + i, y, x] = math.sin(angle)
                    out[axis * half + quarter + i, y, x] = math.cos(angle)
    return out


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (5, 2)])
def test_uv_embedding_matches_its_formula(size: tuple[int, int]) -> None:
    ours = uv_embedding(12, size, aspect=1.5, device=CPU)
    torch.testing.assert_close(ours.double(), plain_uv(12, *size, 1.5), atol=1e-6, rtol=0)


def test_uv_embedding_refuses_channels_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="multiple of 4 for uv embedding, got 6"):
        uv_embedding(6, (2, 2), 1.0, CPU)


def test_it_is_added_into_the_map_unless_a_gradient_needs_it() -> None:
    x = torch.randn(2, 12, 3, 4)
    expected = x + 0.1 * plain_uv(12, 3, 4, 1.25).float()
    kept = x.clone()
    torch.testing.assert_close(add_uv(x, 1.25), expected)
    assert torch.equal(x, kept)
    with torch.no_grad():
        assert add_uv(x, 1.25) is x
    torch.testing.assert_close(x, expected)


def test_one_of_inference_can_be_kept_for_a_gradient_later() -> None:
    size = (23, 29)  # of no other test: inference is the first to ask
    with torch.inference_mode():
        seen = uv_embedding(12, size, 1.25, CPU)
        add_uv(torch.zeros(1, 12, *size), 1.25)
    gains = torch.ones(12, 1, 1, requires_grad=True)
    later = uv_embedding(12, size, 1.25, CPU)
    (gains * later).sum().backward()  # a product keeps it; a tensor of inference would be refused
    torch.testing.assert_close(gains.grad, later.sum((1, 2), keepdim=True))
    assert torch.equal(seen, later), "nobody wrote into the table"


def test_its_memory_is_ordered_as_the_maps_are() -> None:
    assert uv_embedding(12, (3, 4), 1.25, CPU)[None].is_contiguous(
        memory_format=torch.channels_last
    )


def test_a_pass_without_memory_leaves_nothing_for_later_ones() -> None:
    channels, size = 12, (17, 19)  # of no other test: nothing of them is remembered yet
    with FakeTensorMode():
        made_up = uv_embedding(channels, size, 1.25, CPU)
    assert isinstance(made_up, FakeTensor)
    real = uv_embedding(channels, size, 1.25, CPU)
    assert not isinstance(real, FakeTensor)
    torch.testing.assert_close(real.double(), plain_uv(channels, *size, 1.25), atol=1e-6, rtol=0)
    with FakeTensorMode():  # and does not take the real ones that are remembered now
        assert isinstance(uv_embedding(channels, size, 1.25, CPU), FakeTensor)
