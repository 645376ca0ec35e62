# SPDX-License-Identifier: Apache-2.0
"""Ways to run faster compute the same and leave the weights' keys as they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vidllm_ros.network.acceleration import (
    Acceleration,
    _repeated,
    accelerate,
    measured_ceilings,
    usual_acceleration,
    why_not_quantize,
)
from vidllm_ros.network.vidllm import VidLLM

CPU = torch.device("cpu")


@torch.no_grad()
def test_channels_last_changes_no_number_and_no_key(build_tiny):
    plain, fast = build_tiny(), build_tiny()
    accelerate(fast, Acceleration(channels_last=True))
    assert list(fast.state_dict()) == list(plain.state_dict())
    images = torch.rand(1, 3, 3, 42, 56)
    before, after = plain.geometry(images), fast.geometry(images)
    torch.testing.assert_close(after.depth_rel, before.depth_rel, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.metric_depth.depth, before.metric_depth.depth)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_blocks_compute_the_same_under_the_same_keys(build_tiny):
    plain, fast = build_tiny(), build_tiny()
    decoders = [fast.depth_head.decoder, fast.metric_depth.decoder]
    images = torch.rand(1, 3, 3, 42, 56)
    with torch._dynamo.config.patch(suppress_errors=False):
        for module in [
            fast.aggregator.frame_blocks[0], *decoders, *(each.finish for each in decoders)
        ]:  # fmt: skip
            assert module in _repeated(fast)
            # The tracing, without a C++ compiler.
            module.compile(dynamic=False, backend="aot_eager", fullgraph=True)
        assert list(fast.state_dict()) == list(plain.state_dict())
        compiled, expected = fast.geometry(images), plain.geometry(images)
    torch.testing.assert_close(compiled.depth_rel, expected.depth_rel, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compiled.metric_depth.depth, expected.metric_depth.depth)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiling_asks_for_no_cuda_graphs(build_tiny, monkeypatch, device):
    model, asked = build_tiny(), []
    monkeypatch.setattr(VidLLM, "device", torch.device(device))
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: asked.append((self, how)))
    accelerate(model, Acceleration(compile=True))
    assert [module for module, _ in asked] == _repeated(model)
    for _, how in asked:
        assert how == {"dynamic": False, "mode": "default"}  # not "reduce-overhead"


def test_a_gpu_gets_what_is_exact_unasked_and_a_cpu_nothing():
    exact = Acceleration(channels_last=True, attention=True)
    assert usual_acceleration(torch.device("cuda", 1)) == exact
    assert (exact.compile, exact.quantize) == (False, "none")
    assert usual_acceleration(CPU) == Acceleration()


@torch.no_grad()
def test_measured_attention_is_used_by_the_aggregator_alone(build_tiny, monkeypatch):
    plain, fast = build_tiny(), build_tiny()
    probe = accelerate(fast, Acceleration(attention=True), window_tokens=40)
    assert fast.aggregator.kernels == tuple(probe.seconds) != ()
    assert accelerate(plain, Acceleration()).words == ""
    assert plain.aggregator.kernels == ()
    fast.aggregator.kernels = ("math",)
    whole, seen = functional.scaled_dot_product_attention, []

    def note(*args, **named):
        seen.append((torch.backends.cuda.flash_sdp_enabled(), args[0].shape[1]))
        return whole(*args, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", note)
    images = torch.rand(1, 3, 3, 42, 56)
    after = fast.geometry(images)
    blocks = 2 * len(fast.aggregator.frame_blocks)
    assert [flash for flash, _ in seen].count(False) == blocks
    assert torch.backends.cuda.flash_sdp_enabled()
    before = plain.geometry(images)
    torch.testing.assert_close(after.depth_rel, before.depth_rel, atol=1e-5, rtol=1e-5)


def test_quantising_needs_its_library_a_known_kind_and_for_int4_a_gpu(build_tiny, monkeypatch):
    with pytest.raises(ValueError, match="quantize"):
        Acceleration(quantize="int3")
    with pytest.raises(ImportError, match="expected a GPU for int4, got cpu; take int8"):
        accelerate(build_tiny(), Acceleration(quantize="int4"))
    cuda = torch.device("cuda")
    assert why_not_quantize("int4", cuda, torch.float16).startswith(
        "expected bfloat16 for int4, got torch.float16; set precision"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert not why_not_quantize("int4", cuda, torch.bfloat16)
    assert not why_not_quantize("int8", CPU, torch.float32)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install torchao" in why_not_quantize("int8", CPU)
    assert "pip install torchao" in why_not_quantize("int4", cuda)
    with pytest.raises(ImportError, match="pip install torchao"):
        accelerate(build_tiny(), Acceleration(quantize="int8"))


@torch.no_grad()
def test_int8_is_near_and_leaves_the_word_tables(build_tiny):
    pytest.importorskip("torchao")
    plain, small = build_tiny(), build_tiny()
    accelerate(small, Acceleration(quantize="int8"))
    layer = small.language.model.model.layers[0].mlp.up_proj
    assert layer.weight.qdata.dtype == torch.int8
    assert type(small.language.model.lm_head.weight) is type(plain.language.model.lm_head.weight)
    embeds = torch.randn(1, 12, plain.language.dim)
    before = plain.language.model.base_model(inputs_embeds=embeds).last_hidden_state
    after = small.language.model.base_model(inputs_embeds=embeds).last_hidden_state
    off = (after - before).norm() / before.norm()
    assert 0 < off < 0.02


def test_ceilings_are_measured():
    flops, bandwidth = measured_ceilings(CPU, torch.float32)
    assert flops > 1e8
    assert bandwidth > 1e7
