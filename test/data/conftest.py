# SPDX-License-Identifier: Apache-2.0
"""The hand-made geometry data sets, importable as `geometry_sets`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
