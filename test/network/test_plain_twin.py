# SPDX-License-Identifier: Apache-2.0
"""The network as it runs equals the network written out literally."""

import pytest
import torch

from vidllm_ros.network import plain_twin
from vidllm_ros.network.acceleration import Acceleration, accelerate
from vidllm_ros.network.dense_head import DPTDecoder, Finish
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
    torch.testing.assert_close(lean, literal.depth, atol=1e-5, rtol=1e-4)


def refuse(*_, **__):
    raise AssertionError("the fast path was called")


@pytest.mark.parametrize("full_size", [True, False])
@torch.no_grad()
def test_metric_depth_is_written_out_for_every_bin(build_tiny, images, monkeypatch, full_size):
    model = build_tiny(metric_full_size=full_size)
    head = model.metric_depth
    decoder = head.decoder
    assert not decoder.uv_embedding
    assert isinstance(decoder.norm, torch.nn.Identity)
    assert not any(fusion.out_unit.rectified for fusion in decoder.fusions)
    for layer in (head.pixel, head.residual, head.binomial):  # the residual starts at zero
        torch.nn.init.normal_(layer.weight, 0, 0.5)
    torch.nn.init.normal_(head.residual.bias, 0, 0.5)
    encoded = model.encoder(images)
    kept = head(encoded.levels, encoded.grid, SIZE, keep_bins=True)
    lean = head(encoded.levels, encoded.grid, SIZE, keep_bins=False).depth
    for fast in (DPTDecoder, Finish, type(head)):
        monkeypatch.setattr(fast, "forward", refuse)
    literal = plain_twin.metric_depth(head, encoded.levels, encoded.grid, SIZE)
    assert literal.depth.std() > 0.05
    for name in ("depth", "probabilities", "centers"):
        torch.testing.assert_close(
            getattr(kept, name), getattr(literal, name), atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(lean, literal.depth, atol=1e-5, rtol=1e-4)


def test_attractor_centres_have_no_twin(build_tiny):
    head = build_tiny(metric_centers="attractor").metric_depth
    with pytest.raises(ValueError, match="expected residual centers"):
        plain_twin.metric_depth(head, [], (3, 4), SIZE)


@torch.no_grad()
def test_no_twin_runs_what_is_compiled(model, images, monkeypatch):
    grid, layers = model.encoder(images).grid, model.config.aggregator_layers
    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    accelerate(model, Acceleration(compile=True))
    with pytest.raises(AssertionError, match="fast path"):
        model.encoder(images)
    encoded = plain_twin.encode(model.encoder, images)
    tokens = model.adapter(encoded.patch_tokens).geometry
    levels = plain_twin.aggregate(model.aggregator, tokens, grid).patch_levels(layers)
    plain_twin.dense(model.depth_head, levels, grid, SIZE)
    plain_twin.metric_depth(model.metric_depth, encoded.levels, grid, SIZE)


@pytest.mark.parametrize(
    ("limit", "shapes"),
    [(1, 4 * [(2, 1, 10, 10)]), (400, 2 * [(2, 2, 10, 10)]), (1 << 30, [(2, 4, 10, 10)])],
)
def test_a_large_table_of_scores_is_made_head_by_head(monkeypatch, limit, shapes):
    q, k, v = torch.randn(3, 2, 4, 10, 8, generator=torch.Generator().manual_seed(5))
    expected = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    softmax, tables = torch.softmax, []

    def watched(scores, dim):
        tables.append(scores.shape)
        return softmax(scores, dim)

    monkeypatch.setattr(torch, "softmax", watched)
    monkeypatch.setattr(plain_twin, "TABLE_VALUES", limit)
    torch.testing.assert_close(plain_twin.attend(q, k, v), expected)
    assert tables == shapes


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
