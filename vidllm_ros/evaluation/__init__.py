# SPDX-License-Identifier: Apache-2.0
"""How good it is: metrics as the papers define them, and the benchmark. Start at benchmark.py."""
