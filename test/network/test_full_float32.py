# SPDX-License-Identifier: Apache-2.0
"""Float32 without autocast and TF32 holds inside, in the layers that promise it, and no longer."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from vidllm_ros.network import full_float32 as module
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.full_float32 import exact_product, full_float32
from vidllm_ros.network.metric_depth import MetricDepth

CPU = torch.device("cpu")
EXACT, FAST = ("ieee", "ieee"), ("tf32", "tf32")
BACKENDS: Any = torch.backends
SWITCHES = (BACKENDS, BACKENDS.cudnn, BACKENDS.cudnn.conv, BACKENDS.cuda.matmul)
"""Of everything, of everything on a GPU, and of the two that inherit from those."""
FRESH = ("none", "none", "tf32", "none")
"""What they say themselves in a process that never asked."""


def set_switches(precisions: tuple[str, ...]) -> None:
    for switch, precision in zip(SWITCHES, precisions, strict=True):
        switch.fp32_precision = precision


def read_switches() -> tuple[str, ...]:
    return tuple(switch.fp32_precision for switch in SWITCHES)


def precisions() -> tuple[str, ...]:
    """How convolutions and products have float32 on a GPU."""
    return read_switches()[2:]


@pytest.fixture
def in_tf32() -> Iterator[None]:
    """A process in which float32 is TF32 on a GPU."""
    set_switches(("none", "none", *FAST))
    yield
    set_switches(FRESH)


@pytest.mark.usefixtures("in_tf32")
@pytest.mark.parametrize("own", list(product(("none", "ieee", "tf32"), repeat=4)))
def test_each_switch_gets_back_what_it_said_itself(own: tuple[str, ...]) -> None:
    """One that inherited goes on to inherit, and those above are as they were all the while."""
    set_switches(own)
    before = read_switches()
    with full_float32(CPU):
        assert read_switches() == (*before[:2], *EXACT)
    assert read_switches() == before
    for turned in (0, 1):  # what each says itself shows when one above it is turned
        seen = []
        for passes in (False, True):
            set_switches(own)
            if passes:
                with full_float32(CPU):
                    pass
            for precision in ("none", "ieee", "tf32"):
                SWITCHES[turned].fp32_precision = precision
                seen.append(read_switches())
        assert seen[:3] == seen[3:]


def test_an_older_torch_is_named_and_computes_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.why_not_full_float32() == ""
    backends = SimpleNamespace(
        fp32_precision="none", cudnn=SimpleNamespace(), cuda=SimpleNamespace(matmul=None)
    )
    older = SimpleNamespace(__version__="2.4.1", backends=backends, autocast=torch.autocast)
    monkeypatch.setattr(module, "torch", older)
    assert module.why_not_full_float32().startswith("expected torch 2.9 or newer on a GPU, ")
    assert "got 2.4.1; install" in module.why_not_full_float32()
    with full_float32(CPU):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("in_tf32")
def test_the_switch_is_set_inside_and_set_back_after_also_by_an_error() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_float32(CPU):
            assert precisions() == EXACT
            assert not torch.is_autocast_enabled("cpu")
            with full_float32(CPU):
                pass
            assert precisions() == EXACT
        assert precisions() == FAST
        assert torch.is_autocast_enabled("cpu")
    with pytest.raises(ValueError, match="inside"), full_float32(CPU):
        raise ValueError("inside")
    assert precisions() == FAST


@pytest.mark.usefixtures("in_tf32")
def test_two_threads_inside_set_it_back_once_both_have_left() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with full_float32(CPU):
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    with full_float32(CPU):
        other.start()
        assert entered.wait(10)
    assert precisions() == EXACT
    leave.set()
    other.join(10)
    assert precisions() == FAST


def test_a_process_that_never_asked_finds_its_own_settings_again() -> None:
    """Settings of PyTorch's older names can still be read and set afterwards."""
    words = (
        "import torch\n"
        "from vidllm_ros.network.full_float32 import full_float32\n"
        "def seen():\n"
        "    return (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,\n"
        "            torch.get_float32_matmul_precision(),\n"
        "            torch.backends.cudnn.conv.fp32_precision,\n"
        "            torch.backends.cuda.matmul.fp32_precision)\n"
        "before = seen()\n"
        "with full_float32(torch.device('cpu')):\n"
        "    pass\n"
        "assert seen() == before, (before, seen())\n"
        "torch.set_float32_matmul_precision('high')\n"
        "before = seen()\n"
        "with full_float32(torch.device('cpu')):\n"
        "    pass\n"
        "assert seen() == before, (before, seen())\n"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("in_tf32")
@torch.no_grad()
def test_the_layers_that_promise_float32_run_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product of float32 that metric depth and camera head make is made inside."""
    config = VidLLMConfig(point_head=False)
    torch.manual_seed(0)
    head = MetricDepth(config).eval().bfloat16()
    camera = CameraHead(config).eval()
    seen: list[tuple[str, torch.dtype, tuple[str, ...]]] = []

    def watch(owner: object, name: str) -> None:
        whole = getattr(owner, name)

        def call(*args: Any, **named: Any) -> Any:
            seen.append((name, args[1].dtype, precisions()))
            return whole(*args, **named)

        monkeypatch.setattr(owner, name, call)

    watch(functional, "conv2d")
    watch(functional, "linear")
    watch(torch, "addmm")
    watch(functional, "scaled_dot_product_attention")
    levels = [torch.randn(1, 2, 6, config.width).bfloat16() for _ in range(4)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lean = head(levels, (2, 3), (28, 42), keep_bins=False).depth
        head(levels, (2, 3), (28, 42))
        camera(torch.randn(1, 3, 7, 2 * config.width).bfloat16())
    inside = [entry for entry in seen if entry[1] == torch.float32]
    products = {"conv2d", "linear", "addmm", "scaled_dot_product_attention"}
    assert {name for name, *_ in inside} == products
    assert {state for *_, state in inside} == {EXACT}
    assert precisions() == FAST
    assert lean.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_exact_products_are_float32_at_least_under_autocast(dtype):
    generator = torch.Generator().manual_seed(3)
    first, second = (3 * torch.randn(2, 5, 4, 4, generator=generator).to(dtype) for _ in range(2))
    wanted = first.double() @ second.double()
    with torch.autocast("cpu", torch.bfloat16):
        found = exact_product(first, second)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)
