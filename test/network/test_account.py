# SPDX-License-Identifier: Apache-2.0
"""The account's formulas against PyTorch's own counter, stage by stage."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vidllm_ros.network.account import Account, Workload
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.dense_head import build_depth_head
from vidllm_ros.network.language import next_token
from vidllm_ros.network.presets import paper_config

SIZE, FRAMES, SCENE, TEXT = (42, 56), 5, 30, 6


def counted(call):
    """Operations of the products in a call; attention as two whole products."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = call()
    return counter.get_total_flops(), result


@pytest.fixture
def model(build_tiny):
    return build_tiny(bridge_tokens=4, adapter_expansion=2).requires_grad_(False)


@pytest.fixture
def stages(model):
    load = Workload(FRAMES, SIZE, SCENE, TEXT, bytes_per_value=4)
    return Account(model.config, load).stages()


def test_reconstruction_is_counted_as_pytorch_counts(model, stages):
    images = torch.rand(1, FRAMES, 3, *SIZE)
    found = {}
    found["encoder"], encoded = counted(lambda: model.encoder(images))
    found["adapter"], adapted = counted(lambda: model.adapter(encoded.patch_tokens))
    found["aggregator"], out = counted(lambda: model.aggregator(adapted.geometry, encoded.grid))
    found["camera_head"], _ = counted(lambda: model.camera_head(out.last))
    levels = out.patch_levels(model.config.aggregator_layers)
    found["depth_head"], _ = counted(lambda: model.depth_head(levels, encoded.grid, SIZE))
    found["metric_depth"], _ = counted(
        lambda: model.metric_depth(encoded.levels, encoded.grid, SIZE, keep_bins=False)
    )
    for name, flops in found.items():
        assert flops == pytest.approx(stages[name].flops, rel=0.01), name


@pytest.mark.parametrize(
    ("mode", "frames"), [("least_squares", 3), ("metric_only", 5), ("none", 0)]
)
def test_metric_depth_is_counted_for_the_frames_that_are_read(build_tiny, mode, frames):
    model = build_tiny(scale_frames=3, scale_alignment=mode).requires_grad_(False)
    load = Workload(FRAMES, SIZE, SCENE, TEXT, bytes_per_value=4)
    cost = Account(model.config, load).stages()["metric_depth"]
    levels = [torch.rand(1, frames, 12, 32) for _ in range(4)]
    found, _ = counted(lambda: model.metric_depth(levels, (3, 4), SIZE, keep_bins=False))
    assert cost.flops == pytest.approx(found, rel=0.01)


def test_language_is_counted_as_pytorch_counts(model, stages):
    tokens = torch.rand(1, SCENE, model.config.width)
    prefill, prefix = counted(lambda: model.language.encode_scene(model.projector(tokens)))
    length, dim = SCENE + 1, model.language.dim
    layers = model.config.language["num_hidden_layers"]
    masked = (
        4.0 * layers * dim * length * (length - (length + 1) / 2)
    )  # counted by PyTorch, unread
    assert prefill == pytest.approx(stages["prefill"].flops + masked, rel=0.01)
    said, _ = counted(lambda: next_token(model.language, prefix, torch.ones(1, TEXT).long()))
    masked = 4.0 * layers * dim * TEXT * (TEXT - (TEXT + 1) / 2)
    assert said == pytest.approx(stages["first_token"].flops + masked, rel=0.01)


def test_weights_are_those_of_the_modules(model, stages):
    def stored(module):
        return 4 * sum(p.numel() for p in module.parameters() if p.ndim > 1)

    assert stages["aggregator"].weight_bytes == pytest.approx(stored(model.aggregator), rel=0.02)
    for name in ("depth_head", "metric_depth"):
        assert stages[name].weight_bytes == pytest.approx(stored(getattr(model, name)), rel=0.05)
    layers = model.language.model.model.layers
    table = 4 * model.language.model.lm_head.weight.numel()
    assert stages["first_token"].weight_bytes == pytest.approx(stored(layers) + table, rel=0.01)


def test_paper_size_is_what_the_published_numbers_say():
    """VGGT's parts by their own formula (model sizes public), LLaMA-7B by its parameters."""
    stages = Account(paper_config(), Workload(32, (392, 518), 3096, 100)).stages()
    tera = {name: cost.flops / 1e12 for name, cost in stages.items()}
    assert tera["encoder"] == pytest.approx(23.5, rel=0.01)
    assert tera["aggregator"] == pytest.approx(152.7, rel=0.01)
    assert stages["aggregator"].attention_flops / 1e12 == pytest.approx(109.1 + 3.4, rel=0.02)
    assert stages["prefill"].weight_bytes == pytest.approx(2 * 6.476e9, rel=0.01)
    assert tera["prefill"] + tera["first_token"] == pytest.approx(44.1, rel=0.03)


@pytest.mark.parametrize("frames", [1, 8, 9, 32])
def test_dense_maps_are_of_the_frames_a_decoder_takes_at_a_time(frames):
    config = VidLLMConfig()  # small maps as the bundled network's: up to 21 frames would fit
    decoder = build_depth_head(config).decoder
    maps = [
        Account(config, Workload(count, (84, 112), SCENE)).kept_bytes()["dense_maps"]
        for count in (frames, 1)
    ]
    assert maps[0] / maps[1] == decoder.frames_at_a_time(frames, 6 * 8)


def test_a_size_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="multiples of 14"):
        Account(paper_config(), Workload(2, (390, 518), 10))
