# SPDX-License-Identifier: Apache-2.0
"""`VidLLMConfig`: every size and switch of the network; nano and paper differ in numbers only.

The figure's boxes read their sizes from here: encoder, cross-task adapter, aggregator, heads,
metric depth, scale alignment, 3D patches, language model, grounding.
Next: vidllm.py, which joins them.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, Dinov2WithRegistersConfig, PretrainedConfig

from vidllm_ros.prompts import TEMPLATES

ADAPTERS = ("bridge", "cross_attention", "concat_self_attention", "none")
SCALE_ALIGNMENTS = ("least_squares", "log_median", "metric_only", "none")
POSE_REFINEMENTS = ("none", "bundle_adjustment")
SCENE_FRAMES = ("camera", "room")
RESIZE_MODES = ("width", "shorter", "square")
METRIC_CENTERS = ("residual", "attractor")


class VidLLMConfig(PretrainedConfig):
    """Sizes and switches of Vid-LLM; defaults are the bundled nano model's.

    Source: Vid-LLM Sec. 3 and Fig. 2; readings of what the paper leaves open are numbered in
    docs/deviations.md.

    Args:
        encoder: fields of `Dinov2WithRegistersConfig`.
        language: fields of any causal language model's config, with its `model_type`.
        image_size: target of the resize, px; which side it names is `resize_mode`.
        resize_mode: "width" (VGGT's loader), "shorter" (the paper's text) or "square".
        max_frames: frames of a window.
        adapter: row of the paper's Table 6: "bridge", "cross_attention" (no bridge tokens),
            "concat_self_attention" or "none".
        bridge_tokens: number of bridge tokens (the paper's K).
        bridge_per_frame: one bridge set a frame rather than one a video.
        adapter_residual: phi is x + MLP(x) rather than the literal MLP(x).
        aggregator_depth: pairs of frame and global blocks.
        aggregator_layers: which aggregator outputs the dense heads read, four, ascending.
        encoder_layers: which encoder layers the metric decoder reads, four, ascending.
        camera_trunk_depth, camera_mlp_ratio: blocks of the camera head's trunk, and their width.
        camera_iterations: refinements of the pose.
        dense_features: channels of the DPT fusion.
        dense_channels: channels of the four reassembled levels.
        point_head: build the point head (training only).
        metric_bins: number of depth bins.
        metric_centers: "residual" (as printed in Sec. 3.2) or "attractor" (ZoeDepth).
        metric_full_size: read the bins at image size rather than at 8 times the grid (then depth
            is resized bilinearly).
        min_depth_m, max_depth_m: range of the bins.
        metric_focal: focal length over image width of the camera that metric depth is said for
            (metric_geometry.py brings it to the window's); 0 says it for the window's own.
        scale_alignment: "least_squares", "log_median" (robust), "metric_only" (metric depth used
            directly) or "none".
        scale_frames: frames sampled for the scene's scale.
        scale_seed: seed of that sample.
        pose_refinement: "none", or "bundle_adjustment": corners followed through the window
            correct the predicted poses (pose_refinement.py).
        scene_frame: axes in which the language branch reads a scene, "camera" (the window's
            world) or "room" (upright and along the walls, scene_frame.py).
        scene_places: scene tokens carry how they were seen, for language model and box decoder,
            and places are told to the language model once more, in waves (scene_places.py).
        voxel_size_m: edge of the pooling voxel; 0 keeps every patch.
        max_scene_tokens: cap on scene tokens.
        grounding_dim, grounding_heads, grounding_layers, grounding_queries: the box decoder.
        grounding_tokens: cap on the box decoder's own tokens, finer than the language model's (of
            voxel_size_m until the cap is met); 0 gives it the scene's.
        grounding_neighbours: nearest tokens a query looks at, by layer; the last one repeats.
        grounding_votes: tokens vote for the middles of things, and queries begin there; taught by
            the words stage.
        grounding_fusion: overlap (IoU) from which boxes of one label are reported as one, their
            mean by score; 0 reports the best as it is.
        grounding_threshold: score from which a box is reported where the caller names none.
        metric_trains_encoder: the metric-depth loss may change the encoder.
        language_trains_encoder: language and grounding losses may change the encoder; they
            change the adapter in any case and the reconstruction branch in none.
        prompt_template: words around questions, a key of `prompts.TEMPLATES`.
        label_vocabulary: names the node looks for when it publishes objects.
    """

    model_type = "vidllm"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        language: dict[str, Any] | None = None,
        image_size: int = 112,
        resize_mode: str = "width",
        max_frames: int = 32,
        adapter: str = "bridge",
        bridge_tokens: int = 16,
        bridge_per_frame: bool = False,
        adapter_residual: bool = True,
        adapter_heads: int = 3,
        adapter_expansion: int = 1,
        aggregator_depth: int = 4,
        aggregator_heads: int = 3,
        aggregator_registers: int = 4,
        aggregator_layers: tuple[int, ...] = (0, 1, 2, 3),
        rope_frequency: float = 100.0,
        encoder_layers: tuple[int, ...] = (1, 2, 3, 4),
        camera_trunk_depth: int = 1,
        camera_heads: int = 6,
        camera_mlp_ratio: int = 1,
        camera_iterations: int = 4,
        dense_features: int = 32,
        dense_channels: tuple[int, ...] = (24, 48, 96, 96),
        point_head: bool = True,
        metric_features: int = 32,
        metric_channels: tuple[int, ...] = (24, 48, 96, 96),
        metric_bins: int = 64,
        metric_embedding: int = 32,
        metric_centers: str = "residual",
        metric_full_size: bool = False,
        metric_focal: float = 0.0,
        min_depth_m: float = 0.1,
        max_depth_m: float = 10.0,
        scale_alignment: str = "least_squares",
        scale_frames: int = 16,
        scale_seed: int = 0,
        pose_refinement: str = "none",
        scene_frame: str = "camera",
        scene_places: bool = False,
        voxel_size_m: float = 0.2,
        max_scene_tokens: int = 256,
        grounding_dim: int = 128,
        grounding_heads: int = 4,
        grounding_layers: int = 2,
        grounding_queries: int = 64,
        grounding_tokens: int = 0,
        grounding_neighbours: tuple[int, ...] = (16, 32, 64, 128),
        grounding_votes: bool = False,
        grounding_fusion: float = 0.0,
        grounding_threshold: float = 0.3,
        metric_trains_encoder: bool = True,
        language_trains_encoder: bool = True,
        prompt_template: str = "plain",
        label_vocabulary: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        self.encoder = {**NANO_ENCODER, **(encoder or {})}
        self.language = {**NANO_LANGUAGE} if language is None else dict(language)
        self.image_size = image_size
        self.resize_mode = resize_mode
        self.max_frames = max_frames
        self.adapter = adapter
        self.bridge_tokens = bridge_tokens
        self.bridge_per_frame = bridge_per_frame
        self.adapter_residual = adapter_residual
        self.adapter_heads = adapter_heads
        self.adapter_expansion = adapter_expansion
        self.aggregator_depth = aggregator_depth
        self.aggregator_heads = aggregator_heads
        self.aggregator_registers = aggregator_registers
        self.aggregator_layers = list(aggregator_layers)
        self.rope_frequency = rope_frequency
        self.encoder_layers = list(encoder_layers)
        self.camera_trunk_depth = camera_trunk_depth
        self.camera_heads = camera_heads
        self.camera_mlp_ratio = camera_mlp_ratio
        self.camera_iterations = camera_iterations
        self.dense_features = dense_features
        self.dense_channels = list(dense_channels)
        self.point_head = point_head
        self.metric_features = metric_features
        self.metric_channels = list(metric_channels)
        self.metric_bins = metric_bins
        self.metric_embedding = metric_embedding
        self.metric_centers = metric_centers
        self.metric_full_size = metric_full_size
        self.metric_focal = metric_focal
        self.min_depth_m = min_depth_m
        self.max_depth_m = max_depth_m
        self.scale_alignment = scale_alignment
        self.scale_frames = scale_frames
        self.scale_seed = scale_seed
        self.pose_refinement = pose_refinement
        self.scene_frame = scene_frame
        self.scene_places = scene_places
        self.voxel_size_m = voxel_size_m
        self.max_scene_tokens = max_scene_tokens
        self.grounding_dim = grounding_dim
        self.grounding_heads = grounding_heads
        self.grounding_layers = grounding_layers
        self.grounding_queries = grounding_queries
        self.grounding_tokens = grounding_tokens
        self.grounding_neighbours = list(grounding_neighbours)
        self.grounding_votes = grounding_votes
        self.grounding_fusion = grounding_fusion
        self.grounding_threshold = grounding_threshold
        self.metric_trains_encoder = metric_trains_encoder
        self.language_trains_encoder = language_trains_encoder
        self.prompt_template = prompt_template
        self.label_vocabulary = list(label_vocabulary)
        self._check()
        super().__init__(**kwargs)

    def _check(self) -> None:
        for name, value, choices in (
            ("adapter", self.adapter, ADAPTERS),
            ("scale_alignment", self.scale_alignment, SCALE_ALIGNMENTS),
            ("pose_refinement", self.pose_refinement, POSE_REFINEMENTS),
            ("scene_frame", self.scene_frame, SCENE_FRAMES),
            ("resize_mode", self.resize_mode, RESIZE_MODES),
            ("metric_centers", self.metric_centers, METRIC_CENTERS),
            ("prompt_template", self.prompt_template, tuple(TEMPLATES)),
        ):
            if value not in choices:
                raise ValueError(f"{name}: expected one of {choices}, got {value!r}")
        for name, layers, depth in (
            ("aggregator_layers", self.aggregator_layers, self.aggregator_depth),
            ("encoder_layers", self.encoder_layers, int(self.encoder["num_hidden_layers"])),
        ):
            if len(layers) != 4 or sorted(layers) != layers or layers[-1] >= depth:
                raise ValueError(
                    f"{name}: expected four ascending indices below {depth}, got {layers}"
                )
        self._check_grounding()
        if self.metric_focal < 0:
            raise ValueError(f"metric_focal: expected 0 or above, got {self.metric_focal}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size: expected a multiple of {self.patch_size} px, got {self.image_size}"
            )

    def _check_grounding(self) -> None:
        if not self.grounding_neighbours or min(self.grounding_neighbours) < 1:
            got = self.grounding_neighbours
            raise ValueError(f"grounding_neighbours: expected counts of at least 1, got {got}")
        if self.grounding_votes and not self.voxel_size_m:
            raise ValueError(
                "grounding_votes: expected false with voxel_size_m 0, where every token would "
                "look at every other of tens of thousands, got true"
            )
        if not 0 <= self.grounding_fusion < 1:
            got_iou = self.grounding_fusion
            raise ValueError(f"grounding_fusion: expected an IoU from 0 to below 1, got {got_iou}")
        if self.grounding_tokens and self.grounding_tokens < self.max_scene_tokens:
            raise ValueError(
                f"grounding_tokens: expected 0 or at least max_scene_tokens "
                f"({self.max_scene_tokens}), got {self.grounding_tokens}"
            )

    @property
    def patch_size(self) -> int:
        return int(self.encoder["patch_size"])

    @property
    def width(self) -> int:
        """Channels of the encoder and of the aggregator (the paper's C)."""
        return int(self.encoder["hidden_size"])

    def encoder_config(self) -> Dinov2WithRegistersConfig:
        return Dinov2WithRegistersConfig(**self.encoder)

    def language_config(self) -> PretrainedConfig:
        fields = dict(self.language)
        return AutoConfig.for_model(fields.pop("model_type"), **fields)


NANO_ENCODER: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "mlp_ratio": 4,
    "image_size": 112,
    "patch_size": 14,
    "num_register_tokens": 4,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
}

NANO_LANGUAGE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 192,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
