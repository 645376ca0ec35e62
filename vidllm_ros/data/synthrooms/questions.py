# SPDX-License-Identifier: Apache-2.0
"""Ask about what the frames show; each family of questions is one function that offers candidates.

Answers are short and lower case, and the frames decide them: colours are even over every class,
"yes" and "no" are asked equally often of each class, left and right are drawn by a coin. Where
things are and how large is asked by spatial_questions.py. Next: references.py.
"""

from __future__ import annotations

import numpy as np

from vidllm_ros.data.samples import Question
from vidllm_ros.data.synthrooms.parts import pick
from vidllm_ros.data.synthrooms.spatial_questions import (
    Candidate,
    Offer,
    offer_distances,
    offer_nearest,
    offer_places,
    offer_relations,
    offer_sizes,
)
from vidllm_ros.data.synthrooms.view import View
from vidllm_ros.data.synthrooms.vocabulary import COLORS, OBJECT_LABELS, PLURALS

# Share of walks that show each class, rooms 0-399; makes "yes" as likely as "no" of each class.
SEEN_RATE = {
    "cabinet": 0.62,
    "bed": 0.24,
    "chair": 0.73,
    "sofa": 0.3,
    "table": 0.49,
    "door": 0.86,
    "window": 0.8,
    "bookshelf": 0.44,
    "picture": 0.6,
    "counter": 0.24,
    "desk": 0.42,
    "curtain": 0.4,
    "refrigerator": 0.23,
    "shower curtain": 0.1,
    "toilet": 0.15,
    "sink": 0.28,
    "bathtub": 0.14,
    "trash can": 0.61,
}
QUOTAS = {
    "color": 4,
    "existence": 5,
    "count": 3,
    "object": 2,
    "place": 3,
    "relation": 3,
    "nearest": 2,
    "distance": 1,
    "size": 1,
}


def ask(
    view: View, rng: np.random.Generator, prefix: str = "q", rounds: int = 1
) -> tuple[Question, ...]:
    """Return about twenty questions the frames of a view answer, of all families it allows.

    Args:
        view: what the frames show.
        rng: chooses.
        prefix: of the questions' names.
        rounds: how many times over questions are drawn; nothing is asked twice in the same words.
            "Yes" and "no" are as likely in the first round; of coloured things later ones say
            "no" a little more often.
    """
    chosen: list[Question] = []
    asked: set[str] = set()
    for family, quota in list(QUOTAS.items()) * rounds:
        candidates = OFFERS[family](view, rng)
        order = (
            rng.permutation(len(candidates)) if family not in ORDERED else range(len(candidates))
        )
        taken = 0
        for index in order:
            question, answers, ids = candidates[int(index)]
            if taken == quota:
                break
            if question in asked:
                continue
            asked.add(question)
            taken += 1
            name = f"{prefix}-{len(chosen):02d}"
            chosen.append(Question(name, question, answers, tuple(sorted(ids)), family))
    return tuple(chosen)


def article(noun: str) -> str:
    """Return the noun with "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def offer_colors(view: View, rng: np.random.Generator) -> list[Candidate]:
    offers: list[Candidate] = []
    for label in view.clear_labels():
        same = view.of_label(label)
        colors = {item.color for item in same}
        if len(colors) != 1 or not same[0].color:
            continue
        ids = tuple(item.object_id for item in same)
        if len(same) == 1:
            forms = (f"what color is the {label}?", f"what is the color of the {label}?")
        else:
            forms = (f"what color are the {PLURALS[label]}?",) * 2
        offers.append((pick(rng, forms), (same[0].color,), ids))
    for item in view.objects:
        beside = view.neighbor(item)
        same = view.of_label(item.label)
        if beside is None or not item.color or len(same) < 2 or not view.is_clear(item.label):
            continue
        place = view.name(beside)
        if place is None or beside.label == item.label:
            continue
        if all(beside not in view.beside(other) for other in same if other is not item):
            question = f"what color is the {item.label} next to the {place}?"
            offers.append((question, (item.color,), (item.object_id,)))
    return offers


def offer_existence(view: View, rng: np.random.Generator) -> list[Candidate]:
    """Offer classes, then coloured things, each side drawn so that the words give nothing away."""
    offers: list[Candidate] = []
    present, absent = view.clear_labels(), view.absent_labels()
    for _ in range(3):
        if rng.random() < 0.5 and present:
            label = draw(rng, present, [1.0 - SEEN_RATE[name] for name in present])
            answer, ids = "yes", tuple(item.object_id for item in view.of_label(label))
        elif absent:
            label = draw(rng, absent, [SEEN_RATE[name] for name in absent])
            answer, ids = "no", ()
        else:
            continue
        forms = (
            f"is there {article(label)} in the room?",
            f"is there {article(label)}?",
            f"can you see {article(label)}?",
        )
        offers.append((pick(rng, forms), (answer,), ids))
    colored = [item for item in view.objects if item.color and view.is_clear(item.label)]
    for _ in range(2 if colored else 0):
        item = colored[int(rng.integers(len(colored)))]
        color = item.color
        if rng.random() < 0.5:
            used = {other.color for other in view.of_label(item.label)}
            color = pick(rng, tuple(word for word in COLORS if word not in used))
        same = [o.object_id for o in view.of_label(item.label) if o.color == color]
        ending = pick(rng, ("?", " in the room?"))
        question = f"is there {article(color)} {item.label}{ending}"
        offers.append((question, ("yes" if same else "no",), tuple(same)))
    return offers


def offer_counts(view: View, rng: np.random.Generator) -> list[Candidate]:
    """Offer numbers first and classes second, so that small numbers are not most answers."""
    groups: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for label in OBJECT_LABELS:
        if view.is_clear(label):
            ids = tuple(item.object_id for item in view.of_label(label))
            if ids or label in ("chair", "picture", "window", "door", "trash can", "cabinet"):
                groups.setdefault(len(ids), []).append((PLURALS[label], ids))
    if view.complete:
        for color in COLORS:
            ids = tuple(item.object_id for item in view.objects if item.color == color)
            if len(ids) >= 2:
                groups.setdefault(len(ids), []).append((f"{color} things", ids))
    offers: list[Candidate] = []
    numbers = sorted(groups)
    for index in rng.permutation(len(numbers)):
        number = numbers[int(index)]
        things, ids = groups[number][int(rng.integers(len(groups[number])))]
        forms = (
            f"how many {things} are there?",
            f"how many {things} are in the room?",
            f"how many {things} can you see?",
        )
        offers.append((pick(rng, forms), (str(number),), ids))
    return offers


def offer_objects(view: View, rng: np.random.Generator) -> list[Candidate]:
    offers: list[Candidate] = []
    for color in COLORS if view.complete else ():
        items = [item for item in view.objects if item.color == color]
        if items and len({item.label for item in items}) == 1:
            ids = tuple(item.object_id for item in items)
            forms = (
                f"what is {color} in this room?",
                f"what is the {color} object?",
                f"which object is {color}?",
            )
            offers.append((pick(rng, forms), (items[0].label,), ids))
    return offers


def draw(rng: np.random.Generator, options: list[str], weights: list[float]) -> str:
    """Return one option with these odds."""
    odds = np.array(weights)
    return options[int(rng.choice(len(options), p=odds / odds.sum()))]


OFFERS: dict[str, Offer] = {
    "color": offer_colors,
    "existence": offer_existence,
    "count": offer_counts,
    "object": offer_objects,
    "place": offer_places,
    "relation": offer_relations,
    "nearest": offer_nearest,
    "distance": offer_distances,
    "size": offer_sizes,
}
ORDERED = ("existence", "count")  # their order is drawn already
