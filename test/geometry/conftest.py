# SPDX-License-Identifier: Apache-2.0
"""Let the tests beside it import camera_walk."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
