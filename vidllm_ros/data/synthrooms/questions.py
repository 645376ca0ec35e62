# SPDX-License-Identifier: Apache-2.0
"""Ask about what the frames show; each family of questions is one function that offers candidates.

Answers are short and lower case, and the frames decide them: colours are even over every class,
"yes" and "no" are asked equally often of each class, left and right are drawn by a coin. Numbers
in metres have one decimal and forgive about 7 %. Next: references.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vidllm_ros.data.samples import Question
from vidllm_ros.data.synthrooms.parts import pick
from vidllm_ros.data.synthrooms.view import View
from vidllm_ros.data.synthrooms.vocabulary import COLORS, OBJECT_LABELS, PLURALS

Candidate = tuple[str, tuple[str, ...], tuple[int, ...]]  # question, answers, object ids
Offer = Callable[[View, np.random.Generator], list[Candidate]]

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
SIZES = {  # class: edges that vary enough to be worth asking (name, axis of the box)
    "cabinet": (("tall", 2), ("wide", 0)),
    "bookshelf": (("tall", 2), ("wide", 0)),
    "table": (("tall", 2), ("wide", 0)),
    "trash can": (("tall", 2),),
    "sofa": (("wide", 0),),
    "counter": (("wide", 0),),
    "picture": (("wide", 0), ("tall", 2)),
    "window": (("wide", 0),),
    "bed": (("wide", 0),),
    "chair": (("tall", 2), ("wide", 0)),
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


def ask(view: View, rng: np.random.Generator, prefix: str = "q") -> tuple[Question, ...]:
    """Return about twenty questions the frames of a view answer, of all families it allows."""
    chosen: list[Question] = []
    asked: set[str] = set()
    for family, quota in QUOTAS.items():
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


def offer_places(view: View, rng: np.random.Generator) -> list[Candidate]:
    """Offer "what is next to" and "where is", each with one neighbour that is clearly nearest."""
    offers: list[Candidate] = []
    for item, name in view.named():
        beside = view.neighbor(item)
        if beside is None or {item.label, beside.label} == {"window", "curtain"}:
            continue
        ids = (item.object_id, beside.object_id)
        forms = (
            f"what is next to the {name}?",
            f"what is beside the {name}?",
            f"what is the object closest to the {name}?",
        )
        offers.append((pick(rng, forms), (beside.label,), ids))
        place = view.name(beside)
        if place is not None:
            answers = (f"next to the {place}", f"next to {place}", f"beside the {place}")
            offers.append((f"where is the {name}?", answers, ids))
    return offers


def offer_relations(view: View, rng: np.random.Generator) -> list[Candidate]:
    """Offer left and right as the first camera sees them."""
    shown = [
        (view.first[item.object_id].column, item, name)
        for item, name in view.named()
        if item.object_id in view.first
    ]
    shown.sort(key=lambda entry: entry[0])
    offers: list[Candidate] = []
    for i, (left_column, left, left_name) in enumerate(shown):
        for right_column, right, right_name in shown[i + 1 :]:
            if right_column - left_column < 0.12:
                continue
            ids = (left.object_id, right.object_id)
            offers.append(left_or_right(rng, left_name, right_name, ids))
    everything = sorted(
        (view.first[item.object_id].column, item.object_id, item.label)
        for item in view.objects
        if item.object_id in view.first
    )
    for _, item, name in shown:
        place = next(k for k, entry in enumerate(everything) if entry[1] == item.object_id)
        for step, side in ((-1, "left"), (1, "right")):
            other = next_to(everything, place, step)
            if other is not None:
                forms = (
                    f"what is to the {side} of the {name} in the first view?",
                    f"in the first view, what is directly {side} of the {name}?",
                )
                ids = (item.object_id, other[1])
                offers.append((pick(rng, forms), (other[2],), ids))
    return offers


def left_or_right(
    rng: np.random.Generator, left: str, right: str, ids: tuple[int, ...]
) -> Candidate:
    """Return one way to ask how two things lie, its answer drawn by a coin."""
    truth = bool(rng.random() < 0.5)
    if rng.random() < 0.5:
        first, second = (left, right) if truth else (right, left)
        side = "left" if truth else "right"
        return (f"in the first view, is the {first} left or right of the {second}?", (side,), ids)
    side = "left" if rng.random() < 0.5 else "right"
    first, second = (left, right) if truth == (side == "left") else (right, left)
    answer = "yes" if truth else "no"
    return (f"in the first view, is the {first} to the {side} of the {second}?", (answer,), ids)


def next_to(
    everything: list[tuple[float, int, str]], place: int, step: int
) -> tuple[float, int, str] | None:
    """Return the next thing along the picture's columns if no other competes with it."""
    index = place + step
    if not 0 <= index < len(everything):
        return None
    gap = abs(everything[index][0] - everything[place][0])
    after = index + step
    if gap < 0.08:
        return None
    if 0 <= after < len(everything):
        further = abs(everything[after][0] - everything[place][0])
        if further < gap + 0.08 and everything[after][2] != everything[index][2]:
            return None
    return everything[index]


def offer_nearest(view: View, rng: np.random.Generator) -> list[Candidate]:
    shown = sorted(
        (
            (view.first[i.object_id].nearest_m, i)
            for i in view.objects
            if i.object_id in view.first
        ),
        key=lambda entry: entry[0],
    )
    offers: list[Candidate] = []
    if len(shown) >= 2 and shown[1][0] > 1.2 * shown[0][0]:
        nearest = shown[0][1]
        forms = (
            "which object is closest to the camera in the first view?",
            "what is the nearest object in the first view?",
        )
        offers.append((pick(rng, forms), (nearest.label,), (nearest.object_id,)))
    named = {item.object_id: name for item, name in view.named()}
    for i, (near, first) in enumerate(shown):
        for far, second in shown[i + 1 :]:
            pair = (first.object_id, second.object_id)
            if far < 1.25 * near or pair[0] not in named or pair[1] not in named:
                continue
            words = [named[pair[0]], named[pair[1]]]
            order = (0, 1) if rng.random() < 0.5 else (1, 0)
            question = (
                f"which is closer to the camera in the first view, "
                f"the {words[order[0]]} or the {words[order[1]]}?"
            )
            answers = tuple(dict.fromkeys((words[0], f"the {words[0]}")))
            offers.append((question, answers, pair))
    return offers


def offer_distances(view: View, rng: np.random.Generator) -> list[Candidate]:
    offers: list[Candidate] = []
    for item, name in view.named():
        seen = view.first.get(item.object_id)
        if seen is None or seen.cut:
            continue
        away = float(np.linalg.norm(item.box.center - view.T_world_first[:3, 3]))
        forms = (
            f"how far is the {name} from the camera in the first view, in meters?",
            f"how many meters away is the {name} in the first view?",
        )
        offers.append((pick(rng, forms), meters(away), (item.object_id,)))
    return offers


def offer_sizes(view: View, rng: np.random.Generator) -> list[Candidate]:
    offers: list[Candidate] = []
    for item, name in view.named():
        for word, axis in SIZES.get(item.label, ()):
            question = f"how {word} is the {name} in meters?"
            offers.append((question, meters(float(item.box.size[axis])), (item.object_id,)))
    return offers


def meters(length_m: float) -> tuple[str, ...]:
    """Return a length with one decimal, and the neighbours within 7 % or 5 cm, nearest first."""
    tenths = round(length_m * 10)
    slack = max(0.05, 0.07 * length_m)
    close = [t for t in range(1, 200) if abs(t / 10 - length_m) <= slack and t != tenths]
    close.sort(key=lambda t: (abs(t / 10 - length_m), t))
    return tuple(f"{t / 10:.1f}" for t in (tenths, *close))


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
