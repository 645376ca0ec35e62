# SPDX-License-Identifier: Apache-2.0
"""The aggregator: what is kept, who may change places, and what a frame sees."""

from __future__ import annotations

import pytest
import torch

from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.configuration import VidLLMConfig


def build(layers: tuple[int, ...] = (0, 1, 2, 3), depth: int = 4) -> Aggregator:
    torch.manual_seed(0)
    aggregator = Aggregator(
        VidLLMConfig(
            encoder={"hidden_size": 24, "num_attention_heads": 3},
            aggregator_heads=3,
            aggregator_depth=depth,
            aggregator_layers=layers,
            aggregator_registers=2,
        )
    )
    for parameter in aggregator.parameters():  # LayerScale 0.01 would hide every difference
        torch.nn.init.normal_(parameter, std=0.3)
    return aggregator.eval()


@torch.inference_mode()
def test_keeps_the_asked_levels_and_the_last() -> None:
    output = build(layers=(0, 2, 3, 4), depth=6)(torch.randn(2, 3, 6, 24), (2, 3))
    assert sorted(output.levels) == [0, 2, 3, 4, 5]
    assert output.patch_start == 3
    assert all(level.shape == (2, 3, 9, 48) for level in output.levels.values())
    assert output.last is output.levels[5]
    patches = output.patch_levels([0, 4])
    assert torch.equal(patches[1], output.levels[4][:, :, 3:])


@torch.inference_mode()
def test_other_frames_permute_and_the_first_does_not() -> None:
    aggregator = build()
    tokens = torch.randn(1, 4, 6, 24)
    order = [0, 3, 1, 2]
    plain, moved = aggregator(tokens, (2, 3)).last, aggregator(tokens[:, order], (2, 3)).last
    torch.testing.assert_close(moved, plain[:, order], atol=1e-4, rtol=1e-4)
    swap = [1, 0, 2, 3]
    swapped = aggregator(tokens[:, swap], (2, 3)).last
    assert (swapped - plain[:, swap]).abs().max() > 1e-2


@torch.inference_mode()
def test_output_is_frame_half_beside_global_half() -> None:
    """The first frame half sees its own frame only; the global half sees all."""
    aggregator = build()
    tokens = torch.randn(1, 2, 6, 24)
    changed = tokens.clone()
    changed[:, 1] = torch.randn(6, 24)
    first, second = aggregator(tokens, (2, 3)).levels[0], aggregator(changed, (2, 3)).levels[0]
    torch.testing.assert_close(first[:, 0, :, :24], second[:, 0, :, :24])
    assert (first[:, 0, :, 24:] - second[:, 0, :, 24:]).abs().max() > 1e-3


@torch.inference_mode()
def test_first_frame_has_tokens_of_its_own() -> None:
    aggregator = build()
    tokens = aggregator._special_tokens(2, 3)
    assert tokens.shape == (2, 3, 3, 24)
    assert torch.equal(tokens[:, 1], tokens[:, 2])
    assert torch.equal(tokens[1, 0, 0], aggregator.camera_token[0, 0, 0])
    assert torch.equal(tokens[0, 2, 1:], aggregator.register_token[0, 1])


@torch.inference_mode()
@pytest.mark.parametrize(("frames", "grid"), [(1, (1, 1)), (1, (2, 3)), (5, (3, 1))])
def test_any_frame_count_and_grid(frames: int, grid: tuple[int, int]) -> None:
    output = build()(torch.randn(2, frames, grid[0] * grid[1], 24), grid)
    assert output.last.shape == (2, frames, 3 + grid[0] * grid[1], 48)
    assert torch.isfinite(output.last).all()


@torch.inference_mode()
def test_batch_items_do_not_mix() -> None:
    aggregator = build()
    tokens = torch.randn(2, 3, 4, 24)
    alone = torch.cat([aggregator(tokens[[b]], (2, 2)).last for b in range(2)])
    torch.testing.assert_close(aggregator(tokens, (2, 2)).last, alone, atol=1e-4, rtol=1e-4)


def test_checkpointing_changes_no_gradient() -> None:
    aggregator = build().train()
    tokens = torch.randn(1, 2, 4, 24)
    gradients = []
    for checkpointing in (False, True):
        aggregator.gradient_checkpointing = checkpointing
        aggregator.zero_grad()
        sum(x.square().mean() for x in aggregator(tokens, (2, 2)).levels.values()).backward()
        gradients.append({name: p.grad for name, p in aggregator.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@torch.inference_mode()
def test_bfloat16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    aggregator = Aggregator(VidLLMConfig()).eval()
    tokens = torch.randn(1, 3, 6, 192)
    plain = aggregator(tokens, (2, 3)).last
    with torch.autocast("cpu", torch.bfloat16):
        rough = aggregator(tokens, (2, 3)).last.float()
    assert (rough - plain).norm() / plain.norm() < 0.01


def test_training_after_inference_works() -> None:
    aggregator = build().train()
    tokens = torch.randn(1, 2, 4, 24)
    with torch.inference_mode():
        aggregator(tokens, (2, 2))
    aggregator(tokens, (2, 2)).last.sum().backward()
    assert aggregator.camera_token.grad is not None


def test_grid_must_fit_the_tokens() -> None:
    with pytest.raises(ValueError, match=r"grid: expected h\*w = 6 patch tokens, got \(2, 2\)"):
        build()(torch.randn(1, 1, 6, 24), (2, 2))
