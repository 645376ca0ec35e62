# SPDX-License-Identifier: Apache-2.0
"""Global-Frame Attention xN of the figure: frames look at themselves, then at each other, in turn.

Takes the adapter's geometry tokens, prepends a camera token and registers to every frame, and
hands a few of its outputs to the heads. Weights fit VGGT's. Next: camera_head.py, dense_head.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidllm_ros.network.attention_kernels import attention_order
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.layers import Block, RotaryEmbedding2D, RotaryTables


@dataclass(frozen=True)
class AggregatorOutput:
    """What the heads read.

    Attributes:
        levels: index of a frame/global pair -> its two outputs side by side, (B, S, P, 2C); holds
            `aggregator_layers` and the last pair, which the camera head reads.
        patch_start: index of the first patch token in P; before it camera, then registers.
    """

    levels: dict[int, Tensor]
    patch_start: int

    @property
    def last(self) -> Tensor:
        """Output of the last pair, (B, S, P, 2C)."""
        return self.levels[max(self.levels)]

    def patch_levels(self, layers: list[int]) -> list[Tensor]:
        """Return the patch tokens of these pairs, each (B, S, N, 2C)."""
        return [self.levels[layer][:, :, self.patch_start :] for layer in layers]


class Aggregator(nn.Module):
    """Alternate frame attention over P tokens and global attention over S*P tokens.

    The first frame has camera and register tokens of its own (slot 0) and so becomes the world;
    the others share slot 1 and may change places. Source: Vid-LLM Fig. 2; VGGT, model-code facts
    A.3.

    Attributes:
        kernels: names of attention kernels, the first preferred (attention_kernels.py); PyTorch's
            own choice where empty.
    """

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        width, heads, registers = (
            config.width,
            config.aggregator_heads,
            config.aggregator_registers,
        )
        self.camera_token = nn.Parameter(1e-6 * torch.randn(1, 2, 1, width))
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 2, registers, width))
        self.frame_blocks = nn.ModuleList(
            Block(width, heads, qk_norm=True) for _ in range(config.aggregator_depth)
        )
        self.global_blocks = nn.ModuleList(
            Block(width, heads, qk_norm=True) for _ in range(config.aggregator_depth)
        )
        self.rotary = RotaryEmbedding2D(width // heads, config.rope_frequency)
        self.kept = frozenset(config.aggregator_layers) | {config.aggregator_depth - 1}
        self.patch_start = 1 + registers
        self.gradient_checkpointing = False
        self.kernels: tuple[str, ...] = ()

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> AggregatorOutput:
        """Mix tokens within and across frames.

        Args:
            tokens: geometry tokens of the patches, (B, S, N, C).
            grid: (h, w), patches.

        Raises:
            ValueError: N is not h*w.
        """
        batch, frames, patches, _ = tokens.shape
        if patches != grid[0] * grid[1]:
            raise ValueError(f"grid: expected h*w = {patches} patch tokens, got {grid}")
        x = torch.cat([self._special_tokens(batch, frames).to(tokens.dtype), tokens], dim=2)
        in_frame = self.rotary.tables(grid, self.patch_start, tokens.device)
        across = in_frame.repeat(frames)
        levels: dict[int, Tensor] = {}
        pairs = zip(self.frame_blocks, self.global_blocks, strict=True)
        with attention_order(self.kernels):
            for index, (frame_block, global_block) in enumerate(pairs):
                x = self._run(frame_block, x.flatten(0, 1), in_frame).unflatten(0, (batch, frames))
                frame_output = x
                x = self._run(global_block, x.flatten(1, 2), across).unflatten(1, (frames, -1))
                if index in self.kept:
                    levels[index] = torch.cat([frame_output, x], dim=-1)  # (B, S, P, 2C)
        return AggregatorOutput(levels, self.patch_start)

    def _special_tokens(self, batch: int, frames: int) -> Tensor:
        slots = torch.cat([self.camera_token, self.register_token], dim=2)  # (1, 2, 1 + R, C)
        others = slots[:, 1:].expand(-1, frames - 1, -1, -1)
        return torch.cat([slots[:, :1], others], dim=1).expand(batch, -1, -1, -1)

    def _run(self, block: nn.Module, x: Tensor, rotary: RotaryTables) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, rotary, use_reentrant=False)
        return block(x, rotary)
