# SPDX-License-Identifier: Apache-2.0
"""What the network learns from and looks at: scenes with their truth, videos, bags.

samples.py says what a scene with annotations is; synthrooms/ makes such scenes from a seed.
Next: samples.py.
"""
