# SPDX-License-Identifier: Apache-2.0
"""The language model of the figure: scene tokens first, words after them.

Any causal model of transformers. Its prefix is <bos>, the template's preface and the projected
scene tokens; what follows are segments, each of which sees the prefix and itself. So one prefix
serves many questions: behind it in rows in training (word_rows.py), from a key/value cache when
answering.
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
from vidllm_ros.network.scene_prefix import ScenePrefix, packed_mask
from vidllm_ros.network.text_packing import (
    PackedText,
    Segment,
    encode,
    pack_segments,
    special_ids,
)


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

    The tokenizer is attached after building or loading; without one, nothing that writes
    words or puts boxes at <box> works.
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
        prefix, prefix_mask = self._masked_prefix(scene_embeds, scene_mask)
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
            attention_mask=packed_mask(prefix_mask, text.segment_ids),
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
        with prefix.lent():
            hidden = self._append_packed(prefix, text, box_embeds)
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
        room = self._room_after(prefix, len(ids))
        device = self.model.get_input_embeddings().weight.device
        with prefix.lent():
            words = self._embed(torch.tensor([ids], device=device), box_embeds)
            hidden = self._append(prefix, words)
            return self._continue(prefix, hidden[:, -1], min(max_new_tokens, room))

    def generate_and_point(
        self, prefix: ScenePrefix, prompt: str, pointer: str, max_new_tokens: int
    ) -> tuple[Generated, Tensor]:
        """Do `generate` and read the state of another prompt's <loc>, both read in one pass.

        Args:
            prefix: the scene, which stays as it was.
            prompt: what is continued; without <loc>.
            pointer: of `prompts.grounding_prompt`, ends in <loc>.
            max_new_tokens: at most so many.

        Returns:
            the continuation, and the hidden state at <loc>, (1, 1, D).

        Raises:
            ValueError: one of the prompts does not fit the context beside the scene.
        """
        text = pack_segments(self.tokenizer, [[Segment(prompt), Segment(pointer)]])
        asked = int((text.segment_ids == 0).sum())
        room = self._room_after(prefix, asked)
        device = self.model.get_input_embeddings().weight.device
        with prefix.lent():
            hidden = self._append_packed(prefix, text.to(device), None)
            prefix.cut(asked)  # the answer follows the question alone
            said = self._continue(prefix, hidden[:, asked - 1], min(max_new_tokens, room))
        return said, hidden[:, -1:]

    def _room_after(self, prefix: ScenePrefix, words: int) -> int:
        """Say how many tokens fit behind a scene and a prompt: one at least."""
        room = self.max_length - prefix.length - words
        if room < 1:
            raise ValueError(
                f"question: expected at most {self.max_length - prefix.length - 1} tokens beside "
                f"this scene, got {words}; shorten it"
            )
        return room

    def _append(self, prefix: ScenePrefix, words: Tensor) -> Tensor:
        """Read words (1, L, D) after what the cache holds; hidden states (1, L, D)."""
        hidden: Tensor = self.model.base_model(
            inputs_embeds=words, past_key_values=prefix.cache, use_cache=True
        ).last_hidden_state
        return hidden

    def _append_packed(
        self, prefix: ScenePrefix, text: PackedText, box_embeds: Tensor | None
    ) -> Tensor:
        """Read segments (1, L) side by side after the prefix; hidden states (1, L, D)."""
        longest = int(text.offsets.max()) + 1
        if prefix.length + longest > self.max_length:
            raise ValueError(
                f"phrase: expected at most {self.max_length - prefix.length} tokens beside this "
                f"scene, got {longest}; shorten it"
            )
        words = self._embed(text.ids, box_embeds)
        seen = torch.ones(1, prefix.length, dtype=torch.bool, device=words.device)
        hidden: Tensor = self.model.base_model(
            inputs_embeds=words,
            attention_mask=packed_mask(seen, text.segment_ids)[:, :, prefix.length :],
            position_ids=prefix.length + text.offsets,
            past_key_values=prefix.cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _continue(self, prefix: ScenePrefix, hidden: Tensor, most: int) -> Generated:
        """Go on greedily from the prompt's last state, (1, D), with the prompt in the cache."""
        special = special_ids(self.tokenizer)
        never = [special.pad, special.bos, special.loc, special.box]
        chosen: list[int] = []
        log_probability = 0.0
        while len(chosen) < most:
            logits = self._logits(hidden).float()[0]
            logits[never] = -torch.inf
            best = int(logits.argmax())
            log_probability += float(logits.log_softmax(-1)[best])
            chosen.append(best)
            if best == special.eos or len(chosen) == most:
                break
            words = self._embed(torch.tensor([[best]], device=hidden.device), None)
            hidden = self._append(prefix, words)[:, -1]
        confidence = float(torch.tensor(log_probability / max(1, len(chosen))).exp())
        text = str(self.tokenizer.decode(chosen, skip_special_tokens=True)).strip()
        return Generated(text, confidence)

    def _masked_prefix(self, scene_embeds: Tensor, scene_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Put <bos> and the preface before scenes: (B, P, D), and what of it is real, (B, P)."""
        prefix = self._prefix_embeds(scene_embeds)
        extra = prefix.shape[1] - scene_embeds.shape[1]
        return prefix, torch.cat([scene_mask.new_ones(len(scene_mask), extra), scene_mask], dim=1)

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
    with prefix.lent():
        hidden = language.model.base_model(
            inputs_embeds=language.model.get_input_embeddings()(ids),
            past_key_values=prefix.cache,
            use_cache=True,
        ).last_hidden_state
    return language._logits(hidden[:, -1])
