# SPDX-License-Identifier: Apache-2.0
"""Vid-LLM whole: from frames to metric geometry, 3D patches, words and boxes.

Read `geometry` for the reconstruction branch, `scene_tokens` for the door between the branches,
`reconstruct` for a window, scene_questions.py for what a robot asks of it. Gradients cross the
door one way: losses of words and boxes change adapter and encoder, never the reconstruction
branch. Next: any block by its attribute's name; frame_cache.py for what is remembered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from vidllm_ros.geometry.image import resize_frames
from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.box_features import BoxFeatures
from vidllm_ros.network.camera_head import CameraHead
from vidllm_ros.network.checkpoint import MAX_SHARD_SIZE, load_tokenizer
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.cross_task_adapter import AdapterOutput, CrossTaskAdapter
from vidllm_ros.network.dense_head import build_depth_head, build_point_head
from vidllm_ros.network.encoder import Encoder, EncoderOutput
from vidllm_ros.network.first_values import start_from_scratch
from vidllm_ros.network.frame_cache import FrameCache
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.grounding import GroundingDecoder
from vidllm_ros.network.language import SceneLanguageModel
from vidllm_ros.network.layers import Mlp
from vidllm_ros.network.metric_depth import MetricDepth
from vidllm_ros.network.metric_geometry import (
    GeometryOutput,
    MetricGeometry,
    frames_with_metric_depth,
    to_metric,
    to_reconstruction,
    with_lens,
)
from vidllm_ros.network.patches3d import Patches3D, ScenePatches
from vidllm_ros.network.pose_refinement import refine_poses
from vidllm_ros.network.scene_frame import scene_frames
from vidllm_ros.network.scene_places import ScenePlaces, split_sight
from vidllm_ros.network.scene_questions import SceneQuestions
from vidllm_ros.network.scene_state import SceneCache
from vidllm_ros.structures import Corners, Frames, Reconstruction


class VidLLM(SceneQuestions, PreTrainedModel):
    """The network of Vid-LLM (arXiv 2509.24385), Fig. 2; all sizes from `VidLLMConfig`."""

    config_class = VidLLMConfig
    base_model_prefix = "vidllm"
    main_input_name = "images"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers' convention
    _keep_in_fp32_modules_strict = ["camera_head"]  # noqa: RUF012

    config: VidLLMConfig

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.adapter = CrossTaskAdapter(config)
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = build_depth_head(config)
        self.point_head = build_point_head(config) if config.point_head else None
        self.metric_depth = MetricDepth(config)
        self.patches = Patches3D(config)
        self.language = SceneLanguageModel(config)
        self.projector = Mlp(config.width, self.language.dim, self.language.dim)
        self.places = ScenePlaces(self.language.dim) if config.scene_places else None
        self.grounding = GroundingDecoder(config, self.language.dim)
        self.box_features = BoxFeatures(config, self.language.dim)
        self._scenes = SceneCache()
        self.frame_cache = FrameCache()
        start_from_scratch(self.aggregator, self.camera_head)
        self.post_init()
        # post_init asks direct children only, and the language model is a grandchild: without this
        # its tied table would be stored twice and loaded apart.
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave modules as they built themselves; transformers' own bring their rule."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load weights and, where the folder has one, the tokenizer; arguments of transformers.

        Prefer `checkpoint.load_vidllm`, which says in one sentence what is wrong with a folder.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model: VidLLM = loaded[0] if isinstance(loaded, tuple) else loaded
        tokenizer = load_tokenizer(args[0] if args else kwargs["pretrained_model_name_or_path"])
        if tokenizer is not None:
            model.language.attach_tokenizer(tokenizer)
        return loaded

    def save_pretrained(
        self, save_directory: Any, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Write config, tokenizer and weights in shards of at most 14 MB; as transformers does.

        Args:
            save_directory: folder, made where missing.
            args: of transformers.
            dtype: store the weights in this type (bfloat16 halves them); None keeps theirs.
            kwargs: of transformers; `max_shard_size` defaults to 14 MB.
        """
        kwargs.setdefault("max_shard_size", MAX_SHARD_SIZE)
        if dtype is not None:
            kwargs["state_dict"] = {
                name: value.to(dtype) if value.is_floating_point() else value
                for name, value in self.state_dict().items()
                if name not in self.all_tied_weights_keys  # a copy would no longer be seen as tied
            }
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.language.has_tokenizer:
            self.language.tokenizer.save_pretrained(save_directory)

    def train(self, mode: bool = True) -> VidLLM:
        """Switch training mode; what is remembered belongs to older weights and is forgotten."""
        self._scenes.clear()
        self.forget_frames()
        super().train(mode)
        return self

    def forward(self, images: Tensor, dense_frames: Tensor | None = None) -> GeometryOutput:
        return self.geometry(images, dense_frames)

    def geometry(self, images: Tensor, dense_frames: Tensor | None = None) -> GeometryOutput:
        """Run encoder, adapter, aggregator and heads.

        Args:
            images: RGB in [0, 1], (B, S, 3, H, W), H and W multiples of the patch size.
            dense_frames: indices of the frames that get dense maps, (F,); all where None.
        """
        height, width = images.shape[-2:]
        return self.geometry_of(self.encoder(images), (height, width), dense_frames)

    def geometry_of(
        self,
        encoded: EncoderOutput,
        size: tuple[int, int],
        dense_frames: Tensor | None = None,
        metric_frames: list[int] | None = None,
    ) -> GeometryOutput:
        """Run everything of `geometry` that comes after the encoder.

        Args:
            encoded: of the frames.
            size: their (H, W), px.
            dense_frames: as in `geometry`.
            metric_frames: which of the dense frames get metric depth too; all where None.
        """
        adapted = self._adapt(encoded)
        device = encoded.patch_tokens.device
        aggregated = self.aggregator(adapted.geometry, encoded.grid)
        levels = aggregated.patch_levels(self.config.aggregator_layers)
        seen, scaled = encoded.levels, None
        if metric_frames is not None:
            scaled = torch.tensor(metric_frames, dtype=torch.long, device=device)
        if dense_frames is None:  # of all frames: a select would copy every level
            dense_frames = torch.arange(encoded.patch_tokens.shape[1], device=device)
        else:
            levels = [level.index_select(1, dense_frames) for level in levels]
            scaled = dense_frames if scaled is None else dense_frames[scaled]
        if scaled is not None:
            seen = [level.index_select(1, scaled) for level in seen]
        depth = self.depth_head(levels, encoded.grid, size)
        points = None
        if self.point_head is not None and self.training:
            points = self.point_head(levels, encoded.grid, size)
        if not self.config.metric_trains_encoder:
            seen = [level.detach() for level in seen]
        return GeometryOutput(
            pose_encodings=self.camera_head(aggregated.last),
            depth_rel=depth.values,
            depth_confidence=depth.confidence,
            points=None if points is None else points.values,
            points_confidence=None if points is None else points.confidence,
            metric_depth=self.metric_depth(
                seen, encoded.grid, size, keep_bins=torch.is_grad_enabled()
            ),
            adapter=adapted,
            dense_frames=dense_frames,
            image_size=size,
            metric_frames=None if metric_frames is None else tuple(metric_frames),
        )

    def _adapt(self, encoded: EncoderOutput) -> AdapterOutput:
        """Run the adapter; twice where language losses must not reach the encoder."""
        adapted: AdapterOutput = self.adapter(encoded.patch_tokens)
        if self.config.language_trains_encoder or not torch.is_grad_enabled():
            return adapted
        apart = self.adapter(encoded.patch_tokens.detach())
        return AdapterOutput(adapted.geometry, apart.semantic, adapted.bridge)

    def metric_geometry(self, geometry: GeometryOutput) -> MetricGeometry:
        """Bring the relative reconstruction to metres, detached; see metric_geometry.py."""
        return to_metric(geometry, self.config)

    def scene_tokens(
        self, semantic: Tensor, depth: Tensor, K: Tensor, T_world_camera: Tensor, valid: Tensor
    ) -> tuple[ScenePatches, Tensor]:
        """Place semantic tokens in metres and pool them: the door between the branches.

        Geometry, predicted or true, is detached here, and nowhere else on the way to the words.

        Args:
            semantic: T'_lang of F frames, (B, F, N, C).
            depth: (B, F, H, W), m; NaN allowed where not valid.
            K: (B, F, 3, 3), px.
            T_world_camera: (B, F, 4, 4), m, in the first camera's frame.
            valid: (B, F, H, W).

        Returns:
            patches placed in the scene's frame, and T_scene_world of each window, (B, 4, 4).
        """
        depth, K, T_world_camera = depth.detach(), K.detach(), T_world_camera.detach()
        T_scene_world = scene_frames(self.config.scene_frame, depth, valid, K, T_world_camera)
        T_scene_camera = exact_product(T_scene_world[:, None], T_world_camera)
        return self.patches(semantic, depth, K, T_scene_camera, valid), T_scene_world

    def scene_embeds(self, scene: ScenePatches) -> Tensor:
        """Bring pooled tokens into the language model's space: (B, M, D)."""
        dtype = self.projector.fc1.weight.dtype
        tokens, sight = split_sight(scene.tokens, self.places is not None, dtype)
        embeds: Tensor = self.projector(tokens)
        if self.places is not None:
            embeds = embeds + self.places(scene.positions, sight).to(embeds.dtype)
        return embeds

    def predicted_scene(self, geometry: GeometryOutput) -> tuple[ScenePatches, Tensor]:
        """Pool the dense frames' tokens at the places the network itself predicts."""
        metric = self.metric_geometry(geometry)
        semantic = geometry.adapter.semantic.index_select(1, geometry.dense_frames)
        return self.scene_tokens(
            semantic, metric.depth, metric.K, metric.T_world_camera, metric.valid
        )

    def prepare(self, frames: Frames, shrink: float = 1.0) -> Frames:
        """Bring frames to the size the network sees; frames of that size come back as they are.

        Args:
            frames: of any size.
            shrink: share of the configured size, 0 to 1, rounded down to whole patches, at least
                two: for machines short of memory.

        Raises:
            ValueError: the frames are too small, or `shrink` is not a share.
        """
        config = self.config
        if not 0 < shrink <= 1:
            raise ValueError(f"shrink: expected a share above 0 and up to 1, got {shrink}")
        patches = max(2, int(config.image_size * shrink + 1e-6) // config.patch_size)
        size = min(config.image_size, patches * config.patch_size)
        return resize_frames(frames, size, config.patch_size, config.resize_mode)

    @property
    def uses_corners(self) -> bool:
        """Whether `Frames.corners` are of use: whoever makes frames need not follow them else."""
        return bool(self.config.pose_refinement != "none")

    def forget_frames(self) -> None:
        """Give back the memory of frames encoded before."""
        self.frame_cache.clear()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Move or cast the weights (`to`, `half`), and forget what stayed behind."""
        self._scenes.clear()
        self.forget_frames()
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _encode_images(self, images: NDArray[np.uint8]) -> EncoderOutput:
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)[None]
        encoded: EncoderOutput = self.encoder(pixels.float() / 255)
        return encoded

    @torch.inference_mode()
    def reconstruct(self, frames: Frames, shrink: float = 1.0) -> Reconstruction:
        """Turn frames into metric geometry and a scene to ask about.

        Frames are resized as the config says; poses are in the first camera's optical frame. A
        frame of the call before, by stamp and pixels, is not encoded again.

        Args:
            frames: the window.
            shrink: as in `prepare`.

        Raises:
            ValueError: the frames are too small, or no depth can be used for the scale.
        """
        resized = self.prepare(frames, shrink)
        with self.autocast():
            encoded = self.frame_cache.encode(
                resized.images, resized.stamps_ns, self._encode_images
            )
            geometry = self.geometry_of(
                encoded,
                resized.images.shape[1:3],
                metric_frames=frames_with_metric_depth(len(resized), self.config),
            )
            metric = self.corrected(
                self.metric_geometry(geometry),
                resized.images[None],
                None if resized.K is None else resized.K[None],
                [resized.stamps_ns],
                [resized.corners],
            )
            patches, T_scene_world = self.scene_tokens(
                geometry.adapter.semantic,
                metric.depth,
                metric.K,
                metric.T_world_camera,
                metric.valid,
            )
        return to_reconstruction(
            resized, metric, geometry.depth_confidence, patches, T_scene_world
        )

    def corrected(
        self,
        metric: MetricGeometry,
        images: NDArray[np.uint8],
        K: NDArray[np.float64] | None,
        stamps_ns: Sequence[Sequence[int]],
        corners: Sequence[Sequence[Corners] | None] | None = None,
    ) -> MetricGeometry:
        """Take the lens of a calibrated camera; correct the poses where the config says so.

        Arguments as `refine_poses`. What words are trained on is what they read on a robot, so
        training calls this too.
        """
        metric = metric if K is None else with_lens(metric, torch.from_numpy(K))
        if self.config.pose_refinement != "none":
            return refine_poses(metric, images, K, stamps_ns, corners)
        return metric

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision where the weights are half precision, nothing otherwise."""
        if self.dtype in (torch.bfloat16, torch.float16):
            return torch.autocast(self.device.type, dtype=self.dtype)
        return contextlib.nullcontext()
