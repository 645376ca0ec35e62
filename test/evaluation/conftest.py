# SPDX-License-Identifier: Apache-2.0
"""The hand-made data sets of test/data, importable as `hand_made` and `geometry_sets`."""

import sys
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
sys.path[:0] = [str(DATA / "annotations"), str(DATA)]
