# SPDX-License-Identifier: Apache-2.0
"""`vidllm bench`: how fast the node, the network and a long walk are, each a command of its own.

Every speed this project claims comes from here, as a ratio of two things measured in turn in one
run. Next: bench_node.py, bench_model.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from vidllm_ros.cli.command import complain, note

BENCHMARKS = {
    "node": ("bench_node", "what the node costs around the network, and how fast it replies"),
    "model": ("bench_model", "the network stage by stage against its plain twin"),
    "words": ("bench_words", "learning words in rows against packed side by side"),
    "walk": ("bench_walk", "drift and object ids over a long walk"),
}
UNKNOWN_BENCHMARK = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm bench <what> ...` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:6} {summary}" for name, (_, summary) in BENCHMARKS.items()]
        note("\n".join(["Usage: vidllm bench WHAT ...", *lines]))
        return 0 if arguments else UNKNOWN_BENCHMARK
    chosen = BENCHMARKS.get(arguments[0])
    if chosen is None:
        complain(f"vidllm bench: expected one of {', '.join(BENCHMARKS)}, got {arguments[0]!r}")
        return UNKNOWN_BENCHMARK
    return int(import_module(f"vidllm_ros.cli.{chosen[0]}").main(arguments[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
