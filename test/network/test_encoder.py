# SPDX-License-Identifier: Apache-2.0
"""The shared encoder: position embedding, levels, normalisation and its limits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    small = {"hidden_size": 24, "num_attention_heads": 3, "image_size": 56}
    return Encoder(VidLLMConfig(encoder=small, aggregator_heads=3)).eval()


def plain_positions(encoder: Encoder, grid: tuple[int, int]) -> torch.Tensor:
    stored = encoder.backbone.embeddings.position_embeddings
    square = stored[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = functional.interpolate(
        square, size=grid, mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([stored[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize("grid", [(3, 5), (2, 8), (8, 2), (6, 6), (1, 1)])
def test_positions_are_resized_bicubically_with_antialias(
    encoder: Encoder, grid: tuple[int, int]
) -> None:
    """Grid (2, 8) has the native count of 16 without being square, and is resized all the same."""
    height, width = 14 * grid[0], 14 * grid[1]
    tokens = torch.zeros(1, 1 + grid[0] * grid[1], 24)
    ours = encoder.backbone.embeddings.interpolate_pos_encoding(tokens, height, width)
    torch.testing.assert_close(ours, plain_positions(encoder, grid))


def test_positions_of_the_native_square_are_used_as_stored(encoder: Encoder) -> None:
    embeddings = encoder.backbone.embeddings
    ours = embeddings.interpolate_pos_encoding(torch.zeros(1, 17, 24), 56, 56)
    assert torch.equal(ours, embeddings.position_embeddings)


@torch.inference_mode()
def test_levels_are_normalised_hidden_states_without_special_tokens(encoder: Encoder) -> None:
    images = torch.rand(2, 3, 3, 28, 42)
    output = encoder(images)
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    reference = encoder.backbone(((images - mean) / std).flatten(0, 1), output_hidden_states=True)
    expected_last = reference.last_hidden_state[:, 5:].unflatten(0, (2, 3))
    torch.testing.assert_close(output.patch_tokens, expected_last)
    assert output.grid == (2, 3)
    assert len(output.levels) == 4
    for layer, level in zip(encoder.level_layers, output.levels, strict=True):
        hidden = encoder.backbone.layernorm(reference.hidden_states[layer + 1])
        torch.testing.assert_close(level, hidden[:, 5:].unflatten(0, (2, 3)))


@torch.inference_mode()
def test_frames_are_encoded_independently(encoder: Encoder) -> None:
    images = torch.rand(1, 3, 3, 28, 28)
    together = encoder(images).patch_tokens
    alone = torch.cat([encoder(images[:, [s]]).patch_tokens for s in range(3)], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_last_level_may_lie_before_the_last_layer() -> None:
    config = VidLLMConfig(
        encoder={"hidden_size": 24, "num_attention_heads": 3}, encoder_layers=(0, 1, 2, 3)
    )
    output = Encoder(config)(torch.rand(1, 1, 3, 14, 28))
    assert output.patch_tokens.shape == output.levels[3].shape == (1, 1, 2, 24)
    assert not torch.allclose(output.patch_tokens, output.levels[3])


def test_attention_is_sdpa_and_mask_token_is_frozen(encoder: Encoder) -> None:
    assert encoder.backbone.config._attn_implementation == "sdpa"
    frozen = [name for name, p in encoder.named_parameters() if not p.requires_grad]
    assert frozen == ["backbone.embeddings.mask_token"]


def test_every_trained_parameter_gets_a_gradient_with_checkpointing() -> None:
    config = VidLLMConfig(encoder={"hidden_size": 24, "num_attention_heads": 3})
    encoder = Encoder(config).train()
    images = torch.rand(1, 2, 3, 28, 28)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            encoder.backbone.gradient_checkpointing_enable()
        encoder.zero_grad()
        encoder(images).patch_tokens.square().sum().backward()
        gradients.append(
            {name: p.grad for name, p in encoder.named_parameters() if p.requires_grad}
        )
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 3, 30, 28), "multiples of 14 px, got 30x28"),
        ((1, 2, 3, 0, 28), "multiples of 14 px, got 0x28"),
        ((2, 3, 28, 28), "expected \\(B, S, 3, H, W\\)"),
        ((1, 2, 1, 28, 28), "expected \\(B, S, 3, H, W\\)"),
    ],
)
def test_other_shapes_are_refused(encoder: Encoder, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape))
