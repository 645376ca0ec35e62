# SPDX-License-Identifier: Apache-2.0
"""Fewer passes over memory give the plain way's numbers, and are taken in float32 inference only.

The plain way is the same module with gradients on: that is what training runs.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vidllm_ros.network import fewer_passes
from vidllm_ros.network.layers import Attention, Block, RotaryEmbedding2D

CPU = torch.device("cpu")
GRID, SPECIAL = (2, 3), 2
TOKENS = SPECIAL + GRID[0] * GRID[1]


def shaken(module):
    """Give every parameter a value of its own: ones and zeros hide a forgotten term."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


@pytest.fixture
def rotary():
    return RotaryEmbedding2D(8).tables(GRID, SPECIAL, CPU)


@pytest.fixture
def x():
    return torch.randn(3, TOKENS, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def taken(monkeypatch):
    """Names of the ways that were taken."""
    names = []
    for name in ("add_linear", "add_mlp", "turned_queries_and_keys"):
        way = getattr(fewer_passes, name)
        monkeypatch.setattr(
            fewer_passes, name, lambda *a, name=name, way=way: names.append(name) or way(*a)
        )
    return names


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("turns", [True, False])
def test_a_block_computes_what_it_is_trained_to(x, rotary, taken, qk_norm, turns):
    block = shaken(Block(16, 2, qk_norm=qk_norm))
    tables = rotary if turns else None
    plain = block(x, tables)
    assert not taken
    assert plain.requires_grad
    before = x.clone()
    with torch.no_grad():
        fast = block(x, tables)
    assert taken.count("turned_queries_and_keys") == (qk_norm and turns)
    assert taken[-2:] == ["add_linear", "add_mlp"]
    assert torch.equal(x, before)
    torch.testing.assert_close(fast, plain, atol=2e-6, rtol=2e-6)


def test_what_an_attention_answers_alone_is_the_same(x, rotary, taken):
    attention = shaken(Attention(16, 2, qk_norm=True))
    with torch.inference_mode():
        fast = attention(x, rotary)
    assert taken == ["turned_queries_and_keys"]
    torch.testing.assert_close(fast, attention(x, rotary), atol=2e-6, rtol=2e-6)


def test_queries_and_keys_only_change_the_order_of_channels(x, rotary):
    attention = shaken(Attention(16, 2, qk_norm=True))
    with torch.no_grad():
        q, k, v = attention._queries_keys_values(x, rotary)
    plain_q, plain_k, plain_v = attention._queries_keys_values(x, rotary)
    order = torch.arange(8).view(2, 2, 2).transpose(1, 2).flatten()  # of a head of eight
    for fast, plain in ((q, plain_q[..., order]), (k, plain_k[..., order]), (v, plain_v)):
        torch.testing.assert_close(fast, plain, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("values", [1, 100, 1 << 18])
@pytest.mark.parametrize("bias", [True, False])
def test_tokens_of_an_mlp_may_go_in_any_number_of_turns(x, monkeypatch, values, bias):
    monkeypatch.setattr(fewer_passes, "HIDDEN_VALUES", values)
    up, down = shaken(nn.Linear(16, 24)), shaken(nn.Linear(24, 16, bias=bias))
    base, gamma = torch.randn(3, TOKENS, 16), torch.randn(16)
    kept = base.clone()
    with torch.no_grad():
        fast = fewer_passes.add_mlp(base, x, up, functional.gelu, down, gamma)
        plain = base + gamma * down(functional.gelu(up(x)))
    assert torch.equal(base, kept)
    torch.testing.assert_close(fast, plain, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_adds_up_onto_its_base(x, bias):
    linear, gamma = shaken(nn.Linear(16, 16, bias=bias)), torch.randn(16)
    base = torch.randn(TOKENS, 3, 16).transpose(0, 1)  # in another order in memory
    kept = base.clone()
    with torch.no_grad():
        fast = fewer_passes.add_linear(base, x, linear, gamma)
        torch.testing.assert_close(fast, base + gamma * linear(x), atol=2e-6, rtol=2e-6)
    assert torch.equal(base, kept)


def test_training_autocast_and_half_precision_take_the_plain_way(x, rotary, taken):
    block = shaken(Block(16, 2, qk_norm=True))
    block(x, rotary).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = block(x, rotary)
    with torch.no_grad():
        block.bfloat16()(x.bfloat16(), rotary)
    assert not taken
    with torch.no_grad():
        torch.testing.assert_close(rough.float(), block.float()(x, rotary), atol=0.1, rtol=0.1)


@pytest.mark.slow
def test_a_compiled_block_takes_the_plain_way(x, rotary, taken):
    block, fast = shaken(Block(16, 2, qk_norm=True)), Block(16, 2, qk_norm=True)
    fast.load_state_dict(block.state_dict())
    fast.compile(dynamic=False, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled = fast(x, rotary)
        assert not taken
        torch.testing.assert_close(compiled, block(x, rotary), atol=2e-6, rtol=2e-6)
