# SPDX-License-Identifier: Apache-2.0
"""Train a small CLIP on rendered rooms: the semantic teacher of nano's stage 1.

Public image-text teachers know the world's words; this one knows those of SynthRooms, by the same
means: images and words are embedded apart and must find each other. Patches find the words for
what they show, frames the list of what is in them, objects their captions. Source: CLIP's
symmetric contrast, with equal texts counting as equal; patches and captions are ours
(docs/deviations.md). Next: teachers.py, which uses the vision tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerBase

from vidllm_ros.data.scene_batch import IGNORED, SceneBatch
from vidllm_ros.network.text_packing import encode
from vidllm_ros.training.losses import masked_mean
from vidllm_ros.training.recipe import Recipe
from vidllm_ros.training.stage_output import StageOutput
from vidllm_ros.training.words import Terms

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FEWEST_PATCHES = 2
NEVER = -1e4


class VisionTower(nn.Module):
    """A CLIP vision tower over frames in [0, 1] of any size in patches.

    Args:
        tower: of `CLIPModel` or `CLIPVisionModel`.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def hidden(self, images: Tensor, layer: int) -> Tensor:
        """Hidden state of a layer, class token first, (B, 3, H, W) -> (B, 1 + N, C)."""
        mean = torch.tensor(CLIP_MEAN, device=images.device).view(3, 1, 1)
        std = torch.tensor(CLIP_STD, device=images.device).view(3, 1, 1)
        output = self.tower(
            pixel_values=(images.float() - mean) / std,
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
        hidden: Tensor = output.hidden_states[layer]
        return hidden


class ImageTextStage(nn.Module):
    """Images and words of the same rooms find each other.

    Args:
        model: what is trained.
        tokenizer: of its words.
        recipe: weights `losses.contrast_*`.
        labels, colors: words that the batch's patch ids index.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        labels: Sequence[str],
        colors: Sequence[str],
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.labels, self.colors = tuple(labels), tuple(colors)

    def forward(self, batch: SceneBatch, progress: float) -> StageOutput:
        """Return the weighted contrasts of patches, frames and captions.

        Words are compared with those of this process's batch.
        """
        weights, terms = self.recipe.losses, Terms(batch.images)
        frames, patches = self.embed_images(batch.images)
        keys = self.patch_keys(batch)  # (B*S, N)
        unique, index = keys.unique(return_inverse=True)
        words = [self.words_of(int(key)) for key in unique.tolist()]
        known = keys >= 0
        scale = self.model.logit_scale.exp().clamp(max=100.0)
        logits = scale * patches @ self.embed_words(words).T  # (B*S, N, W)
        if not bool(known.all()):
            logits = logits.masked_fill((unique < 0).view(1, 1, -1), NEVER)
        cross = functional.cross_entropy(
            logits.flatten(0, 1).float(), index.flatten(), reduction="none"
        ).view_as(keys)
        terms.add("contrast_patch", masked_mean(cross, known), weights.contrast_patch)
        hit = (logits.argmax(-1) == index).float()
        terms.note("patch_top1", masked_mean(hit, known))
        texts = frame_texts(index, words)
        terms.add("contrast_frame", self.contrast(frames, texts, scale), weights.contrast_frame)
        objects, captions = self.captioned(batch, patches.unflatten(0, batch.images.shape[:2]))
        terms.add(
            "contrast_caption", self.contrast(objects, captions, scale), weights.contrast_caption
        )
        return StageOutput(terms.total, terms.values, len(batch.scene_ids))

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors of frames (B*S, E) and of their patches (B*S, N, E)."""
        vision: Any = self.model.vision_model
        hidden = VisionTower(vision).hidden(images.flatten(0, 1), -1)
        said = self.model.visual_projection(vision.post_layernorm(hidden)).float()
        unit = functional.normalize(said, dim=-1)
        return unit[:, 0], unit[:, 1:]

    def embed_words(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of texts, (T, E); each is read at its last token."""
        device = self.model.logit_scale.device
        config: Any = self.model.config.text_config
        longest = int(config.max_position_embeddings)
        rows = [encode(self.tokenizer, text)[: longest - 1] for text in texts]
        end = int(self.tokenizer.eos_token_id or 0)
        ids = torch.full((len(rows), max(len(row) for row in rows) + 1), end)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        last = torch.tensor([len(row) for row in rows], device=device)
        read = self.model.text_model(input_ids=ids.to(device)).last_hidden_state
        said = self.model.text_projection(read[torch.arange(len(rows), device=device), last])
        return functional.normalize(said.float(), dim=-1)

    def patch_keys(self, batch: SceneBatch) -> Tensor:
        """One number for each (class, colour) that patches show, (B*S, N); -1 where unknown."""
        labels = batch.patch_labels.flatten(0, 1)
        colors = batch.patch_colors.flatten(0, 1).clamp(min=-1)
        key = labels * (len(self.colors) + 1) + colors + 1
        return torch.where(labels == IGNORED, -1, key)

    def words_of(self, key: int) -> str:
        """Return the words for a patch's number: "red chair", or "wall" where no colour is
        known.
        """
        if key < 0:
            return "nothing"
        label, color = divmod(key, len(self.colors) + 1)
        return f"{self.colors[color - 1]} {self.labels[label]}" if color else self.labels[label]

    def captioned(self, batch: SceneBatch, patches: Tensor) -> tuple[Tensor, list[str]]:
        """Return objects with captions, unit means of their patches (O, E), and the captions."""
        vectors, captions = [patches.new_zeros(0, patches.shape[-1])], []
        for scene, sentences in enumerate(batch.sentences):
            for sentence in sentences:
                if sentence.kind != "caption":
                    continue
                shown = (batch.patch_objects[scene] == sentence.object_ids[0]).float()
                total = (patches[scene] * shown[..., None]).sum((0, 1))
                vectors.append(functional.normalize(total, dim=-1)[None])
                captions.append(sentence.answer.strip())
        return torch.cat(vectors), captions

    def contrast(self, images: Tensor, texts: Sequence[str], scale: Tensor) -> Tensor:
        """Contrast pairs both ways; all pairs with an equal text count as right.

        Args:
            images: unit vectors, (T, E).
            texts: one an image.
            scale: of the cosine.
        """
        if len(texts) < 2:
            return images.sum() * 0.0 + self.embed_words(["nothing"]).sum() * 0.0
        different = list(dict.fromkeys(texts))
        place = torch.tensor([different.index(text) for text in texts], device=images.device)
        logits = scale * images @ self.embed_words(different)[place].T
        equal = place[:, None] == place[None]
        right = logits.masked_fill(~equal, NEVER)
        to_text = logits.logsumexp(-1) - right.logsumexp(-1)
        to_image = logits.logsumexp(0) - right.logsumexp(0)
        return 0.5 * (to_text.mean() + to_image.mean())


def frame_texts(index: Tensor, words: Sequence[str]) -> list[str]:
    """Say what each frame shows, most patches first: "a room with wall, red chair, ...".

    Args:
        index: which of the words each patch shows, (F, N).
        words: names.
    """
    texts = []
    counts = torch.zeros(len(index), len(words), dtype=torch.long, device=index.device)
    counts.scatter_add_(1, index, torch.ones_like(index))
    for row in counts.tolist():
        order = sorted(range(len(words)), key=lambda i: -row[i])
        shown = [words[i] for i in order if row[i] >= FEWEST_PATCHES]
        texts.append("a room with " + ", ".join(shown))
    return texts
