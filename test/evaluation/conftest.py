# SPDX-License-Identifier: Apache-2.0
"""The hand-made data sets of test/data/annotations, importable as `hand_made`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "annotations"))
