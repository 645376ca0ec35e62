# SPDX-License-Identifier: Apache-2.0
"""What the reconstruction branch starts from when no pretrained weights are loaded.

Where weights are loaded they override all of this. Next: vidllm.py.
"""

from __future__ import annotations

import torch

from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.layers import LayerScale

# Livelier than VGGT's (0.01, 1e-6): this project trains from scratch on little data.
SCRATCH_LAYER_SCALE, SCRATCH_TOKEN_STD = 0.3, 0.02


def start_from_scratch(aggregator: Aggregator, camera_head: CameraHead) -> None:
    """Give the reconstruction branch initial values that learn without a pretrained start."""
    with torch.no_grad():
        for part in (aggregator, camera_head):
            for module in part.modules():
                if isinstance(module, LayerScale):
                    module.gamma.fill_(SCRATCH_LAYER_SCALE)
        for token in (aggregator.camera_token, aggregator.register_token):
            token.normal_(std=SCRATCH_TOKEN_STD)
        # Identity pose, one radian of view after four iterations: a negative view would meet
        # the ReLU of the pose encoding and never learn.
        last = camera_head.pose_branch.fc2
        last.weight.mul_(0.1)
        last.bias.zero_()
        last.bias[6:] = 0.25
