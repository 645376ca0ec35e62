# SPDX-License-Identifier: Apache-2.0
"""Kernels of attention are timed on this device, and the order they are tried in follows."""

import threading
import warnings
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import sdpa_kernel

from vidllm_ros.network import attention_kernels
from vidllm_ros.network.attention_kernels import KERNELS, attention_order, probe_attention

CPU = torch.device("cpu")


SHAPE = (1, 2, 40, 16)


def test_the_probe_times_what_runs_here_and_the_order_follows():
    probe = probe_attention(SHAPE, torch.float32, CPU)
    assert set(probe.seconds) | set(probe.refused) == set(KERNELS)
    assert not set(probe.seconds) & set(probe.refused)
    fused = [took for name, took in probe.seconds.items() if name != "math"]
    assert fused == sorted(fused)
    assert list(probe.seconds)[-1] == "math"
    q = torch.randn(SHAPE)
    with attention_order(probe.seconds):
        chosen = functional.scaled_dot_product_attention(q, q, q)
    literal = torch.softmax(q @ q.mT / 4, -1) @ q
    torch.testing.assert_close(chosen, literal, atol=1e-5, rtol=1e-5)


def test_what_is_not_timed_says_why_and_takes_nothing_from_other_threads(monkeypatch):
    """A kernel that refuses is not called: PyTorch would warn in the log of the node."""
    whole, called = functional.scaled_dot_product_attention, []

    def note(*args, **named):
        called.append(torch.backends.cuda.math_sdp_enabled())  # what any shape can fall back on
        return whole(*args, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", note)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = probe_attention(SHAPE, torch.float32, CPU)
    assert list(probe.refused) == ["cudnn", "efficient"]
    flash, math = (1e3 * probe.seconds[name] for name in ("flash", "math"))
    assert probe.words == (
        f"attention by what is fastest here (flash {flash:.2f} ms, math {math:.2f} ms, "
        "cudnn and efficient not timed: not for this device, format or size)"
    )
    assert called == 2 * (attention_kernels.PROBE_REPETITIONS + 1) * [True]


def test_a_literal_table_that_would_be_large_is_not_made(monkeypatch):
    monkeypatch.setattr(attention_kernels, "MATH_TABLE_VALUES", 2 * 40 * 40 - 1)
    probe = probe_attention(SHAPE, torch.float32, CPU)
    assert "math" not in probe.seconds
    assert probe.refused["math"] == "its table would be large"


def test_the_literal_kernel_is_the_last_however_fast(monkeypatch):
    took = {"flash": 0.2, "cudnn": 0.3, "efficient": 0.4, "math": 0.1}
    monkeypatch.setattr(attention_kernels, "_time_kernel", lambda name, *_: took[name])
    probe = probe_attention(SHAPE, torch.float32, CPU)
    assert list(probe.seconds) == ["flash", "cudnn", "efficient", "math"]
    with attention_order(["math", "efficient", "flash"]):
        order = [KERNELS[name] for name in ("efficient", "flash", "math")]
        assert switches()[1][:3] == [int(kernel) for kernel in order]


def test_where_memory_ends_nothing_is_preferred_and_the_log_says_so(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as at_first:
        at_first.setattr(torch, "randn", full)
        probe = probe_attention(SHAPE, torch.float32, CPU)
    assert probe.seconds == {}
    assert probe.words == (
        "attention as PyTorch chooses (flash and cudnn and efficient and math not timed: "
        "memory ended)"
    )
    monkeypatch.setattr(functional, "scaled_dot_product_attention", full)
    probe = probe_attention(SHAPE, torch.float32, CPU)
    assert probe.seconds == {}
    assert probe.refused["flash"] == probe.refused["math"] == "memory ended"


def test_a_late_refusal_of_cudnn_is_noted_and_a_fault_is_not_hidden(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(says)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", fail)
    says = "cuDNN Frontend error: [cudnn_frontend] Error: No valid engine configs\nmore"
    probe = probe_attention(SHAPE, torch.float32, CPU)
    assert probe.refused["flash"].endswith("No valid engine configs")
    says, before = "CUDA error: an illegal memory access was encountered", switches()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        probe_attention(SHAPE, torch.float32, CPU)
    assert switches() == before


@pytest.mark.parametrize("names", [("flash",), ("math", "flash")])
def test_the_order_ends_with_what_takes_everything_and_is_undone(names):
    q = torch.randn(1, 2, 12, 16)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    with attention_order(names):
        assert torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("set_before", [["efficient", "math"], ["math"], list(KERNELS)])
def test_where_nothing_was_probed_nothing_is_switched(set_before):
    q = torch.randn(SHAPE)
    with sdpa_kernel([KERNELS[name] for name in set_before], set_priority=True):
        found = switches()
        with attention_order(()):
            assert switches() == found
            functional.scaled_dot_product_attention(q, q, q)
        assert switches() == found


def switches() -> tuple[Any, ...]:
    """Every kernel that is on, and the order they are tried in."""
    on = (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
    )
    return on, torch._C._get_sdp_priority_order()


def test_a_probe_and_an_order_that_cross_on_two_threads_leave_nothing_behind(monkeypatch):
    """As a window that is left alone while the network is loaded anew."""
    before, whole = switches(), functional.scaled_dot_product_attention
    probing, probe_on, ordered = threading.Event(), threading.Event(), threading.Event()

    def slow(*args, **named):
        probing.set()
        assert probe_on.wait(10)
        return whole(*args, **named)

    def stay_in_order():
        with attention_order(["efficient"]):
            ordered.set()
            found.append(switches()[0])
            assert order_on.wait(10)

    found: list[Any] = []
    order_on = threading.Event()
    monkeypatch.setattr(functional, "scaled_dot_product_attention", slow)
    probe = threading.Thread(
        target=probe_attention, args=((1, 2, 40, 16), torch.float32, CPU), daemon=True
    )
    window = threading.Thread(target=stay_in_order, daemon=True)
    with ExitStack() as ends:
        for event in (probe_on, order_on):
            ends.callback(event.set)
        probe.start()
        assert probing.wait(10)
        window.start()
        assert not ordered.wait(0.2)  # the probe's switches are set
        probe_on.set()
        probe.join(10)
        assert ordered.wait(10)
        order_on.set()
        window.join(10)
    assert found == [(False, False, True, True)]
    assert switches() == before
