# SPDX-License-Identifier: Apache-2.0
"""Questions about where things are, how far and how large; candidates for questions.py.

What is "in the first view" is as the first chosen frame shows it. A question is offered only where
no second answer comes close. Numbers in metres have one decimal and forgive 7 %. Next:
questions.py, which chooses among all candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vidllm_ros.data.synthrooms.parts import pick
from vidllm_ros.data.synthrooms.view import View

Candidate = tuple[str, tuple[str, ...], tuple[int, ...]]  # question, answers, object ids
Offer = Callable[[View, np.random.Generator], list[Candidate]]

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
    around = range(
        max(1, int((length_m - slack) * 10)), min(200, int((length_m + slack) * 10) + 2)
    )
    close = [t for t in around if abs(t / 10 - length_m) <= slack and t != tenths]
    close.sort(key=lambda t: (abs(t / 10 - length_m), t))
    return tuple(f"{t / 10:.1f}" for t in (tenths, *close))
