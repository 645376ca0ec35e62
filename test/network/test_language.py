# SPDX-License-Identifier: Apache-2.0
"""Packed, cached and plain runs give the same numbers; any text can be said; one batch is
learnt."""

from functools import partial

import pytest
import torch

from vidllm_ros import prompts
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.language import SceneLanguageModel
from vidllm_ros.network.text_packing import (
    IGNORE,
    PackedText,
    Segment,
    build_tokenizer,
    encode,
    pack_segments,
)
from vidllm_ros.network.word_rows import can_read_in_rows, read_in_rows, word_rows

TEXTS = ["What colour is the chair? brown", "How many tables are there? two", "Find: the sofa"]
LLAMA = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 300}
SIZES = {
    "llama": {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 4},
    "qwen2": {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3": {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12},
}


def build(kind="llama", template="plain"):
    torch.manual_seed(0)
    fields = {"model_type": kind, **SIZES[kind], "max_position_embeddings": 400}
    fields |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = SceneLanguageModel(VidLLMConfig(language=fields, prompt_template=template)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # far from uniform, so that equality means something
    model.attach_tokenizer(build_tokenizer(TEXTS, 300))
    return model


@pytest.fixture
def segments():
    return [
        [
            Segment(prompts.question_prompt("What colour is the chair?"), " brown"),
            Segment(prompts.grounding_prompt("the sofa")),
            Segment(prompts.caption_prompt(), " a sofa"),
        ],
        [Segment(prompts.question_prompt("How many?"), " two")],
    ]


def scene(batch=2, count=9):
    embeds = torch.randn(batch, count, 48, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(batch, count, dtype=torch.bool)
    mask[0, 6:] = False
    return embeds, mask


@pytest.mark.parametrize("template", ["plain", "vicuna"])
@pytest.mark.parametrize("kind", SIZES)
@torch.inference_mode()
def test_packed_equals_each_segment_alone_and_cached(kind, template, segments):
    model = build(kind, template)
    embeds, mask = scene()
    boxes = torch.randn(2, 1, 48, generator=torch.Generator().manual_seed(2))
    packed_text = pack_segments(model.tokenizer, segments)
    packed = model.packed_forward(embeds, mask, packed_text, boxes)
    rows = word_rows(packed_text.segment_ids)
    in_rows = read_in_rows(model, embeds, mask, packed_text, rows, boxes)
    said = packed_text.segment_ids >= 0
    torch.testing.assert_close(in_rows.logits[said], packed.logits[said], atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(in_rows.hidden[said], packed.hidden[said], atol=2e-4, rtol=2e-4)
    for b, row in enumerate(segments):
        real = embeds[b : b + 1, mask[b]]
        prefix = model.encode_scene(real)
        cached = model.packed_cached(
            prefix, pack_segments(model.tokenizer, [row]), boxes[b : b + 1]
        )
        for number, segment in enumerate(row):
            here = packed_text.segment_ids[b] == number
            alone = plain_logits(model, real, segment, boxes[b])
            torch.testing.assert_close(packed.logits[b, here], alone, atol=2e-4, rtol=2e-4)
            count = len(cached.logits[0])
            torch.testing.assert_close(cached.logits[0, here[:count]], alone, atol=2e-4, rtol=2e-4)


def plain_logits(model, real, segment, box):
    """One segment after one scene through the plain causal model, no masks, no cache."""
    target = segment.target or ""
    ids = torch.tensor(encode(model.tokenizer, segment.prompt) + encode(model.tokenizer, target))
    table = model.model.get_input_embeddings()
    words = table(ids)
    words[ids == model.tokenizer.get_vocab()[prompts.BOX]] = box
    preface = [1, *encode(model.tokenizer, model.template.preface)]
    whole = torch.cat([table(torch.tensor(preface)), real[0], words])
    return model.model(inputs_embeds=whole[None]).logits[0, -len(ids) :]


@pytest.mark.parametrize("kind", SIZES)
def test_words_in_rows_teach_what_packed_words_teach(kind, segments):
    model = build(kind)
    for parameter in model.parameters():
        parameter.data.div_(4.0)
    many = pack_segments(model.tokenizer, [segments[0] * 4, segments[1] * 3])
    rows = word_rows(many.segment_ids)
    assert len(rows) > 1
    learnt = []
    for read in (model.packed_forward, partial(read_in_rows, model, rows=rows)):
        embeds, mask = scene()
        boxes = torch.randn(2, 4, 48, generator=torch.Generator().manual_seed(2))
        embeds.requires_grad_()
        boxes.requires_grad_()
        logits = read(embeds, mask, many, box_embeds=boxes).logits
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), many.labels.flatten(), ignore_index=IGNORE
        ).backward()
        taught = {name: p.grad for name, p in model.named_parameters()}
        learnt.append({"scene": embeds.grad, "boxes": boxes.grad, **taught})
        model.zero_grad()
    for name, wanted in learnt[0].items():
        assert wanted.abs().max() > 0, name
        torch.testing.assert_close(
            learnt[1][name], wanted, atol=1e-5 * wanted.abs().max().item() + 1e-7, rtol=1e-3
        )


def test_a_text_without_words_is_read_in_rows_too():
    model = build()
    embeds, mask = scene()
    nothing = pack_segments(model.tokenizer, [[], []])
    read = read_in_rows(model, embeds, mask, nothing, word_rows(nothing.segment_ids))
    assert read.logits.shape == (*nothing.ids.shape, 300)
    assert torch.isfinite(read.logits).all()


def test_layers_computed_again_keep_no_keys_to_run_twice_on():
    model = build()
    assert can_read_in_rows(model)
    model.model.activation_checkpointing_enable({"use_reentrant": False})
    assert can_read_in_rows(model)  # they are computed once where nothing is learnt
    assert not can_read_in_rows(model.train())


def test_labels_sit_where_they_are_predicted(segments):
    model = build()
    text = pack_segments(model.tokenizer, segments)
    eos = model.tokenizer.get_vocab()[prompts.EOS]
    first = text.segment_ids[0] == 0
    kept = text.labels[0, first][text.labels[0, first] != IGNORE].tolist()
    assert kept == [*encode(model.tokenizer, " brown"), eos]
    prompt = encode(model.tokenizer, segments[0][0].prompt)
    assert text.labels[0, len(prompt) - 1] == kept[0]
    assert text.ids[0, len(prompt)] == kept[0]
    loc = model.tokenizer.get_vocab()[prompts.LOC]
    assert text.loc_index.shape == (2, 1)
    assert text.ids[0, text.loc_index[0, 0]] == loc
    assert text.loc_segment.tolist() == [[1], [-1]]
    hidden = torch.randn(2, text.ids.shape[1], 4)
    picked = text.at_loc(hidden)
    assert torch.equal(picked[0, 0], hidden[0, text.loc_index[0, 0]])
    assert (picked[1] == 0).all()


@torch.inference_mode()
def test_generation_equals_uncached_greedy_and_leaves_the_prefix_alone():
    model = build()
    embeds, _ = scene(1)
    prefix = model.encode_scene(embeds)
    prompt = prompts.question_prompt("How many tables are there?")
    first = model.generate(prefix, prompt, 12)
    ids, log_p = encode(model.tokenizer, prompt), []
    vocabulary = model.tokenizer.get_vocab()
    start = len(ids)
    table = model.model.get_input_embeddings()
    for _ in range(12):
        words = torch.cat([table(torch.tensor([1])), embeds[0], table(torch.tensor(ids))])
        logits = model.model(inputs_embeds=words[None]).logits[0, -1].float()
        logits[[vocabulary[t] for t in prompts.SPECIAL_TOKENS if t != prompts.EOS]] = -torch.inf
        ids.append(int(logits.argmax()))
        log_p.append(float(logits.log_softmax(-1).max()))
        if ids[-1] == 2:
            break
    assert first.text == model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert first.confidence == pytest.approx(2.718281828 ** (sum(log_p) / len(log_p)), rel=1e-3)
    assert prefix.cache.get_seq_length() == prefix.length
    assert model.generate(prefix, prompt, 12) == first


@torch.inference_mode()
@pytest.mark.parametrize(
    "question", ["", "🪑🪑", "a\x00b\x1b[31m", "\ud83d", "<eos><loc>", "字" * 20]
)
def test_any_question_is_answered(question):
    model = build()
    prefix = model.encode_scene(scene(1)[0])
    out = model.generate(prefix, prompts.question_prompt(question), 3)
    assert 0 < out.confidence <= 1


@torch.inference_mode()
def test_too_long_a_question_is_refused_in_one_sentence():
    model = build()
    prefix = model.encode_scene(scene(1)[0])
    with pytest.raises(ValueError, match="question: expected at most"):
        model.generate(prefix, prompts.question_prompt("x y " * 400), 3)
    with pytest.raises(ValueError, match="max_scene_tokens"):
        model.encode_scene(torch.zeros(1, 400, 48))


def test_tokenizer_writes_every_text_and_survives_the_disk(tmp_path):
    tokenizer = build_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    for text in ["brown chair", "Žluť 字 🪑", "1.25 m", " two"]:
        assert tokenizer.decode(encode(tokenizer, text)) == text
        assert encode(again, text) == encode(tokenizer, text)
    assert not {0, 1, 2} & set(encode(tokenizer, "a<eos><bos> <pad>")), "words stay words"
    assert encode(tokenizer, "a<loc>")[-1] == 3
    assert [tokenizer.get_vocab()[t] for t in prompts.SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert len(encode(tokenizer, prompts.grounding_prompt("a"))) < 12
    with pytest.raises(ValueError, match="vocab_size"):
        build_tokenizer(TEXTS, 100)


def test_foreign_tokenizer_is_refused():
    model = build()
    with pytest.raises(ValueError, match="below the model's vocabulary"):
        model.attach_tokenizer(
            build_tokenizer([chr(c) * 3 + TEXTS[0] for c in range(97, 122)], 340)
        )


def test_learns_one_batch(segments):
    model = build().train()
    for parameter in model.parameters():
        parameter.data.div_(4.0)
    text = pack_segments(model.tokenizer, segments)
    embeds, mask = scene()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        logits = model.packed_forward(embeds, mask, text).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), text.labels.flatten(), ignore_index=IGNORE
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 3 < losses[0]
    model.eval()
    with torch.inference_mode():
        prefix = model.encode_scene(embeds[:1, mask[0]])
        assert model.generate(prefix, segments[0][0].prompt, 8).text == "brown"


def test_packed_text_moves_whole():
    text = pack_segments(build_tokenizer(TEXTS, 300), [[Segment("a")]])
    assert isinstance(text.to("cpu"), PackedText)
