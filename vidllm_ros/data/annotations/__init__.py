# SPDX-License-Identifier: Apache-2.0
"""Published annotation files of the language benchmarks, read as they are. Start: records.py."""
