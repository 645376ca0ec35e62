# SPDX-License-Identifier: Apache-2.0
"""What a window must cost at least, from the configuration alone: products, weights, memory.

A product of matrices counts two operations for each multiplied pair; softmax, norms and sums are
left out; causal attention counts its lower half. A test holds the formulas against PyTorch's own
counter. Next: cli/bench_model.py, which compares them with the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.dense_head import LAST_CHANNELS
from vidllm_ros.network.frame_turns import DECODER_VALUES, LEAST_FRAMES, in_turns
from vidllm_ros.network.metric_depth import PIXEL_CHANNELS
from vidllm_ros.network.scale_alignment import frames_read
from vidllm_ros.network.scene_places import TOLD


@dataclass(frozen=True)
class Workload:
    """What is put through the network.

    Attributes:
        frames: of the window.
        size: (H, W) of a frame at the network, px.
        scene_tokens: after pooling.
        text_tokens: of a question with the words around it.
        bytes_per_value: of weights and activations; 2 in half precision.
    """

    frames: int
    size: tuple[int, int]
    scene_tokens: int
    text_tokens: int = 24
    bytes_per_value: int = 2


@dataclass(frozen=True)
class StageCost:
    """One stage's least cost.

    Attributes:
        flops: of its products.
        attention_flops: the part of them that grows with the square of the tokens.
        weight_bytes: read once.
        activation_bytes: in and out of the stage's layers, where each is one fused pass.
    """

    flops: float
    attention_flops: float
    weight_bytes: float
    activation_bytes: float

    @property
    def byte_count(self) -> float:
        return self.weight_bytes + self.activation_bytes


def _linear(tokens: float, rows: int, columns: int) -> float:
    return 2.0 * tokens * rows * columns


class Account:
    """Costs of all stages of a configuration under a workload."""

    def __init__(self, config: VidLLMConfig, load: Workload) -> None:
        self.config, self.load = config, load
        patch = config.patch_size
        if load.size[0] % patch or load.size[1] % patch:
            raise ValueError(f"size: expected multiples of {patch} px, got {load.size}")
        self.grid = (load.size[0] // patch, load.size[1] // patch)
        self.patches = self.grid[0] * self.grid[1]

    def stages(self) -> dict[str, StageCost]:
        """Return the stages in the order they run."""
        return {
            "encoder": self._encoder(),
            "adapter": self._adapter(),
            "aggregator": self._aggregator(),
            "camera_head": self._camera_head(),
            "depth_head": self._depth_head(),
            "metric_depth": self._metric_depth(),
            "prefill": self._prefill(),
            "first_token": self._text(self.load.text_tokens),
        }

    def _blocks(
        self, count: int, sequences: int, length: int, width: int, ratio: float
    ) -> StageCost:
        tokens = sequences * length
        weights = (4 + 2 * ratio) * width * width
        attention = 4.0 * sequences * length * length * width * count
        size = self.load.bytes_per_value
        return StageCost(
            flops=count * 2.0 * tokens * weights + attention,
            attention_flops=attention,
            weight_bytes=count * weights * size,
            activation_bytes=count * tokens * width * (10 + 2 * ratio) * size,
        )

    def _encoder(self) -> StageCost:
        config, load = self.config, self.load
        encoder = config.encoder
        length = self.patches + 1 + int(encoder["num_register_tokens"])
        blocks = self._blocks(
            int(encoder["num_hidden_layers"]), load.frames, length, config.width,
            float(encoder["mlp_ratio"]),
        )  # fmt: skip
        pixels = 3 * config.patch_size**2
        embed = _linear(load.frames * self.patches, pixels, config.width)
        return _plus(blocks, flops=embed, weights=pixels * config.width * load.bytes_per_value)

    def _adapter(self) -> StageCost:
        config, load = self.config, self.load
        width, tokens = config.width, load.frames * self.patches
        if config.adapter == "none":
            return StageCost(0, 0, 0, 0)
        if config.adapter != "bridge":
            raise ValueError(f"adapter: expected bridge or none, got {config.adapter!r}")
        mlp = 2 * config.adapter_expansion * width * width
        bridges = config.bridge_tokens * (load.frames if config.bridge_per_frame else 1)
        # Of each stream: collect k v over all tokens, q o of the bridge; write back the other way.
        linear = _linear(tokens, width, 2 * width) + _linear(bridges, width, 2 * width)
        per_frame = self.patches if config.bridge_per_frame else tokens
        attention = 4.0 * bridges * per_frame * width
        flops = 2 * (2.0 * tokens * mlp + 2 * linear + 2 * attention)
        weights = 2 * (mlp + 8 * width * width) * load.bytes_per_value
        return StageCost(
            flops, 4 * attention, weights, 2 * tokens * width * 10 * load.bytes_per_value
        )

    def _aggregator(self) -> StageCost:
        config, load = self.config, self.load
        length = self.patches + 1 + config.aggregator_registers
        local = self._blocks(config.aggregator_depth, load.frames, length, config.width, 4.0)
        across = self._blocks(config.aggregator_depth, 1, load.frames * length, config.width, 4.0)
        return _sum(local, across)

    def _camera_head(self) -> StageCost:
        config, load = self.config, self.load
        dim, turns = 2 * config.width, config.camera_iterations
        trunk = self._blocks(
            config.camera_trunk_depth, 1, load.frames, dim, float(config.camera_mlp_ratio)
        )
        others = 9 * dim + 3 * dim * dim + dim * (dim // 2) + (dim // 2) * 9
        return StageCost(
            turns * (trunk.flops + 2.0 * load.frames * others),
            turns * trunk.attention_flops,
            turns * (2 * trunk.weight_bytes + 4 * others),  # float32, read at every turn
            turns * 2 * trunk.activation_bytes,
        )

    def _decoder(self, in_dim: int, features: int, channels: list[int]) -> float:
        """Operations of a DPT decoder for one frame; a resize has none."""
        h, w = self.grid
        cells = h * w
        half = ((h + 1) // 2) * ((w + 1) // 2)
        a, b, _, d = channels
        sizes = (16 * cells, 4 * cells, cells, half)
        flops = sum(_linear(cells, in_dim, width) for width in channels)
        flops += _linear(cells, a, 16 * a) + _linear(cells, b, 4 * b) + _linear(half, 9 * d, d)
        flops += sum(
            _linear(area, 9 * width, features) for area, width in zip(sizes, channels, strict=True)
        )
        unit = 2 * 9 * features * features
        for level, area in enumerate(sizes):
            units = 1 if level == 3 else 2
            flops += 2.0 * area * (units * unit + features * features)
        flops += _linear(64 * cells, 9 * features, features // 2)
        return flops

    def _depth_head(self) -> StageCost:
        config, load = self.config, self.load
        height, width = load.size
        half = config.dense_features // 2
        flops = self._decoder(2 * config.width, config.dense_features, list(config.dense_channels))
        flops += _linear(height * width, 9 * half, LAST_CHANNELS)
        flops += _linear(height * width, LAST_CHANNELS, 2)
        maps = load.frames * self._map_values(config.dense_features, half)
        weights = self._decoder_weights(
            2 * config.width, config.dense_features, list(config.dense_channels)
        )
        weights += 9 * half * LAST_CHANNELS
        size = load.bytes_per_value
        return StageCost(load.frames * flops, 0, weights * size, maps * size)

    def _metric_depth(self) -> StageCost:
        """Cost for the frames that the scale is fitted to; a window's others are not computed."""
        config, load = self.config, self.load
        if config.metric_centers != "residual":
            raise ValueError("metric_centers: expected residual, got attractor")
        area = (
            load.size[0] * load.size[1] if config.metric_full_size else 64 * self.patches
        )  # fmt: skip
        half = config.metric_features // 2
        flops = self._decoder(config.width, config.metric_features, list(config.metric_channels))
        flops += _linear(area, 9 * half, PIXEL_CHANNELS)
        flops += _linear(area, PIXEL_CHANNELS, config.metric_embedding)
        flops += _linear(area, config.metric_embedding, 4)
        flops += _linear(area, PIXEL_CHANNELS, config.metric_bins)
        flops += _linear(area, 2, config.metric_bins)
        frames = len(
            frames_read(
                load.frames, config.scale_frames, config.scale_seed, config.scale_alignment
            )
        )
        if not frames:
            return StageCost(0, 0, 0, 0)
        maps = frames * self._map_values(config.metric_features, half)
        weights = self._decoder_weights(
            config.width, config.metric_features, list(config.metric_channels)
        )
        weights += 9 * half * PIXEL_CHANNELS + PIXEL_CHANNELS * config.metric_bins
        size = load.bytes_per_value
        return StageCost(frames * flops, 0, weights * size, maps * size)

    def _decoder_weights(self, in_dim: int, features: int, channels: list[int]) -> float:
        """Weights of a DPT decoder."""
        a, b, _, d = channels
        weights = in_dim * sum(channels) + 16 * a * a + 4 * b * b + 9 * d * d
        weights += 9 * features * sum(channels)
        units = 7 * 2 * 9 * features * features + 4 * features * features
        return weights + units + 9 * features * (features // 2)

    def _map_values(self, features: int, half: int) -> float:
        """Values of a decoder's maps, written and read once, for one frame."""
        fused = (16 + 4 + 1 + 0.25) * self.patches * features * 8
        return fused + 2 * 64 * self.patches * (features + half) + 2 * half * self.pixels

    @property
    def pixels(self) -> int:
        return self.load.size[0] * self.load.size[1]

    def _prefill(self) -> StageCost:
        config, load = self.config, self.load
        dim = int(config.language["hidden_size"])
        projector = _linear(load.scene_tokens, config.width, dim) + _linear(
            load.scene_tokens, dim, dim
        )
        cost = self._words(load.scene_tokens + 1, 0)
        weights = (config.width + dim) * dim * load.bytes_per_value
        if config.scene_places:
            projector += _linear(load.scene_tokens, TOLD, dim)
            projector += _linear(load.scene_tokens, dim, dim)
            weights += (TOLD + dim) * dim * load.bytes_per_value
        return _plus(cost, flops=projector, weights=weights)

    def _text(self, tokens: int) -> StageCost:
        """Cost of `tokens` words after the scene, logits of the last one included."""
        language = self.config.language
        table = int(language["vocab_size"]) * int(language["hidden_size"])
        cost = self._words(tokens, self.load.scene_tokens + 1)
        return _plus(cost, flops=2.0 * table, weights=table * self.load.bytes_per_value)

    def _words(self, tokens: int, before: int) -> StageCost:
        language, size = self.config.language, self.load.bytes_per_value
        dim, layers = int(language["hidden_size"]), int(language["num_hidden_layers"])
        heads = int(language["num_attention_heads"])
        keys = dim * int(language.get("num_key_value_heads", heads)) // heads
        weights = layers * (
            2 * dim * dim + 2 * dim * keys + 3 * dim * int(language["intermediate_size"])
        )
        attention = 4.0 * layers * dim * tokens * (before + (tokens + 1) / 2)
        cache = 2.0 * layers * keys * (before + tokens) * size
        return StageCost(
            2.0 * tokens * weights + attention, attention, weights * size,
            cache + layers * tokens * dim * 12 * size,
        )  # fmt: skip

    def kept_bytes(self) -> dict[str, float]:
        """Memory that lives through a window: what the ladder of memory_plan.py weighs."""
        config, load = self.config, self.load
        size, tokens = load.bytes_per_value, load.frames * self.patches
        special = load.frames * (1 + config.aggregator_registers)
        language = config.language
        heads = int(language["num_attention_heads"])
        keys = (
            int(language["hidden_size"]) * int(language.get("num_key_value_heads", heads)) // heads
        )
        finest = 64 * self.patches * config.dense_features
        at_a_time = in_turns(load.frames, finest, DECODER_VALUES, LEAST_FRAMES)
        widest = max(finest, self.pixels * config.dense_features / 2)
        return {
            "encoder_levels": 5.0 * tokens * config.width * size,
            "aggregator_levels": 4.0 * (tokens + special) * 2 * config.width * size,
            "block": 12.0 * (tokens + special) * config.width * size,
            "dense_maps": 6.0 * at_a_time * widest * size,
            "outputs": 6.0 * load.frames * self.pixels * 4,
            "scene_cache": 2.0
            * int(language["num_hidden_layers"])
            * keys
            * load.scene_tokens
            * size,
        }


def _sum(first: StageCost, second: StageCost) -> StageCost:
    return StageCost(
        first.flops + second.flops,
        first.attention_flops + second.attention_flops,
        first.weight_bytes + second.weight_bytes,
        first.activation_bytes + second.activation_bytes,
    )


def _plus(cost: StageCost, flops: float, weights: float) -> StageCost:
    return _sum(cost, StageCost(flops, 0, weights, 0))
