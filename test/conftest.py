# SPDX-License-Identifier: Apache-2.0
"""A run started in the background ignores Ctrl-C, and so would every process it starts.

Small public models for the whole tree are importable as `tiny_public`, and written once a run.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).with_name("public")))


@pytest.fixture(scope="session")
def public_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public models by folder, see public/tiny_public.py."""
    import tiny_public

    return tiny_public.write_parts(tmp_path_factory.mktemp("public_parts"))
