# SPDX-License-Identifier: Apache-2.0
"""An oracle: reads a question's words and answers from boxes, poses, depth and ids alone.

It shares no code with the questions: names are matched by words, gaps between boxes are measured
between points on their outlines, what a frame shows is counted from its pixels.
"""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np

from vidllm_ros.data.samples import Question, SceneObject, SceneSample, Situation

COLORS = ("red", "orange", "yellow", "green", "blue")
COLORS += ("purple", "brown", "white", "gray", "black")
WELL_SEEN = 0.008  # of the first frame's pixels


def outline(item: SceneObject) -> np.ndarray:
    """Return points on the outline and inside of a box's floor plan, (N, 2)."""
    z, w = item.box.quat_xyzw[2:]
    c, s = w * w - z * z, 2 * z * w
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 15)] * 2), -1).reshape(-1, 2)
    local = grid * np.asarray(item.box.size)[:2]
    return local @ np.array([[c, s], [-s, c]]) + np.asarray(item.box.center)[:2]


class Oracle:
    """Answers about one sample."""

    def __init__(self, sample: SceneSample) -> None:
        self.sample = sample

    @cached_property
    def gaps(self) -> np.ndarray:
        """Distances between the objects, (O, O), m, to a few centimetres."""
        items = self.sample.objects
        points = [outline(item) for item in items]
        low = [item.box.center[2] - item.box.size[2] / 2 for item in items]
        high = [item.box.center[2] + item.box.size[2] / 2 for item in items]
        gaps = np.full((len(items), len(items)), np.inf)
        for i in range(len(items)):
            for j in range(i):
                plan = np.sqrt(((points[i][:, None] - points[j][None]) ** 2).sum(-1).min())
                rise = max(low[i] - high[j], low[j] - high[i], 0.0)
                gaps[i, j] = gaps[j, i] = np.hypot(plan, rise)
        return gaps

    @cached_property
    def first(self) -> dict[int, tuple[float, float]]:
        """Mean column (0 to 1) and near depth of what the first frame shows well, by id."""
        ids, depth = self.sample.instance_ids[0], self.sample.depth[0]
        shown = {}
        for item in self.sample.objects:
            rows, columns = np.nonzero(ids == item.object_id)
            if len(rows) >= WELL_SEEN * ids.size:
                near = float(np.percentile(depth[rows, columns], 10))
                shown[item.object_id] = (float(columns.mean()) / ids.shape[1], near)
        return shown

    def those(self, words: str) -> list[SceneObject]:
        """Return the objects that words such as "red chair", "chairs" or "blue things" mean."""
        first, _, rest = words.partition(" ")
        color, noun = (first, rest) if first in COLORS else ("", words)
        singular = {noun, noun.removesuffix("s"), noun.replace("shelves", "shelf")}
        everything = noun in ("things", "object", "")
        return [
            item
            for item in self.sample.objects
            if (not color or item.color == color) and (everything or item.label in singular)
        ]

    def the(self, words: str) -> SceneObject:
        [item] = self.those(words)
        return item

    def nearest_to(self, item: SceneObject) -> SceneObject:
        row = self.gaps[[o.object_id for o in self.sample.objects].index(item.object_id)]
        return self.sample.objects[int(np.argmin(row))]

    def column(self, words: str) -> float:
        return self.first[self.the(words).object_id][0]

    def answer(self, question: Question) -> set[str]:
        """Return every answer that is right, empty for words it cannot read."""
        text = question.question.removesuffix("?")
        for pattern, method in TEMPLATES:
            if found := re.fullmatch(pattern, text):
                return {str(value) for value in method(self, **found.groupdict())}
        return set()

    def color(self, noun: str) -> set[str]:
        label, _, place = noun.partition(" next to the ")
        if not place:
            return {item.color for item in self.those(noun)}
        host = self.the(place)
        row = self.gaps[[o.object_id for o in self.sample.objects].index(host.object_id)]
        distance = dict(zip([o.object_id for o in self.sample.objects], row, strict=True))
        return {min(self.those(label), key=lambda item: distance[item.object_id]).color}

    def exists(self, noun: str) -> set[str]:
        return {"yes" if self.those(noun) else "no"}

    def count(self, noun: str) -> set[int]:
        return {len(self.those(noun))}

    def object_of(self, color: str) -> set[str]:
        return {item.label for item in self.those(color)} if color in COLORS else set()

    def beside(self, noun: str) -> set[str]:
        return {self.nearest_to(self.the(noun)).label}

    def where(self, noun: str) -> set[str]:
        near = self.nearest_to(self.the(noun))
        names = [near.label, f"{near.color} {near.label}"]
        return {f"next to the {name}" for name in names if len(self.those(name)) == 1}

    def side(self, a: str, b: str) -> set[str]:
        return {"left" if self.column(a) < self.column(b) else "right"}

    def on_side(self, a: str, side: str, b: str) -> set[str]:
        return {"yes" if side in self.side(a, b) else "no"}

    def neighbor(self, side: str, noun: str) -> set[str]:
        item = self.the(noun)
        order = sorted(self.first, key=lambda i: self.first[i][0])
        place = order.index(item.object_id) + (-1 if side == "left" else 1)
        return {self.sample.object(order[place]).label}

    def closest(self) -> set[str]:
        return {self.sample.object(min(self.first, key=lambda i: self.first[i][1])).label}

    def closer(self, a: str, b: str) -> set[str]:
        near = [self.first[self.the(noun).object_id][1] for noun in (a, b)]
        return {a if near[0] < near[1] else b}

    def away(self, noun: str) -> set[str]:
        offset = self.the(noun).box.center - self.sample.T_world_camera[0, :3, 3]
        return {f"{np.sqrt((offset**2).sum()):.1f}"}

    def size(self, edge: str, noun: str) -> set[str]:
        return {f"{self.the(noun).box.size[2 if edge == 'tall' else 0]:.1f}"}

    def situated(self, situation: Situation) -> set[str]:
        """Answer a situation's question from where its record says one stands."""
        standing = Standing(self, situation)
        text = situation.question.removesuffix("?")
        for pattern, method in SITUATED:
            if found := re.fullmatch(pattern, text):
                return method(standing, *found.groups())
        return set()


class Standing:
    """Someone at a situation's place, turned as its record says."""

    def __init__(self, oracle: Oracle, situation: Situation) -> None:
        x, y, z, w = situation.quat_xyzw
        self.forward = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z)])
        self.here = situation.position[:2]
        self.oracle = oracle
        faced = re.search(r"(?:facing|look at) the (.+)\.$", situation.situation)
        assert faced is not None, situation.situation
        self.faced = faced[1]
        host = re.search(r"(?:next to|near) the (.+?)(?:,| and)", situation.situation)
        assert host is not None, situation.situation
        self.host = host[1]

    def bearing(self, noun: SceneObject | str) -> float:
        """Return the angle to a thing, deg, left positive."""
        item = self.oracle.the(noun) if isinstance(noun, str) else noun
        offset = np.asarray(item.box.center)[:2] - self.here
        across = self.forward[0] * offset[1] - self.forward[1] * offset[0]
        return float(np.degrees(np.arctan2(across, offset @ self.forward)))

    def side(self, noun: SceneObject | str) -> str:
        angle = self.bearing(noun)
        if abs(angle) < 45:
            return "in front"
        return "behind" if abs(angle) > 135 else ("left" if angle > 0 else "right")

    def away(self, noun: str) -> float:
        """Return the distance to a thing's outline on the floor plan, m."""
        points = outline(self.oracle.the(noun)) - self.here
        return float(np.sqrt((points**2).sum(-1)).min())

    def which_side(self, noun: str) -> set[str]:
        return {self.side(noun)}

    def is_behind(self, noun: str) -> set[str]:
        return {"yes" if self.side(noun) == "behind" else "no"}

    def is_in_sight(self, noun: str) -> set[str]:
        return {"yes" if self.side(noun) == "in front" else "no"}

    def what(self, side: str) -> set[str]:
        return {item.label for item in self.oracle.sample.objects if self.side(item) == side}

    def count(self, noun: str, side: str) -> set[str]:
        return {str(sum(self.side(item) == side for item in self.oracle.those(noun)))}

    def closer(self, first: str, second: str) -> set[str]:
        return {min((first, second), key=self.away)}

    def steps(self) -> set[str]:
        return {f"{self.away(self.faced) + slack:.1f}" for slack in (-0.04, 0, 0.04)}


SITUATED = (
    (r"is the (.+) on my left or on my right", Standing.which_side),
    (r"which side of me is the (.+) on", Standing.which_side),
    (r"where is the (.+) from here", Standing.which_side),
    (r"is the (.+) behind me", Standing.is_behind),
    (r"can I see the (.+) without turning around", Standing.is_in_sight),
    (r"what is (?:on my )?(left|right|behind)(?: me)?", Standing.what),
    (r"how many (.+) are on my (left|right)", Standing.count),
    (r"which is closer to me, the (.+) or the (.+)", Standing.closer),
    (r"how far is the thing I am facing, in meters", Standing.steps),
)
TEMPLATES = (
    (r"what (?:color is|color are|is the color of) the (?P<noun>.+)", Oracle.color),
    (r"(?:is there|can you see) an? (?P<noun>.+?)(?: in the room)?", Oracle.exists),
    (r"how many (?P<noun>.+?) (?:are there|are in the room|can you see)", Oracle.count),
    (r"what is (?:next to|beside|the object closest to) the (?P<noun>.+)", Oracle.beside),
    (r"where is the (?P<noun>.+)", Oracle.where),
    (
        r"in the first view, is the (?P<a>.+) to the (?P<side>left|right) of the (?P<b>.+)",
        Oracle.on_side,
    ),
    (r"in the first view, is the (?P<a>.+) left or right of the (?P<b>.+)", Oracle.side),
    (
        r"what is to the (?P<side>left|right) of the (?P<noun>.+) in the first view",
        Oracle.neighbor,
    ),
    (
        r"in the first view, what is directly (?P<side>left|right) of the (?P<noun>.+)",
        Oracle.neighbor,
    ),
    (r"which object is closest to the camera in the first view", Oracle.closest),
    (r"what is the nearest object in the first view", Oracle.closest),
    (
        r"which is closer to the camera in the first view, the (?P<a>.+) or the (?P<b>.+)",
        Oracle.closer,
    ),
    (r"how far is the (?P<noun>.+) from the camera in the first view, in meters", Oracle.away),
    (r"how many meters away is the (?P<noun>.+) in the first view", Oracle.away),
    (r"how (?P<edge>tall|wide) is the (?P<noun>.+) in meters", Oracle.size),
    (r"what is (?P<color>\w+) in this room", Oracle.object_of),
    (r"what is the (?P<color>\w+) object", Oracle.object_of),
    (r"which object is (?P<color>\w+)", Oracle.object_of),
)
