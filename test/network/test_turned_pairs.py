# SPDX-License-Identifier: Apache-2.0
"""Attention of float32 inference turns pairs; it equals what training runs, and only it does so.

The plain way is the same module with gradients on.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidllm_ros.network.layers import Attention, Block, RotaryEmbedding2D, RotaryTables

GRID, SPECIAL, HEAD = (2, 3), 2, 8
TOKENS = SPECIAL + GRID[0] * GRID[1]


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value of its own: ones and zeros hide a forgotten term."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


@pytest.fixture
def rotary() -> RotaryTables:
    return RotaryEmbedding2D(HEAD).tables(GRID, SPECIAL, torch.device("cpu"))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, TOKENS, 2 * HEAD, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grow by one each time that pairs are turned."""
    calls: list[str] = []
    way = Attention._turned_by_pairs

    def noted(self: Attention, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        calls.append("pairs")
        return way(self, x, turns)

    monkeypatch.setattr(Attention, "_turned_by_pairs", noted)
    return calls


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_block_computes_what_it_is_trained_to(x, rotary, taken, mode) -> None:
    block = shaken(Block(2 * HEAD, 2, qk_norm=True))
    plain = block(x, rotary)
    assert plain.requires_grad
    assert not taken
    kept = x.clone()
    with mode():
        fast = block(x, rotary)
    assert taken == ["pairs"]
    assert torch.equal(x, kept)
    torch.testing.assert_close(fast, plain.detach(), atol=2e-6, rtol=2e-6)


def test_queries_and_keys_change_the_order_of_channels_alone(x, rotary) -> None:
    attention = shaken(Attention(2 * HEAD, 2, qk_norm=True))
    seen: list[tuple[Tensor, ...]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((q.detach(), k.detach(), v.detach()))
        return attend(q, k, v)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        attention(x, rotary)
        with torch.no_grad():
            attention(x, rotary)
    order = torch.arange(HEAD).view(2, 2, -1).transpose(1, 2).flatten()
    (q, k, v), (fast_q, fast_k, fast_v) = seen
    for fast, plain in ((fast_q, q[..., order]), (fast_k, k[..., order]), (fast_v, v)):
        assert fast.shape == (3, 2, TOKENS, HEAD)
        torch.testing.assert_close(fast, plain, atol=2e-6, rtol=2e-6)


def test_training_autocast_and_half_precision_take_the_plain_way(x, rotary, taken) -> None:
    block = shaken(Block(2 * HEAD, 2, qk_norm=True))
    block(x, rotary).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            block(x, rotary)
        block.bfloat16()(x.bfloat16(), rotary)
    assert not taken


def test_without_norms_or_without_angles_nothing_is_turned(x, rotary, taken) -> None:
    with torch.no_grad():
        Attention(2 * HEAD, 2, qk_norm=True)(x)
        Attention(2 * HEAD, 2, qk_norm=False)(x, rotary)
    assert not taken


class Adapted(nn.Module):
    """A linear layer with something of low rank beside it, which shows its weight as LoRA does."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_a_layer_put_around_qkv_is_not_passed_by(x, rotary, taken) -> None:
    attention = shaken(Attention(2 * HEAD, 2, qk_norm=True))
    bare = attention(x, rotary)
    attention.qkv = Adapted(attention.qkv)
    wanted = attention(x, rotary)
    assert not torch.allclose(wanted, bare, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(attention(x, rotary), wanted, atol=2e-6, rtol=2e-6)
    assert not taken


@pytest.mark.parametrize("name", ["qkv", "q_norm", "k_norm"])
@pytest.mark.parametrize("before", [True, False])
def test_hooks_are_called(x, rotary, taken, name: str, before: bool) -> None:
    attention = shaken(Attention(2 * HEAD, 2, qk_norm=True))
    layer, seen = getattr(attention, name), []
    register = layer.register_forward_pre_hook if before else layer.register_forward_hook
    handle = register(lambda *_: seen.append(name))
    with torch.no_grad():
        attention(x, rotary)
        assert seen == [name]
        assert not taken
        handle.remove()
        attention(x, rotary)
    assert taken == ["pairs"]


@pytest.mark.slow
def test_a_compiled_block_takes_the_plain_way(x, rotary, taken) -> None:
    block, fast = shaken(Block(2 * HEAD, 2, qk_norm=True)), Block(2 * HEAD, 2, qk_norm=True)
    fast.load_state_dict(block.state_dict())
    fast.compile(dynamic=False, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled = fast(x, rotary)
        assert not taken
        torch.testing.assert_close(compiled, block(x, rotary), atol=2e-6, rtol=2e-6)
