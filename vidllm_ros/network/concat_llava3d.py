# SPDX-License-Identifier: Apache-2.0
"""LLaVA-3D by its published weights: the language half of the paper's concatenation baseline.

CLIP patches are lifted by depth and pose, their place is embedded and added, voxels of 0.2 m are
averaged, and the projector hands them to the language model before the words. Boxes come out as
text; one that goes in is the embedding of its centre. The v1 release is meant (LLaVA-1.5 with CLIP
ViT-L/14-336). Next: concat_llava3d_files.py, which fills it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from vidllm_ros import prompts
from vidllm_ros.geometry.transforms import invert_transform, transform_points
from vidllm_ros.network.concat_clip import lift_clip_patches, prepare_clip
from vidllm_ros.network.concat_room import boxes_from_text, in_room, room_of, spread_frames
from vidllm_ros.network.concat_words import llava_box_prompt
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.language import SceneLanguageModel
from vidllm_ros.network.layers import Mlp
from vidllm_ros.network.patches3d import PositionMlp, ScenePatches, pool_voxels
from vidllm_ros.network.scene_prefix import ScenePrefix
from vidllm_ros.network.text_packing import IGNORE, Segment, pack_segments
from vidllm_ros.structures import Answer, GroundedBox, Reconstruction, SceneContext

BOX_TOKENS, MOST_TOKENS = 96, 512
PICK_SHARE = 0.5  # of the likeliest box's share


class Llava3D(nn.Module):
    """LLaVA-3D's parts, by its own names' meaning.

    Attributes:
        tower: CLIP's vision tower, cut behind the layer that is read.
        position: embeds a patch's place, in the tower's width; added before the projector.
        projector: into the language model.
        box_position: embeds the centre of a box a prompt speaks of, in the language model's width.
        language: any causal model; its template is LLaVA-1.5's.

    Source: model-code facts B.1 to B.4.
    """

    def __init__(self, tower: CLIPVisionConfig, config: VidLLMConfig) -> None:
        super().__init__()
        self.tower: Any = CLIPVisionModel(tower)
        self.language = SceneLanguageModel(config)
        self.position = PositionMlp(int(tower.hidden_size))
        self.projector = Mlp(int(tower.hidden_size), self.language.dim, self.language.dim)
        self.box_position = PositionMlp(self.language.dim)

    def cut_tower(self, layer: int) -> None:
        """Drop the tower's layers behind the hidden state `layer` (-2: all but the last)."""
        layers = self.tower.encoder.layers
        kept = len(layers) + 1 + layer if layer < 0 else layer
        if not 0 < kept <= len(layers):
            raise ValueError(
                f"mm_vision_select_layer: expected one of {len(layers)} layers, got {layer}"
            )
        self.tower.encoder.layers = layers[:kept]

    @property
    def device(self) -> torch.device:
        return self.projector.fc1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.projector.fc1.weight.dtype

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Return CLIP's patches, class token dropped, (S, 3, P, P) -> (S, N, C)."""
        hidden: Tensor = self.tower(pixel_values=pixels.to(self.dtype)).last_hidden_state
        return hidden[:, 1:]

    def scene_patches(
        self, features: Tensor, points: Tensor, valid: Tensor, voxel_m: float, cap: int
    ) -> ScenePatches:
        """Add places to patches and average what shares a voxel.

        Args:
            features: of S frames, (S, N, C).
            points: where they are in the room, (S, N, 3), m.
            valid: which places are known, (S, N).
            voxel_m: edge, m.
            cap: tokens at most; the voxel grows where there are more (LLaVA-3D draws at random).

        Returns:
            a batch of one.
        """
        placed = torch.where(valid[..., None], points, 0.0)
        tokens = features + self.position(placed).to(features.dtype)
        flat = ScenePatches(
            tokens.flatten(0, 1)[None], placed.flatten(0, 1)[None], valid.flatten()[None]
        )
        return pool_voxels(flat, voxel_m, cap)


class Llava3DTalker:
    """Answer about windows by LLaVA-3D; one question at a time.

    Args:
        model: filled, with its tokenizer.
        frames: how many of a window's frames it sees, evenly.
        voxel_m, max_tokens: of the pooling.
    """

    pick_rule = (
        f"those whose caption the phrase is at least {PICK_SHARE} times as likely as the "
        "likeliest one's, so never none"
    )

    def __init__(
        self, model: Llava3D, frames: int = 20, voxel_m: float = 0.2, max_tokens: int = 2560
    ) -> None:
        self.model = model
        self.frames, self.voxel_m, self.max_tokens = frames, voxel_m, max_tokens
        self._lock = threading.RLock()
        self._last: tuple[weakref.ref[SceneContext], ScenePrefix] | None = None

    @property
    def decoder(self) -> Any:
        """Its language model, whose layers may be quantised."""
        return self.model.language.model

    @torch.inference_mode()
    def look(self, rec: Reconstruction) -> SceneContext:
        """Return a window's 3D patches, before the projector, with their places.

        Args:
            rec: its geometry; its scene is not looked at.
        """
        chosen = list(spread_frames(len(rec.stamps_ns), self.frames))
        side = int(self.model.tower.config.image_size)
        patch = int(self.model.tower.config.patch_size)
        pixels = prepare_clip(rec.images[chosen], side).to(self.model.device)
        points, valid = lift_clip_patches(rec, chosen, side, patch)
        T_room_window = room_of(rec, points[valid])
        placed = transform_points(T_room_window, points)
        patches = self.model.scene_patches(
            self.model.patch_features(pixels),
            torch.as_tensor(placed, dtype=torch.float32, device=self.model.device),
            torch.as_tensor(valid, device=self.model.device),
            self.voxel_m,
            self.max_tokens,
        )
        real = patches.mask[0]
        return SceneContext(
            tokens=patches.tokens[0, real],
            positions=patches.positions[0, real],
            stamps_ns=rec.stamps_ns,
            T_world_camera=rec.T_world_camera,
            T_world_scene=invert_transform(T_room_window),
        )

    def answer(self, scene: SceneContext, question: str, most: int = 32) -> Answer:
        """Answer in words; its boxes are those the words hold."""
        prompt = prompts.question_prompt(question, template=self.model.language.template)
        text, confidence = self._say(scene, prompt, most)
        label = prompts.clean_text(question)
        boxes = boxes_from_text(scene, text, label, confidence)
        return Answer(text, confidence, boxes, scene.stamps_ns)

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        """Return the boxes it writes for a phrase; none where it writes none."""
        text, confidence = self._say(scene, llava_box_prompt(phrase), BOX_TOKENS)
        return boxes_from_text(scene, text, prompts.clean_text(phrase), confidence)

    def describe(self, scene: SceneContext, box: GroundedBox, most: int = 64) -> Answer:
        """Describe what is in a box of the window's world."""
        prompt = prompts.caption_prompt(template=self.model.language.template)
        text, confidence = self._say(scene, prompt, most, self._box_embeds(scene, [box]))
        return Answer(text, confidence, (box,), scene.stamps_ns)

    @torch.inference_mode()
    def score_boxes(
        self, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
    ) -> NDArray[np.float32]:
        """Say which given box a phrase means, (R,): shares that sum to 1.

        Each box is described by the phrase: its log-probability as the caption of that box, over
        the boxes by softmax. Source: ours; LLaVA-3D's own grounding decoder was never released.
        """
        if not boxes:
            return np.zeros(0, np.float32)
        language = self.model.language
        caption = prompts.caption_prompt(template=language.template)
        segment = Segment(caption, prompts.answer_text(phrase))
        text = pack_segments(language.tokenizer, [[segment] * len(boxes)]).to(self.model.device)
        with self._lock:
            said = language.packed_cached(
                self._prefix(scene), text, self._box_embeds(scene, boxes)
            )
        wanted = text.labels != IGNORE  # (1, L)
        chosen = said.logits[wanted].float().log_softmax(-1)
        each = chosen.gather(-1, text.labels[wanted][:, None])[:, 0]
        totals = each.new_zeros(len(boxes)).index_add(0, text.segment_ids[wanted], each)
        return np.asarray(totals.softmax(0).cpu().numpy(), np.float32)

    def pick_boxes(
        self, scene: SceneContext, boxes: Sequence[GroundedBox], phrase: str
    ) -> list[tuple[int, float]]:
        """Return which given boxes a phrase means by `pick_rule`, with their shares, best first.

        Shares of one sum over all boxes say which is likelier, not whether any is right: there is
        no "none". Source: ours; the share is not tuned.
        """
        shares = self.score_boxes(scene, boxes, phrase)
        order = [int(index) for index in np.argsort(-shares, kind="stable")]
        return [(i, float(shares[i])) for i in order if shares[i] >= PICK_SHARE * shares.max()]

    def forget(self) -> None:
        """Give back what is remembered of the scene asked last."""
        with self._lock:
            self._last = None

    @torch.inference_mode()
    def _say(
        self, scene: SceneContext, prompt: str, most: int, box_embeds: Tensor | None = None
    ) -> tuple[str, float]:
        with self._lock:
            said = self.model.language.generate(
                self._prefix(scene), prompt, min(most, MOST_TOKENS), box_embeds
            )
        return said.text, said.confidence

    def _prefix(self, scene: SceneContext) -> ScenePrefix:
        """Return keys and values of the scene's tokens, computed at its first question."""
        if self._last is None or self._last[0]() is not scene:
            self._last = None  # one of 7B takes a gigabyte
            tokens = scene.tokens.to(self.model.device, self.model.dtype)
            prefix = self.model.language.encode_scene(self.model.projector(tokens)[None])
            self._last = (weakref.ref(scene), prefix)
        return self._last[1]

    def _box_embeds(self, scene: SceneContext, boxes: Sequence[GroundedBox]) -> Tensor:
        centers = np.stack([in_room(scene, box).center for box in boxes])
        places = torch.as_tensor(centers, dtype=torch.float32, device=self.model.device)
        with torch.inference_mode():
            embeds: Tensor = self.model.box_position(places)
        return embeds[None]
