# SPDX-License-Identifier: Apache-2.0
"""DPT decoder and heads against plain twins: residuals, order of operations, uv, chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidllm_ros.network import frame_turns
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.dense_head import (
    DPTDecoder,
    DPTHead,
    Fusion,
    ResidualUnit,
    build_depth_head,
    build_point_head,
    enlarge,
    inverse_log,
    resize,
)


def config() -> VidLLMConfig:
    return VidLLMConfig(
        encoder={"hidden_size": 12, "num_attention_heads": 3},
        dense_features=16,
        dense_channels=(8, 12, 16, 16),
    )


def levels(frames: int, patches: int, dim: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, frames, patches, dim, generator=generator) for _ in range(4)]


def test_a_head_trains_as_it_inferred_before() -> None:
    head = build_depth_head(config())
    with torch.inference_mode():
        before = head(levels(2, 6, 24), (2, 3), (28, 42)).values.clone()
    trained = head(levels(2, 6, 24), (2, 3), (28, 42)).values
    trained.mean().backward()
    assert all(parameter.grad is not None for parameter in head.decoder.parameters())
    torch.testing.assert_close(before, trained.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kernel", [2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_enlarging_as_a_product_is_the_transposed_convolution(kernel: int, bias: bool) -> None:
    conv = nn.ConvTranspose2d(5, 3, kernel, stride=kernel, bias=bias)
    x = torch.randn(2, 5, 4, 3)
    for map_ in (x, x.to(memory_format=torch.channels_last)):
        fast, plain = enlarge(conv, map_), conv(map_)
        assert fast.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-6)
        mine = torch.autograd.grad(fast.square().sum(), list(conv.parameters()))
        theirs = torch.autograd.grad(plain.square().sum(), list(conv.parameters()))
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)


class Louder(nn.Module):
    """Twice what a convolution says; shows its weight as adapters do."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.base(x)


@torch.inference_mode()
@pytest.mark.parametrize("place", ["projects", "resizes"])
def test_what_is_put_around_a_convolution_is_called(place: str) -> None:
    plain = build_depth_head(config()).eval()
    with_ = build_depth_head(config()).eval()
    with_.load_state_dict(plain.state_dict())
    for weight in ("weight", "bias"):
        getattr(getattr(plain.decoder, place)[0], weight).mul_(2)
    layers = getattr(with_.decoder, place)
    layers[0] = Louder(layers[0])
    tokens = levels(2, 6, 24)
    wanted, got = (head(tokens, (2, 3), (28, 42)).values for head in (plain, with_))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("place", ["projects", "resizes"])
@pytest.mark.parametrize("before", [True, False])
def test_hooks_of_convolutions_are_called(place: str, before: bool) -> None:
    head = build_depth_head(config()).eval()
    tokens = levels(2, 6, 24)
    wanted = head(tokens, (2, 3), (28, 42)).values
    seen: list[str] = []
    layer = getattr(head.decoder, place)[0]
    register = layer.register_forward_pre_hook if before else layer.register_forward_hook
    register(lambda *_: seen.append(place))
    got = head(tokens, (2, 3), (28, 42)).values
    assert seen == [place]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gradient", [True, False])
def test_a_head_leaves_its_tokens_as_they_were(gradient: bool) -> None:
    tokens = levels(2, 6, 24)
    kept = [level.clone() for level in tokens]
    with torch.set_grad_enabled(gradient):
        build_depth_head(config())(tokens, (2, 3), (28, 42))
    assert all(torch.equal(a, b) for a, b in zip(tokens, kept, strict=True))


def test_rectified_residual_is_what_an_inplace_relu_does() -> None:
    unit = ResidualUnit(4, rectified=True)
    x = torch.randn(1, 4, 5, 5)
    relu = nn.ReLU(inplace=True)
    with torch.no_grad():
        overwritten = x.clone()
        inside = unit.conv2(relu(unit.conv1(relu(overwritten))))
        torch.testing.assert_close(unit(x), inside + overwritten)
        raw = ResidualUnit(4, rectified=False)
        raw.load_state_dict(unit.state_dict())
        torch.testing.assert_close(raw(x), inside + x)
        assert not torch.allclose(raw(x), unit(x))


@pytest.mark.parametrize("size", [(10, 14), (9, 13), (5, 7)])
@pytest.mark.parametrize("has_skip", [True, False])
def test_convolution_before_resize_equals_after(size: tuple[int, int], has_skip: bool) -> None:
    fusion = Fusion(8, rectified=True, has_skip=has_skip)
    x = torch.randn(2, 8, 5, 7)
    skip = torch.randn(2, 8, 5, 7) if has_skip else None
    with torch.no_grad():
        plain = fusion.out_conv(resize(fusion.mix(x, skip), size))
        torch.testing.assert_close(fusion(x, skip, size), plain, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("grid", "coarse"), [((4, 6), (2, 3)), ((3, 5), (2, 3)), ((1, 1), (1, 1))]
)
def test_decoder_sizes(grid: tuple[int, int], coarse: tuple[int, int]) -> None:
    decoder = DPTDecoder(12, 16, [8, 12, 16, 16])
    h, w = grid
    tokens = [level[0] for level in levels(2, h * w, 12)]
    features = decoder(tokens, grid, (14 * h, 14 * w))
    assert features.bottleneck.shape == (2, 16, *coarse)
    assert [tuple(f.shape[1:]) for f in features.fused] == [
        (16, scale * h, scale * w) for scale in (1, 2, 4, 8)
    ]
    assert features.final.shape == (2, 8, 8 * h, 8 * w)
    finished = decoder.finish(features.final, (14 * h, 14 * w))
    assert finished.shape == (2, 8, 14 * h, 14 * w)
    assert torch.isfinite(finished).all()


@torch.inference_mode()
def test_decoder_flags_choose_the_metric_decoder() -> None:
    raw = DPTDecoder(
        12,
        16,
        [8, 12, 16, 16],
        uv_embedding=False,
        token_norm=False,
        inplace_relu_residual=False,
    )
    assert not any(isinstance(module, nn.LayerNorm) for module in raw.modules())
    assert not any(m.rectified for m in raw.modules() if isinstance(m, ResidualUnit))
    tokens = [level[0] for level in levels(1, 6, 12)]
    alike = DPTDecoder(12, 16, [8, 12, 16, 16], token_norm=False, inplace_relu_residual=False)
    alike.load_state_dict(raw.state_dict())
    with_uv = alike(tokens, (2, 3), (28, 42)).final
    assert not torch.allclose(raw(tokens, (2, 3), (28, 42)).final, with_uv)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
def test_chunks_change_nothing(chunk: int) -> None:
    head = build_depth_head(config()).eval()
    tokens = levels(5, 6, 24)
    whole = head(tokens, (2, 3), (28, 42), frames_chunk=5)
    parts = head(tokens, (2, 3), (28, 42), frames_chunk=chunk)
    torch.testing.assert_close(parts.values, whole.values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.confidence, whole.confidence, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("values", [1, 3 * 28 * 42 * 32, 1 << 40])
def test_turns_at_image_size_change_nothing(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    head = build_depth_head(config()).eval()
    tokens = levels(7, 6, 24)
    whole = head(tokens, (2, 3), (28, 42))  # with a gradient, for the plain way
    monkeypatch.setattr(frame_turns, "FINISH_VALUES", values)
    seen: list[int] = []
    head.decoder.finish.register_forward_hook(lambda _, a, out: seen.append(len(out)))
    with torch.no_grad():
        parts = head(tokens, (2, 3), (28, 42))
    assert seen == {1: 7 * [1], 1 << 40: [7]}.get(values, [3, 3, 1])
    torch.testing.assert_close(parts.values, whole.values.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.confidence, whole.confidence.detach(), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_depth_and_points_have_documented_shapes_and_ranges() -> None:
    torch.manual_seed(1)
    tokens = levels(3, 6, 24)
    depth = build_depth_head(config())(tokens, (2, 3), (28, 42))
    points = build_point_head(config())(tokens, (2, 3), (28, 42))
    assert depth.values.shape == depth.confidence.shape == (1, 3, 28, 42)
    assert points.values.shape == (1, 3, 28, 42, 3)
    assert points.confidence.shape == (1, 3, 28, 42)
    assert (depth.values > 0).all()
    assert (depth.confidence >= 1).all()
    assert (points.confidence >= 1).all()
    assert points.values.min() < 0 < points.values.max()


def test_inverse_log_undoes_signed_log() -> None:
    y = torch.linspace(-5, 5, 21)
    torch.testing.assert_close(
        inverse_log(torch.sign(y) * torch.log1p(y.abs())), y, atol=1e-5, rtol=1e-5
    )


def test_every_parameter_gets_a_finite_gradient() -> None:
    head = build_point_head(config())
    out = head(levels(2, 6, 24), (2, 3), (28, 42), frames_chunk=1)
    (out.values.square().mean() + out.confidence.mean()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@torch.inference_mode()
def test_bfloat16_autocast_answers_float32() -> None:
    head = build_depth_head(config())
    tokens = levels(2, 6, 24)
    plain = head(tokens, (2, 3), (28, 42)).values
    with torch.autocast("cpu", torch.bfloat16):
        rough = head(tokens, (2, 3), (28, 42)).values
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, plain, atol=0.05, rtol=0.05)


@torch.inference_mode()
def test_frames_do_not_mix() -> None:
    head = build_depth_head(config())
    tokens = levels(3, 6, 24)
    alone = head([level[:, 1:2] for level in tokens], (2, 3), (28, 42)).values
    together = head(tokens, (2, 3), (28, 42)).values
    torch.testing.assert_close(together[:, 1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("grid", "size"), [((3, 3), (42, 42)), ((2, 3), (28, 28)), ((3, 2), (28, 42))]
)
def test_sizes_that_do_not_belong_together_are_refused(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="expected h\\*w = 6 and image_size"):
        build_depth_head(config())(levels(1, 6, 24), grid, size)


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="activation: expected one of"):
        DPTHead(config(), 24, 2, 16, [8, 8, 8, 8], activation="softplus")
    with pytest.raises(ValueError, match="output_dim: expected values and a confidence, got 1"):
        DPTHead(config(), 24, 1, 16, [8, 8, 8, 8])
    with pytest.raises(ValueError, match="channels: expected four"):
        DPTDecoder(12, 16, [8, 8, 8])
