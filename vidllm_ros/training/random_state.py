# SPDX-License-Identifier: Apache-2.0
"""All generators a run draws from, kept and put back: what makes a resumed run the same run.

A checkpoint holds one; validation borrows the generators and gives them back. Next: trainer.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """States of torch's (CPU and every GPU), numpy's and Python's generators."""

    torch: Tensor
    cuda: list[Tensor]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        """Return the states as they are."""
        return cls(
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            np.random.get_state(),
            random.getstate(),
        )

    def restore(self) -> None:
        """Set the generators; a GPU's only where there is one."""
        torch.set_rng_state(self.torch)
        if self.cuda and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)
        random.setstate(self.python)
