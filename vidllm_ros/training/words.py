# SPDX-License-Identifier: Apache-2.0
"""Losses of the language branch: answers, captions, boxes, and which phrase means which box.

They read pooled 3D patches and nothing else, so the joint stage and the words stage share them.
Where it is known which scene tokens show the objects an answer rests on, the attention of one head
may be guided there. Next: stages.py and words_stage.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb

from vidllm_ros.data.scene_batch import IGNORED, SceneBatch, Sentence
from vidllm_ros.network.box_features import BoxBatch
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.language import LanguageOutput
from vidllm_ros.network.patches3d import ScenePatches
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.network.word_rows import can_read_in_rows, read_in_rows
from vidllm_ros.training import grounding_losses as grounding
from vidllm_ros.training.losses import at_least_one, masked_mean, shared_count
from vidllm_ros.training.packing import SpokenScenes, pack_sentences
from vidllm_ros.training.recipe import Recipe

PADDED_LOGIT = -30.0
EVIDENCE_HEAD = 0
EVIDENCE_SHARE = 0.3


class Terms:
    """Weighted sum of losses that remembers each."""

    def __init__(self, like: Tensor) -> None:
        self.total = like.new_zeros((), dtype=torch.float32)
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, loss: Tensor, weight: float = 1.0) -> None:
        if weight:
            self.total = self.total + weight * loss
            self.note(name, loss)

    def note(self, name: str, value: Tensor) -> None:
        """Remember a number; it stays on its device, for a GPU must not wait for a log."""
        self.values[name] = value.detach().float()


def box_targets(batch: SceneBatch, T_scene_world: Tensor) -> list[grounding.BoxTargets]:
    """Objects of every scene in its frame, their yaw made canonical there; in float32.

    Args:
        batch: boxes in the windows' worlds.
        T_scene_world: of every window, (B, 4, 4).
    """
    targets = []
    for boxes, T in zip(batch.boxes, T_scene_world.to(batch.boxes[0].center), strict=True):
        rotation, size = grounding.canonical_yaw(
            exact_product(T[:3, :3], boxes.rotation), boxes.size
        )
        center = exact_product(boxes.center, T[:3, :3].T) + T[:3, 3]
        target = grounding.BoxTargets(center, size, rotation, boxes.object_ids, boxes.labels)
        targets.append(target.to(batch.images.device))
    return targets


def word_losses(
    terms: Terms,
    model: VidLLM,
    recipe: Recipe,
    scene: ScenePatches,
    targets: Sequence[grounding.BoxTargets],
    sentences: Sequence[Sequence[Sentence]],
    evidence: Tensor | None = None,
    box_evidence: Tensor | None = None,
) -> None:
    """Add language and grounding losses.

    Args:
        terms: where they go.
        model: the network.
        recipe: weights.
        scene: pooled 3D patches, B scenes.
        targets: objects of every scene.
        sentences: what is said of every scene.
        evidence: share of each token's patches that show each target, (B, M, O), O >= objects; or
            None where unknown.
        box_evidence: likewise of the tokens that the box decoder reads; its votes are taught where
            it is known.
    """
    weights = recipe.losses
    if not (weights.language or weights.guide_evidence):  # answers would be read for nothing
        sentences = [[one for one in said if one.kind == "phrase"] for said in sentences]
    spoken = pack_sentences(
        model.language.tokenizer,
        sentences,
        [target.object_ids for target in targets],
        recipe.data.text_tokens,
    ).to(scene.tokens.device)
    told = None
    if any(spoken.boxes):
        told = model.box_features.embeds(scene.for_boxes, box_batch(targets, spoken.boxes))
    embeds = model.scene_embeds(scene)
    if evidence is None or not weights.guide_evidence:
        read = read_words(model, embeds, scene.mask, spoken, told)
    else:
        with watch_language(model, recipe.evidence_layer) as seen:
            read = read_words(model, embeds, scene.mask, spoken, told)
        looks, hit = evidence_guidance(seen, scene, targets, spoken, evidence)
        terms.add("guide_evidence", looks, weights.guide_evidence)
        terms.note("evidence_hit", hit)
    if weights.language:
        terms.add("language", language_loss(read.logits, spoken.text.labels), weights.language)
        with torch.no_grad():
            terms.note("answer_top1", answer_accuracy(read.logits, spoken.text.labels))
    if weights.grounding:
        loc_hidden = spoken.text.at_loc(read.hidden)
        box_and_phrase_losses(
            terms, model, recipe, scene, spoken, loc_hidden, targets, box_evidence
        )


def read_words(
    model: VidLLM, embeds: Tensor, mask: Tensor, spoken: SpokenScenes, told: Tensor | None
) -> LanguageOutput:
    """Read scenes (B, M, D) and what is said of them: in rows, where layers can run twice."""
    if can_read_in_rows(model.language):
        return read_in_rows(model.language, embeds, mask, spoken.text, spoken.rows, told)
    return model.language.packed_forward(embeds, mask, spoken.text, told)


def box_and_phrase_losses(
    terms: Terms,
    model: VidLLM,
    recipe: Recipe,
    scene: ScenePatches,
    spoken: SpokenScenes,
    loc_hidden: Tensor,
    targets: Sequence[grounding.BoxTargets],
    evidence: Tensor | None = None,
) -> None:
    """Add box and phrase losses; arguments as `word_losses`, `evidence` of the boxes' tokens."""
    weights = recipe.losses
    boxes = weights.boxes
    proposals = model.grounding.propose(scene.for_boxes)
    if proposals.votes is not None:
        if evidence is None:
            raise ValueError("box_evidence: expected what teaches the votes, got None")
        away, thing = grounding.vote_losses(
            proposals.votes, scene.for_boxes.mask, targets, evidence
        )
        terms.add("vote", away, boxes.vote * weights.grounding)
        terms.add("thing", thing, boxes.thing * weights.grounding)
    pairs: list[tuple[Tensor, Tensor]] = []
    for number, layer in enumerate(proposals.layers):
        is_last = layer is proposals.last
        result, pairs = grounding.box_losses(
            layer,
            proposals.mask,
            targets,
            boxes,
            weights.match_repeats_last if is_last else weights.match_repeats,
        )
        share = weights.grounding / len(proposals.layers)
        terms.add(f"boxes_{number}", result.total(boxes), share)
        terms.note("box_center", result.center)
        terms.note("box_diou", 1.0 - result.diou)
    logits = model.grounding.match(proposals.features, loc_hidden)
    logits = logits.masked_fill(~proposals.mask[:, None], PADDED_LOGIT)
    wanted, real = grounding.match_targets(
        pairs, targets, spoken.phrases, tuple(logits.shape), logits.device
    )
    note_match(terms, recipe, "", logits, wanted, real)
    given = box_batch(targets, [target.object_ids for target in targets])
    features = model.box_features.features(scene.for_boxes, given)
    logits = model.grounding.match(features, loc_hidden)
    straight = [(torch.arange(len(t), device=logits.device),) * 2 for t in targets]
    padded = torch.tensor([len(t) for t in targets], device=logits.device)
    absent = torch.arange(logits.shape[-1], device=logits.device) >= padded[:, None]
    logits = logits.masked_fill(absent[:, None], PADDED_LOGIT)
    wanted, real = grounding.match_targets(
        straight, targets, spoken.phrases, tuple(logits.shape), logits.device
    )
    note_match(terms, recipe, "given_", logits, wanted, real)


def note_match(
    terms: Terms, recipe: Recipe, name: str, logits: Tensor, wanted: Tensor, real: Tensor
) -> None:
    """Add the losses of phrases against boxes, and note how often the best box is right."""
    weights = recipe.losses
    sigmoid, contrast = grounding.match_losses(logits, wanted, real)
    terms.add(f"{name}match", sigmoid, weights.boxes.match * weights.grounding)
    terms.add(f"{name}contrast", contrast, weights.boxes.contrast * weights.grounding)
    named = real & (wanted.sum(-1) > 0)
    best = logits.detach().argmax(-1, keepdim=True)
    terms.note(f"{name}match_top1", masked_mean(wanted.gather(-1, best)[..., 0], named))


def box_batch(
    targets: Sequence[grounding.BoxTargets], object_ids: Sequence[Sequence[int]]
) -> BoxBatch:
    """Boxes of these objects, padded to the longest list with unit boxes at the origin.

    Args:
        targets: objects of every scene.
        object_ids: per scene, whose boxes are wanted, in order; repeats are welcome.
    """
    longest = max(1, *(len(ids) for ids in object_ids))
    device = targets[0].center.device
    center = torch.zeros(len(targets), longest, 3, device=device)
    size = torch.ones(len(targets), longest, 3, device=device)
    rotation = torch.eye(3, device=device).repeat(len(targets), longest, 1, 1)
    for i, (target, ids) in enumerate(zip(targets, object_ids, strict=True)):
        if len(ids):
            rows = [target.object_ids.index(object_id) for object_id in ids]
            center[i, : len(ids)] = target.center[rows]
            size[i, : len(ids)] = target.size[rows]
            rotation[i, : len(ids)] = target.rotation[rows]
    return BoxBatch(center, size, rotation)


def language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every token to be learnt, mean over them.

    Args:
        logits: (B, L, V).
        labels: the token to be predicted at each place, -100 where none, (B, L).
    """
    truth = labels.flatten()
    count = at_least_one(shared_count((truth != IGNORED).sum()))
    guess = logits.float().flatten(0, 1)
    return functional.cross_entropy(guess, truth, ignore_index=IGNORED, reduction="sum") / count


def answer_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of learnt tokens that are the most probable ones."""
    return masked_mean((logits.argmax(-1) == labels).float(), labels != IGNORED)


class LanguageLook:
    """What one attention layer of the language model read: all at once, or words behind scenes."""

    def __init__(self, attention: LlamaAttention) -> None:
        self.attention = attention
        self.passes: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []  # hidden states, rotary

    def asks(self, spoken: SpokenScenes) -> Tensor:
        """Return the queries of one head for packed words, (B, L, head_dim)."""
        asked = self._heard(self.attention.q_proj, -1)
        if len(self.passes) == 2:
            return spoken.rows.joined(asked)
        return asked[:, asked.shape[1] - spoken.text.ids.shape[1] :]

    def shows(self, spoken: SpokenScenes, scene_tokens: int) -> Tensor:
        """Return the keys of one head for the scene, the prefix's end, (B, M, head_dim)."""
        shown = self._heard(self.attention.k_proj, 0)
        words = 0 if len(self.passes) == 2 else spoken.text.ids.shape[1]
        end = shown.shape[1] - words
        return shown[:, end - scene_tokens : end]

    def _heard(self, project: nn.Module, number: int) -> Tensor:
        if len(self.passes) not in (1, 2):
            raise AssertionError(f"expected one pass or two, got {len(self.passes)}")
        hidden, rotary = self.passes[number]
        states = project(hidden).view(*hidden.shape[:2], -1, self.attention.head_dim)
        states = states.transpose(1, 2)
        turned, _ = apply_rotary_pos_emb(states, states, *rotary)
        head: Tensor = turned[:, EVIDENCE_HEAD].float()
        return head


@contextmanager
def watch_language(model: VidLLM, layer: int) -> Iterator[LanguageLook]:
    """Note what layer `layer` of a LLaMA-like language model reads while the context lasts."""
    attention = model.language.model.base_model.layers[layer].self_attn
    if not isinstance(attention, LlamaAttention):
        raise TypeError(
            f"losses.guide_evidence: expected a LLaMA language model, got "
            f"{type(attention).__name__}; set it to 0"
        )
    look = LanguageLook(attention)

    def keep(_: object, __: object, arguments: dict[str, object]) -> None:
        look.passes.append((arguments["hidden_states"], arguments["position_embeddings"]))  # type: ignore[arg-type]

    hook = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield look
    finally:
        hook.remove()


def evidence_guidance(
    look: LanguageLook,
    scene: ScenePatches,
    targets: Sequence[grounding.BoxTargets],
    spoken: SpokenScenes,
    evidence: Tensor,
) -> tuple[Tensor, Tensor]:
    """Ask one head, where an answer begins, to look at the tokens of the objects it rests on.

    Returns:
        cross-entropy with all right tokens counting as one, and the share of answers whose
        strongest look at the scene is right.
    """
    q = look.asks(spoken)
    k = look.shows(spoken, scene.tokens.shape[1])
    logits = (q @ k.transpose(1, 2) * look.attention.scaling).masked_fill(
        ~scene.mask[:, None], PADDED_LOGIT
    )
    wanted = torch.zeros_like(logits, dtype=torch.bool)
    segments, labels = spoken.text.segment_ids, spoken.text.labels
    for b, (target, said) in enumerate(zip(targets, spoken.evidence, strict=True)):
        column = {object_id: i for i, object_id in enumerate(target.object_ids)}
        for number, ids in enumerate(said):
            places = ((segments[b] == number) & (labels[b] != IGNORED)).nonzero()
            columns = [column[i] for i in ids if i in column]
            if len(places) and columns:
                wanted[b, places[0, 0]] = (evidence[b][:, columns] >= EVIDENCE_SHARE).any(-1)
    known = wanted.any(-1)
    right = logits.masked_fill(~wanted, PADDED_LOGIT).logsumexp(-1)
    best = logits.argmax(-1, keepdim=True)
    hit = masked_mean(wanted.gather(-1, best)[..., 0].float(), known)
    return masked_mean(logits.logsumexp(-1) - right, known), hit
