# SPDX-License-Identifier: Apache-2.0
"""Every row of Table 6: shapes, where news may travel, and what step 0 leaves untouched."""

import pytest
import torch

from vidllm_ros.network.configuration import ADAPTERS, VidLLMConfig
from vidllm_ros.network.cross_task_adapter import CrossTaskAdapter


def build(**changes):
    torch.manual_seed(0)
    return CrossTaskAdapter(VidLLMConfig(**changes))


@pytest.fixture
def tokens():
    return torch.randn(2, 3, 6, 192, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("residual", [True, False])
def test_shapes_of_every_variant(tokens, adapter, residual):
    out = build(adapter=adapter, adapter_residual=residual)(tokens)
    assert out.geometry.shape == out.semantic.shape == tokens.shape
    assert (out.bridge is None) == (adapter != "bridge")


@pytest.mark.parametrize("count", [4, 8, 16, 32])
def test_bridge_count_and_scope(tokens, count):
    assert build(bridge_tokens=count)(tokens).bridge.shape == (2, count, 192)
    per_frame = build(bridge_tokens=count, bridge_per_frame=True)(tokens)
    assert per_frame.bridge.shape == (2, 3, count, 192)


@pytest.mark.parametrize(
    ("changes", "reaches_other_frame"),
    [
        ({"adapter": "bridge"}, True),
        ({"adapter": "bridge", "bridge_per_frame": True}, False),
        ({"adapter": "cross_attention"}, False),
        ({"adapter": "concat_self_attention"}, False),
        ({"adapter": "none"}, False),
    ],
)
def test_news_reach_other_frames_only_through_a_video_bridge(tokens, changes, reaches_other_frame):
    adapter = build(**changes)
    changed = tokens.clone()
    changed[:, 0] += 1.0
    changed[:, 0, :, ::2] -= 3.0
    before, after = adapter(tokens).geometry, adapter(changed).geometry
    assert not torch.allclose(before[:, 0], after[:, 0])
    assert torch.allclose(before[:, 1:], after[:, 1:], atol=1e-6) is not reaches_other_frame


def test_no_batch_item_sees_another(tokens):
    adapter = build()
    alone = adapter(tokens[1:])
    together = adapter(tokens)
    torch.testing.assert_close(together.geometry[1:], alone.geometry, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.bridge[1:], alone.bridge, atol=1e-5, rtol=1e-5)


def test_starts_near_the_encoder_and_every_weight_learns(tokens):
    adapter = build()
    out = adapter(tokens)
    assert (out.geometry - tokens).abs().mean() < 0.1 * tokens.abs().mean()
    (out.geometry * torch.randn_like(tokens)).sum().backward(retain_graph=True)
    collects = adapter.exchange.collect_semantic
    assert collects.kv.weight.grad.abs().sum() > 0, "geometry loss must reach the semantic stream"
    (out.semantic * torch.randn_like(tokens)).sum().backward()
    grads = {name: p.grad for name, p in adapter.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == []
