# SPDX-License-Identifier: Apache-2.0
"""Shared vision encoder: DINOv2 with registers, first box of the figure.

Every frame is encoded by itself. The last layer's patch tokens go to the cross-task adapter
(T_base, Sec. 3.1), four layers on the way to the metric decoder. Next: cross_task_adapter.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Dinov2WithRegistersModel

from vidllm_ros.network.configuration import VidLLMConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderOutput:
    """Patch tokens of every frame.

    Attributes:
        patch_tokens: last layer after the final norm, class and register tokens dropped, (B, S, N,
            C).
        levels: the four layers of `encoder_layers` in their order, after the same norm, each (B,
            S, N, C).
        grid: (h, w), patches; N = h*w in row order.
    """

    patch_tokens: Tensor
    levels: list[Tensor]
    grid: tuple[int, int]


class Encoder(nn.Module):
    """DINOv2 with registers over frames in [0, 1]; ImageNet normalisation happens inside.

    The backbone resizes its position embedding bicubically with antialiasing to the frame's grid,
    as VGGT does; a square frame of the native size takes it as stored. Source: Vid-LLM Sec. 3.1.
    """

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        backbone_config = config.encoder_config()
        backbone_config._attn_implementation = "sdpa"
        self.backbone = Dinov2WithRegistersModel(backbone_config)
        # Used by DINOv2's own pretraining only; a parameter without gradient would stall DDP.
        self.backbone.embeddings.mask_token.requires_grad_(False)
        self.patch_size = config.patch_size
        self.level_layers = tuple(config.encoder_layers)
        self.special_tokens = 1 + int(backbone_config.num_register_tokens)

    def forward(self, images: Tensor) -> EncoderOutput:
        """Encode frames.

        Args:
            images: RGB in [0, 1], (B, S, 3, H, W), H and W multiples of the patch size.

        Raises:
            ValueError: the shape is another one.
        """
        if images.ndim != 5 or images.shape[2] != 3:
            raise ValueError(f"images: expected (B, S, 3, H, W), got {tuple(images.shape)}")
        batch, frames, _, height, width = images.shape
        if height % self.patch_size or width % self.patch_size or not height * width:
            raise ValueError(
                f"images: expected height and width in multiples of {self.patch_size} px, "
                f"got {height}x{width}; resize the frames first"
            )
        grid = (height // self.patch_size, width // self.patch_size)
        hidden = self.backbone.embeddings(self._normalise(images.flatten(0, 1)))
        taken: dict[int, Tensor] = {}
        last = len(self.backbone.encoder.layer) - 1
        # Layer by layer: the model's own `output_hidden_states` would keep all 24 of them.
        for index, layer in enumerate(self.backbone.encoder.layer):
            hidden = layer(hidden, None)
            if index in self.level_layers or index == last:
                patches = self.backbone.layernorm(hidden[:, self.special_tokens :])
                # A GPU's autocast has norms answer in float32: all streams behind would be so.
                taken[index] = patches.to(hidden.dtype).unflatten(0, (batch, frames))
        return EncoderOutput(taken[last], [taken[index] for index in self.level_layers], grid)

    def _normalise(self, images: Tensor) -> Tensor:
        mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
        return (images.float() - mean) / std
