# SPDX-License-Identifier: Apache-2.0
"""Every string the language model reads: templates, special tokens, boxes as text.

Strings only, so that the trainer, the evaluators and the network speak one dialect. A template has
a `preface` (before the scene tokens) and prompts (after them); the answer follows a prompt
directly and begins with a space. Next: network/language.py, which turns these strings into tokens.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

PAD, BOS, EOS, LOC, BOX = "<pad>", "<bos>", "<eos>", "<loc>", "<box>"
SPECIAL_TOKENS: tuple[str, ...] = (PAD, BOS, EOS, LOC, BOX)

NOT_SEEN = "not seen"

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOX_TEXT = re.compile(r"\[\s*(" + r"\s*,\s*".join([_NUMBER] * 6) + r")\s*\]")
_PLACE_WORDS = re.compile(
    r"(?:where|find|locate)\b(?:['\u2019]s|\s+(?:is|are|was|were|can i find|do you see|me)\b)?\s*",
    re.I,
)
_SPECIAL_TEXT = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))


@dataclass(frozen=True)
class Template:
    """The words around a scene, a question, a phrase and a box.

    Attributes:
        preface: text before the scene tokens, after <bos>.
        question: holds `{question}`; the answer follows.
        caption: holds `{box}`; the description follows.
        grounding: holds `{phrase}`; ends in <loc>, whose hidden state names the object.
    """

    preface: str
    question: str
    caption: str
    grounding: str


PLAIN = Template(
    preface="",
    question="Question: {question} Answer:",
    caption="Describe {box}:",
    grounding="Find: {phrase}" + LOC,
)
"""Short, for a language model trained by this project: every token is paid for in training."""

VICUNA = Template(
    preface=(
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. "
        "USER: "
    ),
    question="\n{question} Answer the question using one word or one phrase. ASSISTANT:",
    caption="\nThe related object is located at {box}. Describe the object in detail. ASSISTANT:",
    grounding="\nIdentify the object according to the following description. {phrase}" + LOC,
)
"""The words LLaVA-1.5 and LLaVA-3D were trained with."""

TEMPLATES: dict[str, Template] = {"plain": PLAIN, "vicuna": VICUNA}


@dataclass(frozen=True)
class TextBox:
    """A box read from text: axis-aligned in the window's world.

    Attributes:
        center: x, y, z, m.
        size: full edge lengths, m, none negative.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]


def clean_text(text: str) -> str:
    """Return text a tokenizer can take: no control characters, surrogates or special tokens.

    Whitespace runs become one space. Emoji and every script stay. A user's words must never
    write <loc> or <eos>, so their angle brackets are dropped.
    """
    encodable = text.encode("utf-8", "ignore").decode("utf-8")
    visible = (
        " " if char.isspace() else char
        for char in unicodedata.normalize("NFC", encodable)
        if char.isspace() or unicodedata.category(char) not in ("Cc", "Cs")
    )
    joined = " ".join("".join(visible).split())
    return _SPECIAL_TEXT.sub(lambda match: match.group(0)[1:-1], joined)


def asks_for_place(question: str) -> bool:
    """Say whether a question wants to know where something is: words need a box for that."""
    return _PLACE_WORDS.match(question.lstrip()) is not None


def place_answer(question: str, text: str, is_found: bool) -> str:
    """Return what to say to a question: `NOT_SEEN` where it asks for a place and no box shows it.

    Whoever hands an answer to a person or a robot says it so (the node, `vidllm infer`);
    benchmarks of questions score the network's own words.

    Args:
        question: as asked.
        text: the network's words.
        is_found: whether a box is sure enough to be what was asked for.
    """
    return text if is_found or not asks_for_place(question) else NOT_SEEN


def place_phrase(question: str) -> str:
    """Return what a question for a place asks for: "where is the chair?" gives "the chair"."""
    words = clean_text(question)
    asked = _PLACE_WORDS.match(words)
    return (words[asked.end() :] if asked else words).rstrip(" ?.!") or words


def question_prompt(question: str, situation: str = "", template: Template = PLAIN) -> str:
    """Return the prompt an answer follows; `situation` (SQA3D) is said before the question."""
    words = " ".join(part for part in (clean_text(situation), clean_text(question)) if part)
    return template.question.format(question=words)


def caption_prompt(box_text: str = BOX, template: Template = PLAIN) -> str:
    """Return the prompt a description follows.

    Args:
        box_text: <box>, whose embedding the network fills from the box's place and patches, or
            the numbers of `format_box`.
        template: the words around it.
    """
    return template.caption.format(box=box_text)


def grounding_prompt(phrase: str, template: Template = PLAIN) -> str:
    """Return the prompt whose last token, <loc>, stands for the objects the phrase names.

    A question in place of a phrase asks for the objects its answer rests on.
    """
    return template.grounding.format(phrase=clean_text(phrase))


def box_prompt(phrase: str, template: Template = PLAIN) -> str:
    """Return the question whose answer is one or more boxes of `format_box`."""
    return question_prompt(f"What is the box of {clean_text(phrase)}?", template=template)


def answer_text(answer: str) -> str:
    """Return the words to train on after a prompt: cleaned, with the space that separates them."""
    return " " + clean_text(answer)


def format_box(center: Sequence[float], size: Sequence[float]) -> str:
    """Write a box as text, centimetres resolved: "[1.13, 1.64, 0.35, 0.92, 0.03, 1.16]", m."""
    numbers = [*center, *size]
    if len(numbers) != 6 or not all(math.isfinite(float(value)) for value in numbers):
        raise ValueError(f"box: expected six finite numbers, got {numbers}")
    # + 0.0 turns -0.0 into 0.0, so that one box has one text
    return "[" + ", ".join(f"{round(float(value), 2) + 0.0:.2f}" for value in numbers) + "]"


def parse_boxes(text: str) -> tuple[TextBox, ...]:
    """Read every well-formed box of a text, in order; skip malformed lists, negative sizes."""
    boxes = []
    for match in _BOX_TEXT.finditer(text):
        x, y, z, dx, dy, dz = (float(number) for number in match.group(1).split(","))
        finite = all(math.isfinite(value) for value in (x, y, z, dx, dy, dz))
        if finite and min(dx, dy, dz) >= 0:
            boxes.append(TextBox((x, y, z), (dx, dy, dz)))
    return tuple(boxes)
