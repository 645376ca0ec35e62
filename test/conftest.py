# SPDX-License-Identifier: Apache-2.0
"""A run started in the background ignores Ctrl-C, and so would every process it starts."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
