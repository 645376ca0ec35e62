# SPDX-License-Identifier: Apache-2.0
"""Answers against references: LEO's cleaning, exact and refined match; CIDEr-D without a package.

The cleaning is the one LEO introduced and LLaVA-3D, Video-3D-LLM and 3DRS use for SQA3D, typos of
its annotators included. CIDEr-D here is a plain twin of pycocoevalcap's. Next: caption_metrics.py.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)
WORD_FIXES = {  # whole words, after everything outside the alphabet is gone
    **{"letf": "left", "let": "left", "tehre": "there", "rigth": "right", "rght": "right"},
    **{"behine": "behind", "tv": "TV", "chai": "chair", "wasing": "washing"},
    **{"waslked": "walked", "oclock": "o'clock", "none": "zero", "23": "twenty-three"},
    **{str(number): word for number, word in enumerate(NUMBER_WORDS)},
}
_FIX = re.compile(r"\b(" + "|".join(sorted(WORD_FIXES, key=len, reverse=True)) + r")\b")
_OUTSIDE = re.compile(r"[^a-zA-Z0-9,'\s\-:]+")
_SPLIT_CLOCK = re.compile(r"\bo' +clock\b")
_GLUED_DIGIT = re.compile(r"\b([a-zA-Z]+)[0-9]\b")
_ARTICLES = tuple(re.compile(rf"\b{word} ([a-zA-Z]+)") for word in ("a", "an", "the"))
CIDER_SIGMA = 6.0
CIDER_ORDERS = 4


def clean_answer(text: str) -> str:
    """Clean an answer as LEO does: "The 2 chairs. " becomes "two chairs".

    Lower case; single spaces; nothing outside letters, digits and , ' - : and spaces; known typos
    mended; 0 to 20 and 23 as words, "none" as "zero"; one digit glued to a word and articles
    before a word dropped. Source: LEO's clean_answer.
    """
    text = re.sub("^ +| +$", "", text.lower())
    text = re.sub(" {2,}", " ", text)
    text = _OUTSIDE.sub("", text)
    text = _SPLIT_CLOCK.sub("o'clock", _FIX.sub(lambda found: WORD_FIXES[found[1]], text))
    text = _GLUED_DIGIT.sub(r"\1", text)
    for article in _ARTICLES:
        text = article.sub(r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def exact_match(predicted: str, answers: Sequence[str]) -> bool:
    """Whether the cleaned prediction is one of the cleaned answers."""
    return clean_answer(predicted) in {clean_answer(answer) for answer in answers}


def refined_match(predicted: str, answers: Sequence[str]) -> bool:
    """Equality, or one containing the other once spaces are gone. Source: LEO, LLaVA-3D.

    Letters decide, not words: "red" matches "bored". A prediction or an answer that cleans to
    nothing matches only its like, although every text contains the empty one (deviation D34).
    """
    ours = "".join(clean_answer(predicted).split())
    for answer in answers:
        theirs = "".join(clean_answer(answer).split())
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
