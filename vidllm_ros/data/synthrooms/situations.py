# SPDX-License-Identifier: Apache-2.0
"""Stand somewhere, face something, and ask what only the one who stands there can answer.

As in SQA3D: "I am standing next to the bed, facing the desk." What is left from there is right
from elsewhere. One stands where a camera was, so on free floor; a question is offered only where
all of the walk's places that the words fit give the same answer. Next: scene.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneObject, Situation
from vidllm_ros.data.synthrooms.parts import pick
from vidllm_ros.data.synthrooms.spatial_questions import meters
from vidllm_ros.data.synthrooms.view import BESIDE_M, View, floor_plan
from vidllm_ros.data.synthrooms.vocabulary import PLURALS

MOST_SITUATIONS = 6
PLACES = 5  # cameras tried as places to stand at
NEAR_M = 1.1
FACED_M = 0.9  # what is faced is at least this far, so that a step aside turns little
SIDES = ("in front", "left", "behind", "right")  # by quarter turns
SECTOR_RAD = math.radians(33)  # half of the sector that counts as one side
IN_FRONT_LEFT_OUT = 0.7  # share; most of what a walk shows is in front
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stand:
    """One stands by `host` and faces `faced`; the first place is the situation's own.

    Attributes:
        bearings: of the view's objects, (P, O), rad, from the direction one faces, left positive.
        away_m: plan distance to each object's box, (P, O).
        places: where all this holds, (P, 3): x, y, heading.
    """

    words: str
    host: SceneObject
    faced: SceneObject
    bearings: Floats
    away_m: Floats
    places: Floats

    def sides(self) -> list[str]:
        """Return the side each object is on, "" where it is none or depends on the place."""
        quarter = np.round(self.bearings / (math.pi / 2))
        firm = np.abs(self.bearings - quarter * (math.pi / 2)) < SECTOR_RAD
        index = quarter.astype(int) % 4
        same = (index == index[:1]).all(0) & firm.all(0)
        return [SIDES[i] if ok else "" for i, ok in zip(index[0], same, strict=True)]


Asked = tuple[str, tuple[str, ...], tuple[int, ...]]  # question, answers, object ids
Offer = Callable[[View, Stand, np.random.Generator], list[Asked]]


def situate(view: View, rng: np.random.Generator, prefix: str = "q") -> tuple[Situation, ...]:
    """Return up to six situations with a question each, of as many families as the view allows."""
    asked: list[tuple[str, Stand, Asked]] = []
    for stand in find_stands(view, rng):
        for family, offer in OFFERS.items():
            offers = offer(view, stand, rng)
            if offers:
                asked.append((family, stand, offers[int(rng.integers(len(offers)))]))
    chosen: list[Situation] = []
    used: dict[str, int] = {}
    for index in rng.permutation(len(asked)):
        family, stand, (question, answers, ids) = asked[int(index)]
        if len(chosen) == MOST_SITUATIONS:
            break
        if used.get(family, 0) == 2:
            continue
        used[family] = used.get(family, 0) + 1
        x, y, heading = stand.places[0]
        sign = 1.0 if math.cos(heading / 2) >= 0 else -1.0
        chosen.append(
            Situation(
                situation_id=f"{prefix}-s{len(chosen)}",
                situation=stand.words,
                question=question,
                answers=answers,
                position=np.array([x, y, 0.0]),
                quat_xyzw=sign * np.array([0, 0, math.sin(heading / 2), math.cos(heading / 2)]),
                object_ids=tuple(sorted({*ids, stand.host.object_id, stand.faced.object_id})),
            )
        )
    return tuple(chosen)


def find_stands(view: View, rng: np.random.Generator) -> list[Stand]:
    """Return places by one named thing from which one can face another."""
    named = view.named()
    if len(named) < 2:
        return []
    positions = view.T_world_camera[:, :2, 3]
    away = plan_distances(view, positions)  # (S, O)
    rows = {item.object_id: row for row, item in enumerate(view.objects)}
    stands: list[Stand] = []
    for camera in rng.permutation(len(positions))[:PLACES]:
        near = [(away[camera, rows[i.object_id]], i, name) for i, name in named]
        near = [entry for entry in near if entry[0] < NEAR_M]
        far = [(i, name) for i, name in named if away[camera, rows[i.object_id]] > FACED_M]
        if not near or not far:
            continue
        gap, host, host_name = min(near, key=lambda entry: entry[0])
        faced, faced_name = far[int(rng.integers(len(far)))]
        if faced is host:
            continue
        word = "next to" if gap < BESIDE_M else "near"
        forms = (
            f"I am standing {word} the {host_name}, facing the {faced_name}.",
            f"I am {word} the {host_name} and look at the {faced_name}.",
        )
        limits = (0.0, BESIDE_M) if gap < BESIDE_M else (BESIDE_M, NEAR_M)
        to_host = away[:, rows[host.object_id]]
        fits = (to_host >= limits[0]) & (to_host < limits[1])
        fits &= away[:, rows[faced.object_id]] > FACED_M
        order = [int(camera), *(int(i) for i in np.flatnonzero(fits) if i != camera)]
        stands.append(
            stand_at(view, (host, faced), pick(rng, forms), positions[order], away[order])
        )
    return stands


def stand_at(
    view: View, ends: tuple[SceneObject, SceneObject], words: str, positions: Floats, away: Floats
) -> Stand:
    """Return the stand of these places, (P, 2), each turned to what is faced."""
    host, faced = ends
    centers = np.array([item.box.center[:2] for item in view.objects])
    ahead = np.asarray(faced.box.center, float)[:2] - positions
    heading = np.arctan2(ahead[:, 1], ahead[:, 0])
    offset = centers[None] - positions[:, None]
    bearing = np.arctan2(offset[..., 1], offset[..., 0]) - heading[:, None]
    bearing = (bearing + math.pi) % (2 * math.pi) - math.pi
    return Stand(words, host, faced, bearing, away, np.column_stack([positions, heading]))


def plan_distances(view: View, positions: Floats) -> Floats:
    """Return the distance on the floor plan from places (S, 2) to the objects' boxes, (S, O)."""
    columns = []
    for item in view.objects:
        center, a, b, yaw = floor_plan(item)
        dx, dy = (positions - center).T
        c, s = math.cos(yaw), math.sin(yaw)
        outside = (np.abs(c * dx + s * dy) - a, np.abs(-s * dx + c * dy) - b)
        columns.append(np.hypot(np.maximum(outside[0], 0), np.maximum(outside[1], 0)))
    return np.column_stack(columns)


def others(view: View, stand: Stand) -> list[tuple[SceneObject, str, str]]:
    """Return things with a name that are neither stood by nor faced, and their side."""
    sides = stand.sides()
    used = (stand.host.object_id, stand.faced.object_id)
    return [
        (item, name, sides[view.objects.index(item)])
        for item, name in view.named()
        if item.object_id not in used and sides[view.objects.index(item)]
    ]


def offer_sides(view: View, stand: Stand, rng: np.random.Generator) -> list[Asked]:
    """Offer left or right, the answer drawn by a coin where the room has both."""
    offers: list[Asked] = []
    want = "left" if rng.random() < 0.5 else "right"
    found = [entry for entry in others(view, stand) if entry[2] in ("left", "right")]
    for item, name, side in [entry for entry in found if entry[2] == want] or found:
        question = f"is the {name} on my left or on my right?"
        offers.append((question, (side, f"on my {side}", f"on your {side}"), (item.object_id,)))
    return offers


def offer_where(view: View, stand: Stand, rng: np.random.Generator) -> list[Asked]:
    """Offer which of the four sides a thing is on; what is in front is rarely asked."""
    offers: list[Asked] = []
    for item, name, side in others(view, stand):
        if side == "in front" and rng.random() < IN_FRONT_LEFT_OUT:
            continue
        forms = (f"which side of me is the {name} on?", f"where is the {name} from here?")
        answers = {
            "left": ("left", "on my left", "to my left", "on the left"),
            "right": ("right", "on my right", "to my right", "on the right"),
            "behind": ("behind", "behind me", "back"),
            "in front": ("in front", "in front of me", "front", "ahead"),
        }[side]
        offers.append((pick(rng, forms), answers, (item.object_id,)))
    return offers


def offer_behind(view: View, stand: Stand, rng: np.random.Generator) -> list[Asked]:
    """Offer yes and no: whether a thing is behind, or can be seen without turning."""
    truth = bool(rng.random() < 0.5)
    offers: list[Asked] = []
    for item, name, side in others(view, stand):
        if (side == "behind") == truth:
            answer = "yes" if truth else "no"
            offers.append((f"is the {name} behind me?", (answer,), (item.object_id,)))
        if truth and rng.random() < IN_FRONT_LEFT_OUT:
            continue
        if side in ("in front", "behind") and (side == "in front") == truth:
            answer = "yes" if truth else "no"
            question = f"can I see the {name} without turning around?"
            offers.append((question, (answer,), (item.object_id,)))
    return offers


def offer_what(view: View, stand: Stand, rng: np.random.Generator) -> list[Asked]:
    """Offer the only class on a side, if nothing stands between two sides."""
    if not view.complete:
        return []
    sides = stand.sides()
    offers: list[Asked] = []
    words = {"left": "on my left", "right": "on my right", "behind": "behind me"}
    for side, phrase in words.items():
        middle = SIDES.index(side) * math.pi / 2
        off = (stand.bearings - middle + math.pi) % (2 * math.pi) - math.pi
        maybe = np.flatnonzero((np.abs(off) < math.radians(60)).any(0))
        items = [view.objects[int(row)] for row in maybe]
        labels = {item.label for item in items}
        firm = [item for item in items if sides[view.objects.index(item)] == side]
        if len(labels) == 1 and firm and stand.host not in items:
            ids = tuple(item.object_id for item in items)
            offers.append((f"what is {phrase}?", (items[0].label,), ids))
    return offers


def offer_counts(view: View, stand: Stand, rng: np.random.Generator) -> list[Asked]:
    """Offer how many of a class are on a side, where the room has more of them."""
    sides = stand.sides()
    offers: list[Asked] = []
    for label in view.clear_labels():
        ids = [item.object_id for item in view.of_label(label)]
        places = [sides[view.objects.index(item)] for item in view.of_label(label)]
        if len(ids) < 2 or not all(places):
            continue
        for side, phrase in (("left", "on my left"), ("right", "on my right")):
            count = places.count(side)
            question = f"how many {PLURALS[label]} are {phrase}?"
            offers.append((question, (str(count),), tuple(ids)))
    return offers


def offer_closer(view: View, stand: Stand, rng: np.random.Generator) -> list[Asked]:
    """Offer which of two things is clearly closer to where one stands."""
    entries = [
        (item, name, stand.away_m[:, view.objects.index(item)])
        for item, name in view.named()
        if item is not stand.host
    ]
    offers: list[Asked] = []
    for near, near_name, near_m in entries:
        for far, far_name, far_m in entries:
            if near is far or not (far_m > 1.3 * near_m + 0.2).all():
                continue
            pair = (near_name, far_name) if rng.random() < 0.5 else (far_name, near_name)
            question = f"which is closer to me, the {pair[0]} or the {pair[1]}?"
            answers = (near_name, f"the {near_name}")
            offers.append((question, answers, (near.object_id, far.object_id)))
    return offers


def offer_steps(view: View, stand: Stand, rng: np.random.Generator) -> list[Asked]:
    """Offer the distance to what is faced, where all places agree within the forgiven error."""
    away = stand.away_m[:, view.objects.index(stand.faced)]
    answers = meters(float(away[0]))
    if any(not set(meters(float(other))) & set(answers[:1]) for other in away):
        return []
    question = "how far is the thing I am facing, in meters?"
    return [(question, answers, (stand.faced.object_id,))]


OFFERS: dict[str, Offer] = {
    "sides": offer_sides,
    "where": offer_where,
    "behind": offer_behind,
    "what": offer_what,
    "counts": offer_counts,
    "closer": offer_closer,
    "steps": offer_steps,
}
