# SPDX-License-Identifier: Apache-2.0
"""The language model of the figure: scene tokens first, words after them.

Any causal model of transformers. Its prefix is <bos>, the template's preface and the projected
scene tokens; what follows are segments, each of which sees the prefix and itself. So one prefix
serves many questions: packed into one pass in training, from a key/value cache when answering.
Next: grounding.py, which reads the hidden state of <loc>.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedTokenizerBase

from vidllm_ros import prompts
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.text_packing import PackedText, encode, special_ids


@dataclass(frozen=True)
class LanguageOutput:
    """What the model says at every token of the packed text.

    Attributes:
        logits: of the next token, (B, L, V).
        hidden: last layer after its norm, (B, L, D).
    """

    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class ScenePrefix:
    """One scene as the language model remembers it.

    Attributes:
        cache: keys and values of the prefix; segments are appended and cut off again.
        length: tokens of the prefix.
    """

    cache: DynamicCache
    length: int


@dataclass(frozen=True)
class Generated:
    """Greedy continuation.

    Attributes:
        text: without special tokens.
        confidence: geometric mean probability of the tokens, <eos> included, 0 to 1.
    """

    text: str
    confidence: float


class SceneLanguageModel(nn.Module):
    """A causal language model that reads scene tokens before words.

    The tokenizer is attached after building or loading; without one, only `packed_forward` works.
    """

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        self.model: Any = AutoModelForCausalLM.from_config(
            config.language_config(), attn_implementation="sdpa"
        )
        self.template = prompts.TEMPLATES[config.prompt_template]
        self.max_length = int(self.model.config.max_position_embeddings)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._preface_ids: list[int] = [int(self.model.config.bos_token_id)]

    @property
    def dim(self) -> int:
        """Width of the language model (D)."""
        return int(self.model.config.hidden_size)

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The attached tokenizer.

        Raises:
            ValueError: none is attached.
        """
        if self._tokenizer is None:
            raise ValueError(
                "tokenizer: expected one beside the weights, got none; build_tokenizer makes one"
            )
        return self._tokenizer

    def attach_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Use this tokenizer; it must hold the special tokens and fit the embedding table.

        Raises:
            ValueError: it does not.
        """
        special = special_ids(tokenizer)
        largest, table = max(tokenizer.get_vocab().values()), int(self.model.config.vocab_size)
        if largest >= table:
            raise ValueError(
                f"tokenizer: expected ids below the model's vocabulary of {table}, got {largest}"
            )
        self._tokenizer = tokenizer
        self._preface_ids = [special.bos, *encode(tokenizer, self.template.preface)]

    def packed_forward(
        self,
        scene_embeds: Tensor,
        scene_mask: Tensor,
        text: PackedText,
        box_embeds: Tensor | None = None,
    ) -> LanguageOutput:
        """Run many segments after one scene in a single pass.

        Every segment gets exactly what it would get alone: it sees the scene and itself, and its
        positions restart after the scene's last real token.

        Args:
            scene_embeds: projected scene tokens, (B, M, D).
            scene_mask: which are real, (B, M); real ones first.
            text: the segments, (B, L).
            box_embeds: what stands at the <box> tokens, in their order, (B, R, D).
        """
        prefix = self._prefix_embeds(scene_embeds)
        extra = prefix.shape[1] - scene_embeds.shape[1]
        prefix_mask = torch.cat([scene_mask.new_ones(len(scene_mask), extra), scene_mask], dim=1)
        words = self._embed(text.ids, box_embeds).to(prefix.dtype)
        width = prefix.shape[1]
        positions = torch.cat(
            [
                torch.arange(width, device=prefix.device).expand(len(prefix), -1),
                prefix_mask.sum(1, keepdim=True) + text.offsets,
            ],
            dim=1,
        )
        hidden = self.model.base_model(
            inputs_embeds=torch.cat([prefix, words], dim=1),
            attention_mask=_packed_mask(prefix_mask, text.segment_ids),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state[:, width:]
        return LanguageOutput(self._logits(hidden), hidden)

    def encode_scene(self, scene_embeds: Tensor) -> ScenePrefix:
        """Compute keys and values of one scene's prefix once, for every question to come.

        Args:
            scene_embeds: projected scene tokens without padding, (1, M, D).

        Raises:
            ValueError: the scene does not fit the model's context.
        """
        prefix = self._prefix_embeds(scene_embeds)
        if prefix.shape[1] >= self.max_length:
            raise ValueError(
                f"scene: expected fewer than {self.max_length} tokens, got {prefix.shape[1]}; "
                "lower max_scene_tokens"
            )
        cache = DynamicCache(config=self.model.config)
        self.model.base_model(inputs_embeds=prefix, past_key_values=cache, use_cache=True)
        return ScenePrefix(cache, prefix.shape[1])

    def packed_cached(
        self, prefix: ScenePrefix, text: PackedText, box_embeds: Tensor | None = None
    ) -> LanguageOutput:
        """Run segments of one scene, (1, L), on its cached prefix; equals `packed_forward`.

        Raises:
            ValueError: a segment does not fit the context beside the scene.
        """
        longest = int(text.offsets.max()) + 1
        if prefix.length + longest > self.max_length:
            raise ValueError(
                f"phrase: expected at most {self.max_length - prefix.length} tokens beside this "
                f"scene, got {longest}; shorten it"
            )
        words = self._embed(text.ids, box_embeds)
        seen = torch.ones(1, prefix.length, dtype=torch.bool, device=words.device)
        try:
            hidden = self.model.base_model(
                inputs_embeds=words,
                attention_mask=_packed_mask(seen, text.segment_ids)[:, :, prefix.length :],
                position_ids=prefix.length + text.offsets,
                past_key_values=prefix.cache,
                use_cache=True,
            ).last_hidden_state
        finally:
            _forget_segments(prefix)
        return LanguageOutput(self._logits(hidden), hidden)

    def generate(
        self,
        prefix: ScenePrefix,
        prompt: str,
        max_new_tokens: int,
        box_embeds: Tensor | None = None,
    ) -> Generated:
        """Continue a prompt greedily until <eos>; the prefix stays as it was.

        Raises:
            ValueError: the prompt does not fit the context beside the scene.
        """
        ids = encode(self.tokenizer, prompt)
        room = self.max_length - prefix.length - len(ids)
        if room < 1:
            raise ValueError(
                f"question: expected at most {self.max_length - prefix.length - 1} tokens beside "
                f"this scene, got {len(ids)}; shorten it"
            )
        special = special_ids(self.tokenizer)
        never = [special.pad, special.bos, special.loc, special.box]
        device = self.model.get_input_embeddings().weight.device
        chosen: list[int] = []
        log_probability = 0.0
        words = self._embed(torch.tensor([ids], device=device), box_embeds)
        try:
            for _ in range(min(max_new_tokens, room)):
                hidden = self.model.base_model(
                    inputs_embeds=words, past_key_values=prefix.cache, use_cache=True
                ).last_hidden_state
                logits = self._logits(hidden[:, -1]).float()[0]
                logits[never] = -torch.inf
                best = int(logits.argmax())
                log_probability += float(logits.log_softmax(-1)[best])
                chosen.append(best)
                if best == special.eos:
                    break
                words = self._embed(torch.tensor([[best]], device=device), None)
        finally:
            _forget_segments(prefix)
        confidence = float(torch.tensor(log_probability / max(1, len(chosen))).exp())
        text = str(self.tokenizer.decode(chosen, skip_special_tokens=True)).strip()
        return Generated(text, confidence)

    def _prefix_embeds(self, scene_embeds: Tensor) -> Tensor:
        ids = torch.tensor(self._preface_ids, device=scene_embeds.device)
        preface = self.model.get_input_embeddings()(ids).to(scene_embeds.dtype)
        return torch.cat([preface.expand(len(scene_embeds), -1, -1), scene_embeds], dim=1)

    def _embed(self, ids: Tensor, box_embeds: Tensor | None) -> Tensor:
        words: Tensor = self.model.get_input_embeddings()(ids)  # (B, L, D)
        if box_embeds is None or box_embeds.shape[1] == 0:
            return words
        is_box = ids == special_ids(self.tokenizer).box
        rank = (is_box.long().cumsum(1) - 1).clamp(0, box_embeds.shape[1] - 1)
        boxes = box_embeds.gather(1, rank[..., None].expand(-1, -1, words.shape[-1]))
        return torch.where(is_box[..., None], boxes.to(words.dtype), words)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits


def next_token(language: SceneLanguageModel, prefix: ScenePrefix, ids: Tensor) -> Tensor:
    """Return the logits after `ids`, (1, V), from a scene read before; the prefix stays."""
    try:
        hidden = language.model.base_model(
            inputs_embeds=language.model.get_input_embeddings()(ids),
            past_key_values=prefix.cache,
            use_cache=True,
        ).last_hidden_state
    finally:
        _forget_segments(prefix)
    return language._logits(hidden[:, -1])


def _forget_segments(prefix: ScenePrefix) -> None:
    """Cut every layer back to the prefix, also where a pass stopped between layers."""
    layers: list[Any] = list(prefix.cache.layers)
    for layer in layers:
        extra = int(layer.get_seq_length()) - prefix.length
        if extra > 0:
            layer.crop(-extra)


def _packed_mask(prefix_mask: Tensor, segment_ids: Tensor) -> Tensor:
    """Say who attends to whom, (B, 1, P + L, P + L): causal, real prefix, own segment.

    Args:
        prefix_mask: (B, P).
        segment_ids: (B, L), -1 where padded; padding sees the prefix and itself, so that no row of
            the softmax is empty.
    """
    batch, width = prefix_mask.shape
    # The prefix is nobody's segment: -2.
    owner = torch.cat([segment_ids.new_full((batch, width), -2), segment_ids], dim=1)
    real = torch.cat([prefix_mask, torch.zeros_like(segment_ids, dtype=torch.bool)], dim=1)
    own = (owner[:, :, None] == owner[:, None, :]) & (owner >= -1)[:, None, :]
    total = owner.shape[1]
    causal = torch.ones(total, total, dtype=torch.bool, device=owner.device).tril()
    return ((real[:, None, :] | own) & causal)[:, None]
