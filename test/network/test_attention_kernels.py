# SPDX-License-Identifier: Apache-2.0
"""Kernels of attention are timed on this device, and the order they are tried in follows."""

import threading
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch.nn import functional

from vidllm_ros.network import attention_kernels
from vidllm_ros.network.attention_kernels import KERNELS, attention_order, probe_attention

CPU = torch.device("cpu")


def test_the_probe_times_what_runs_here_and_the_order_follows():
    shape = (1, 2, 40, 16)
    seconds = probe_attention(shape, torch.float32, CPU)
    assert "math" in seconds
    assert set(seconds) <= set(KERNELS)
    fused = [took for name, took in seconds.items() if name != "math"]
    assert fused == sorted(fused)
    assert list(seconds)[-1] == "math"
    q = torch.randn(shape)
    with attention_order(seconds):
        chosen = functional.scaled_dot_product_attention(q, q, q)
    literal = torch.softmax(q @ q.mT / 4, -1) @ q
    torch.testing.assert_close(chosen, literal, atol=1e-5, rtol=1e-5)
    with attention_order(()):  # nothing was probed: any kernel
        assert torch.backends.cuda.flash_sdp_enabled()
        functional.scaled_dot_product_attention(q, q, q)


def test_a_literal_table_that_would_be_large_is_not_made(monkeypatch):
    monkeypatch.setattr(attention_kernels, "MATH_TABLE_VALUES", 2 * 40 * 40 - 1)
    assert "math" not in probe_attention((1, 2, 40, 16), torch.float32, CPU)


def test_the_literal_kernel_is_the_last_however_fast(monkeypatch):
    took = {attention_kernels.KERNELS["math"]: 0.1, attention_kernels.KERNELS["flash"]: 0.2}
    monkeypatch.setattr(
        attention_kernels, "_time_kernel", lambda kernel, *_: took.get(kernel, 0.3)
    )
    seconds = probe_attention((1, 2, 40, 16), torch.float32, CPU)
    assert list(seconds) == ["flash", "cudnn", "efficient", "math"]
    with attention_order(["math", "efficient", "flash"]):
        order = [attention_kernels.KERNELS[name] for name in ("efficient", "flash", "math")]
        assert switches()[1][:3] == [int(kernel) for kernel in order]


def test_where_memory_ends_nothing_is_preferred(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "randn", full)
    assert probe_attention((1, 2, 40, 16), torch.float32, CPU) == {}


@pytest.mark.parametrize("names", [("flash",), ("math", "flash")])
def test_the_order_ends_with_what_takes_everything_and_is_undone(names):
    q = torch.randn(1, 2, 12, 16)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    with attention_order(names):
        assert torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


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
