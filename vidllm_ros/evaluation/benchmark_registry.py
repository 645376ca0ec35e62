# SPDX-License-Identifier: Apache-2.0
"""Every benchmark by name, imported when it is asked for. Next: benchmark_run.py."""

from __future__ import annotations

from importlib import import_module

from vidllm_ros.evaluation.benchmark_cases import Benchmark

_HERE = "vidllm_ros.evaluation"
BENCHMARKS = {
    "synthrooms": f"{_HERE}.benchmark_synthrooms:SYNTHROOMS",
    "scanqa": f"{_HERE}.qa_benchmarks:SCANQA",
    "sqa3d": f"{_HERE}.qa_benchmarks:SQA3D",
    "scan2cap": f"{_HERE}.caption_benchmarks:SCAN2CAP",
    "scanrefer": f"{_HERE}.grounding_benchmarks:SCANREFER",
    "multi3drefer": f"{_HERE}.grounding_benchmarks:MULTI3DREFER",
    "nr3d": f"{_HERE}.grounding_benchmarks:NR3D",
    "sr3d": f"{_HERE}.grounding_benchmarks:SR3D",
    "nyuv2": f"{_HERE}.benchmark_nyuv2:NYUV2",
    "co3dv2": f"{_HERE}.benchmark_poses:CO3DV2",
    "re10k": f"{_HERE}.benchmark_poses:RE10K",
    "scannet-reconstruction": f"{_HERE}.benchmark_scannet:SCANNET_RECONSTRUCTION",
}


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark: expected one of {', '.join(BENCHMARKS)}, got {name!r}")
    module, _, attribute = BENCHMARKS[name].partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, Benchmark):
        raise TypeError(f"{BENCHMARKS[name]}: expected a Benchmark, got {type(found).__name__}")
    return found
