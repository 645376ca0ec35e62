# SPDX-License-Identifier: Apache-2.0
"""Answers and captions against references: exact match, refined match, CIDEr-D.

Exact match compares after the cleaning LEO introduced and LLaVA-3D uses; CIDEr-D is computed over
whitespace tokens (no Java tokeniser). Next: grounding_metrics.py.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
CIDER_SIGMA = 6.0
CIDER_ORDERS = 4


def clean_answer(text: str) -> str:
    """Lower-case, one space between words, digits as words, no article, no stray punctuation."""
    text = re.sub(r"\s+", " ", text.strip().lower())
    text = re.sub(r"[^a-z0-9,.' \-:]", "", text)
    text = re.sub(r"\.(?!\d)", "", text)
    text = re.sub(r"\b(a|an|the) ([a-z])", r"\2", text)
    words = []
    for word in text.split():
        is_count = word.isdigit() and int(word) < len(NUMBER_WORDS)
        words.append(NUMBER_WORDS[int(word)] if is_count else word)
    return " ".join(words)


def exact_match(predicted: str, answers: Sequence[str]) -> bool:
    """Whether the cleaned prediction is one of the cleaned answers."""
    return clean_answer(predicted) in {clean_answer(answer) for answer in answers}


def refined_match(predicted: str, answers: Sequence[str]) -> bool:
    """Equality, or one containing the other once spaces are gone. Source: LEO, LLaVA-3D."""
    ours = clean_answer(predicted).replace(" ", "")
    for answer in answers:
        theirs = clean_answer(answer).replace(" ", "")
        if ours == theirs or (ours and theirs and (ours in theirs or theirs in ours)):
            return True
    return False


def ngrams(text: str) -> Counter[tuple[str, ...]]:
    """Count all runs of one to four words."""
    words = text.lower().split()
    return Counter(
        tuple(words[i : i + order])
        for order in range(1, CIDER_ORDERS + 1)
        for i in range(len(words) - order + 1)
    )


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each candidate; document frequencies come from these references.

    Source: Vedantam et al. 2015 as pycocoevalcap computes it: tf-idf by n-gram order, clipped,
    Gaussian length penalty (sigma 6), times ten.

    Args:
        candidates: one text an item; empty scores 0.
        references: at least one text an item.
    """
    if len(candidates) != len(references):
        raise ValueError(
            f"references: expected {len(candidates)}, one an item, got {len(references)}"
        )
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in references:
        frequency.update({gram for text in texts for gram in ngrams(text)})
    documents = math.log(max(len(references), 1))

    def vector(text: str) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        orders: list[dict[tuple[str, ...], float]] = [defaultdict(float) for _ in range(4)]
        for gram, count in ngrams(text).items():
            weight = documents - math.log(max(1.0, frequency[gram]))
            orders[len(gram) - 1][gram] = count * weight
        norms = [math.sqrt(sum(v * v for v in order.values())) for order in orders]
        length = max(len(text.split()) - 1, 0)  # the reference code counts bigrams
        return orders, norms, length

    scores = []
    for candidate, texts in zip(candidates, references, strict=True):
        ours, our_norms, our_length = vector(candidate)
        total = 0.0
        for text in texts:
            theirs, their_norms, their_length = vector(text)
            penalty = math.exp(-((our_length - their_length) ** 2) / (2 * CIDER_SIGMA**2))
            for order in range(CIDER_ORDERS):
                shared = sum(
                    min(value, theirs[order][gram]) * theirs[order][gram]
                    for gram, value in ours[order].items()
                    if gram in theirs[order]
                )
                norm = our_norms[order] * their_norms[order]
                total += penalty * shared / norm if norm else 0.0
        scores.append(10.0 * total / CIDER_ORDERS / max(len(texts), 1))
    return scores
