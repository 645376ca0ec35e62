# SPDX-License-Identifier: Apache-2.0
"""Point at objects with phrases and describe them with captions.

A bare class word means every object of the class, which is also how the node looks for objects.
Some phrases mean nothing that is there: an absent class, a colour the thing does not have.
Next: scene.py, which puts a sample together.
"""

from __future__ import annotations

import math

import numpy as np

from vidllm_ros.data.samples import Caption, Reference, SceneObject
from vidllm_ros.data.synthrooms.parts import pick
from vidllm_ros.data.synthrooms.questions import SEEN_RATE, article, draw
from vidllm_ros.data.synthrooms.view import View
from vidllm_ros.data.synthrooms.vocabulary import COLORS, PLURALS

MOST_REFERENCES = 18


def refer(view: View, rng: np.random.Generator) -> tuple[Reference, ...]:
    """Return phrases for one, for many and for none of the objects seen."""
    found = refer_by_class(view, rng)
    rest = refer_by_color(view, rng) + refer_by_place(view)
    order = rng.permutation(len(rest))
    found += [rest[int(i)] for i in order[: max(MOST_REFERENCES - len(found), 4)]]
    return tuple({reference.phrase: reference for reference in found}.values())


def kind_of(targets: int, same_class: int) -> str:
    """Return the kind of a phrase with this many targets among so many of their class."""
    if targets == 0:
        return "none"
    if targets > 1:
        return "many"
    return "unique" if same_class == 1 else "multiple"


def refer_by_class(view: View, rng: np.random.Generator) -> list[Reference]:
    """Return a phrase for every class seen and for a few that are not."""
    found = []
    for label in view.clear_labels():
        ids = tuple(item.object_id for item in view.of_label(label))
        plural = PLURALS[label]
        forms = (f"the {label}", article(label)) if len(ids) == 1 else (plural, f"all {plural}")
        phrase = label if rng.random() < 0.6 else pick(rng, forms)
        found.append(Reference(phrase, ids, kind_of(len(ids), len(ids))))
    absent = view.absent_labels()
    for _ in range(min(4, len(absent))):
        label = draw(rng, absent, [0.05 + SEEN_RATE[name] for name in absent])
        absent.remove(label)
        phrase = label if rng.random() < 0.6 else pick(rng, (f"the {label}", PLURALS[label]))
        found.append(Reference(phrase, (), "none"))
    return found


def refer_by_color(view: View, rng: np.random.Generator) -> list[Reference]:
    """Return "the red chair", "the red chairs", and colours that nothing of the class has."""
    found = []
    for label in view.clear_labels():
        same = view.of_label(label)
        colors = sorted({item.color for item in same} - {""})
        for color in colors:
            ids = tuple(item.object_id for item in same if item.color == color)
            noun = label if len(ids) == 1 else PLURALS[label]
            found.append(Reference(f"the {color} {noun}", ids, kind_of(len(ids), len(same))))
        if colors and rng.random() < 0.3:
            other = pick(rng, tuple(word for word in COLORS if word not in colors))
            found.append(Reference(f"the {other} {label}", (), "none"))
    return found


def refer_by_place(view: View) -> list[Reference]:
    """Return "the chair next to the table" where one chair alone is."""
    found = []
    for host, place in view.named():
        beside = view.beside(host)
        for label in sorted({item.label for item in beside} - {host.label}):
            targets = [item for item in beside if item.label == label]
            if len(targets) != 1 or not view.is_clear(label):
                continue
            others = [item for item in view.of_label(label) if item is not targets[0]]
            row = view.gaps_m[view.objects.index(host)]
            gaps = [row[view.objects.index(item)] for item in others]
            if gaps and min(gaps) < row[view.objects.index(targets[0])] + 0.4:
                continue
            phrase = f"the {label} next to the {place}"
            kind = kind_of(1, 1 + len(others))
            found.append(Reference(phrase, (targets[0].object_id,), kind))
    return found


def describe(view: View, rng: np.random.Generator) -> tuple[Caption, ...]:
    """Return one sentence for each object seen: colour, class, and what it is near."""
    return tuple(Caption(item.object_id, caption(view, item, rng)) for item in view.objects)


def caption(view: View, item: SceneObject, rng: np.random.Generator) -> str:
    """Return what the object is and where."""
    noun = f"{item.color} {item.label}".strip()
    beside = [other for other in view.beside(item) if other.label != item.label]
    if not beside:
        alone = "on the wall" if item.label in ("picture", "window", "door") else "by itself"
        return f"{article(noun)} {alone}"
    host = beside[0]
    above = item.box.center[2] - item.box.size[2] / 2 - host.box.center[2] - host.box.size[2] / 2
    away = math.hypot(*(item.box.center[:2] - host.box.center[:2]))
    if above > -0.05 and away < 0.5 * float(max(host.box.size[:2])):
        word = "on" if item.label == "sink" else "above"
    else:
        word = pick(rng, ("next to", "next to", "beside", "near"))
    return f"{article(noun)} {word} the {view.name(host) or host.label}"
