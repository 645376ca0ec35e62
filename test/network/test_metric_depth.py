# SPDX-License-Identifier: Apache-2.0
"""Metric depth stays in its range, starts where the formula says, and learns a constant."""

import pytest
import torch
from torch import nn

from vidllm_ros.network import frame_turns
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.layers import is_plain
from vidllm_ros.network.metric_depth import MetricDepth, log_binomial

GRID, SIZE = (2, 3), (28, 42)


def build(**changes):
    torch.manual_seed(0)
    return MetricDepth(VidLLMConfig(**changes))


def levels(batch=1, frames=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, frames, 6, 192, generator=generator) for _ in range(4)]


@pytest.mark.parametrize("centers", ["residual", "attractor"])
@pytest.mark.parametrize("full", [False, True])
def test_shapes_and_range(centers, full):
    module = build(metric_centers=centers, metric_full_size=full)
    out = module(levels(2, 3), GRID, SIZE)
    size = SIZE if full else (16, 24)
    assert out.depth.shape == (2, 3, *SIZE)
    assert out.probabilities.shape == out.centers.shape == (6, 64, *size)
    torch.testing.assert_close(out.probabilities.sum(1), torch.ones(6, *size))
    loud = module([1e4 * level for level in levels()], GRID, SIZE).depth
    assert loud.min() >= 0.1
    assert loud.max() <= 10.0


def test_starts_at_the_base_centers_and_near_two_metres():
    out = build()(levels(), GRID, SIZE)
    expected = torch.logspace(-1, 1, 64).view(1, 64, 1, 1).clamp(0.1, 10.0).expand_as(out.centers)
    torch.testing.assert_close(out.centers, expected, rtol=1e-5, atol=1e-6)
    assert 1.5 < out.depth.mean() < 3.5


def test_log_binomial_centres_on_the_success_and_sharpens():
    bins = 64
    p = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1)
    ours = log_binomial(p, torch.ones_like(p), bins)[:, :, 0, 0]
    # Stirling without its root widens the binomial a little and must not move it by a bin.
    mean = (ours * torch.arange(bins)).sum(1)
    assert (mean - 63 * p.flatten()).abs().max() < 1, mean
    for row in ours:
        rises = row[row > 1e-12].diff() > 0
        assert (rises.int().diff() <= 0).all(), "one mode: mass rises, then falls"
    sharper = log_binomial(p, 0.1 * torch.ones_like(p), bins)[:, :, 0, 0]
    assert (sharper.amax(1) > ours.amax(1)).all()
    ends = log_binomial(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.ones(2, 1, 1, 1), bins)
    assert torch.isfinite(ends).all()
    assert ends[0].argmax() == 0
    assert ends[1].argmax() == bins - 1


@pytest.mark.parametrize("centers", ["residual", "attractor"])
def test_learns_one_batch(centers):
    module = build(metric_centers=centers)
    target = torch.linspace(0.5, 6.0, SIZE[1]).expand(1, 2, *SIZE)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    errors = []
    for _ in range(40):
        depth = module(levels(), GRID, SIZE).depth
        error = (depth.log() - target.log()).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.3 * errors[0], errors
    assert all(p.grad is not None for p in module.parameters())


def test_chunking_changes_nothing():
    module = build()
    whole = module(levels(1, 5), GRID, SIZE, frames_chunk=5).depth
    parts = module(levels(1, 5), GRID, SIZE, frames_chunk=2).depth
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_turns_at_the_bins_size_change_nothing(monkeypatch):
    module = build().eval()
    whole = module(levels(1, 5), GRID, SIZE).depth.detach()
    monkeypatch.setattr(frame_turns, "FINISH_VALUES", 2 * 16 * 24 * 64)
    seen = []
    module.decoder.finish.register_forward_hook(lambda _, a, out: seen.append(len(out)))
    with torch.no_grad():
        parts = module(levels(1, 5), GRID, SIZE, keep_bins=False).depth
    assert seen == [2, 2, 1]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keep_bins", [False, True])
def test_no_frames_have_no_depth(keep_bins):
    none = [level[:, :0] for level in levels(2, 1)]
    out = build()(none, GRID, SIZE, keep_bins=keep_bins)
    assert out.depth.shape == (2, 0, *SIZE)


@pytest.mark.parametrize("full_size", [False, True])
@pytest.mark.parametrize(("spread", "rtol"), [(0.1, 2e-5), (0.2, 1e-3)])
def test_depth_without_bins_equals_the_literal_one(full_size, spread, rtol):
    """Where the temperature is 0.02, logits reach 10^4 and either way rounds to 10^-3."""
    torch.manual_seed(0)
    config = VidLLMConfig(encoder={"hidden_size": 48}, metric_full_size=full_size, max_depth_m=6.0)
    head = MetricDepth(config).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    levels = [torch.randn(2, 3, 12, 48) for _ in range(4)]
    with torch.no_grad():
        literal = head(levels, (3, 4), (42, 56), frames_chunk=2)
        lean = head(levels, (3, 4), (42, 56), frames_chunk=4, keep_bins=False)
    assert lean.probabilities is None
    assert lean.centers is None
    assert literal.depth.std() > 0.01
    torch.testing.assert_close(lean.depth, literal.depth, rtol=rtol, atol=1e-5)


class Adapted(nn.Module):
    """A layer with a low-rank adapter beside it, as wrappers for fine-tuning put it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down = nn.Conv2d(layer.in_channels, 2, 1, bias=False)
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class Halves(torch.Tensor):
    """A weight whose numbers are stored in another form: what is read off it is no weight."""


@pytest.mark.parametrize("place", ["residual", "binomial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_what_stands_in_the_place_of_a_last_layer_is_called(place, dtype):
    module = build().eval()
    nn.init.normal_(module.residual.weight, std=0.2)
    adapted = Adapted(getattr(module, place))
    nn.init.normal_(adapted.up.weight, std=0.5)
    merged = build().eval()
    merged.load_state_dict(module.state_dict())
    product = adapted.up.weight.flatten(1) @ adapted.down.weight.flatten(1)
    getattr(merged, place).weight += product[..., None, None]
    setattr(module, place, adapted)
    module, merged = module.to(dtype), merged.to(dtype)
    inputs = [level.to(dtype) for level in levels()]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        kept = module(inputs, GRID, SIZE).depth
        lean = module(inputs, GRID, SIZE, keep_bins=False).depth
        expected = merged(inputs, GRID, SIZE, keep_bins=False).depth
    torch.testing.assert_close(lean, kept, rtol=1e-4, atol=1e-4)
    off = 1e-4 if dtype is torch.float32 else 0.1
    torch.testing.assert_close(lean, expected, rtol=off, atol=off)


@torch.no_grad()
def test_hooks_and_weights_of_another_form_are_not_passed_by():
    module, heard = build().eval(), []
    module.residual.register_forward_hook(lambda *_: heard.append("residual"))
    module.binomial.register_forward_hook(lambda *_: heard.append("binomial"))
    for keep_bins in (False, True):
        module(levels(), GRID, SIZE, keep_bins=keep_bins)
    assert {"residual", "binomial"} <= set(heard[: len(heard) // 2])
    layer = nn.Conv2d(4, 4, 1)
    assert is_plain(layer, nn.Conv2d)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Halves), requires_grad=False)
    assert not is_plain(layer, nn.Conv2d)


@pytest.mark.parametrize("keep_bins", [False, True])
@pytest.mark.parametrize("kind", ["hook on float32", "float32 adapter on bfloat16"])
@torch.no_grad()
def test_another_layer_than_a_plain_one_runs_in_the_precision_of_the_run(kind, keep_bins):
    """Weights and what is given to them may differ in format, as autocast allows."""
    module, heard = build().eval(), []
    inputs = levels()
    if kind == "float32 adapter on bfloat16":
        module, inputs = module.bfloat16(), [level.bfloat16() for level in inputs]
        module.residual = Adapted(module.residual)  # its own weights are float32
    module.residual.register_forward_hook(
        lambda *_: heard.append(torch.is_autocast_enabled("cpu"))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        depth = module(inputs, GRID, SIZE, keep_bins=keep_bins).depth
    assert heard
    assert all(heard)
    assert depth.dtype == torch.float32
    assert torch.isfinite(depth).all()
