# SPDX-License-Identifier: Apache-2.0
"""Which rendered rooms a number is about: a range of seeds, written A:B.

Next: benchmark_synthrooms.py.
"""

from __future__ import annotations

TEST_SEEDS = "2000000:2000200"  # frozen: data/synthrooms/frozen.py knows these rooms by checksum


def parse_seeds(text: str) -> tuple[int, int]:
    """Read A:B.

    Raises:
        ValueError: it is not two whole numbers, the second greater.
    """
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"seeds: expected A:B such as {TEST_SEEDS}, got {text!r}")
    first, last = int(parts[0]), int(parts[1])
    if first >= last:
        raise ValueError(f"seeds: expected A below B, got {text!r}")
    return first, last
