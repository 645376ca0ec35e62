# SPDX-License-Identifier: Apache-2.0
"""The network as it runs equals the network written out literally."""

import pytest
import torch

from vidllm_ros.network import plain_twin
from vidllm_ros.network.language import next_token

SIZE = (42, 56)


@pytest.fixture
def model(build_tiny):
    model = build_tiny()
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "lambda1")):
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    return model


@pytest.fixture
def images():
    return torch.rand(1, 5, 3, *SIZE, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_every_stage_equals_its_literal_twin(model, images):
    encoded, plain = model.encoder(images), plain_twin.encode(model.encoder, images)
    for fast, literal in zip(
        [encoded.patch_tokens, *encoded.levels], [plain.patch_tokens, *plain.levels], strict=True
    ):
        torch.testing.assert_close(fast, literal, atol=2e-5, rtol=1e-4)
    tokens = model.adapter(encoded.patch_tokens).geometry
    fast = model.aggregator(tokens, encoded.grid)
    literal = plain_twin.aggregate(model.aggregator, tokens, encoded.grid)
    layers = model.config.aggregator_layers
    for a, b in zip(fast.patch_levels(layers), literal.patch_levels(layers), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    levels = fast.patch_levels(layers)
    dense = model.depth_head(levels, encoded.grid, SIZE)
    values, confidence = plain_twin.dense(model.depth_head, levels, encoded.grid, SIZE)
    torch.testing.assert_close(dense.values, values, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(dense.confidence, confidence, atol=2e-5, rtol=1e-4)
    lean = model.metric_depth(encoded.levels, encoded.grid, SIZE, keep_bins=False).depth
    literal = plain_twin.metric_depth(model.metric_depth, encoded.levels, encoded.grid, SIZE)
    torch.testing.assert_close(lean, literal, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_cached_scene_answers_as_one_read_anew(model):
    scene = torch.randn(1, 20, model.language.dim, generator=torch.Generator().manual_seed(4))
    ids = torch.tensor([[7, 30, 200]])
    prefix = model.language.encode_scene(scene)
    for _ in range(2):  # the cache is as it was
        fast = next_token(model.language, prefix, ids)
        torch.testing.assert_close(
            fast, plain_twin.next_token(model.language, scene, ids), atol=1e-4, rtol=1e-4
        )
