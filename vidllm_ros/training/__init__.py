# SPDX-License-Identifier: Apache-2.0
"""How the network learns: losses, distillation, stages, the trainer. Start at stages.py."""
