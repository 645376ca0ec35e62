# SPDX-License-Identifier: Apache-2.0
"""How long each stage of a window took; the figures end up in the node's status message.

Next: session.py, which names the stages.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Times named stages, in the order they end.

    Attributes:
        timings_s: of each stage that has ended without an exception.
    """

    def __init__(self) -> None:
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.timings_s[stage] = time.perf_counter() - begin
