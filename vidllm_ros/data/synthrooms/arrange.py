# SPDX-License-Identifier: Apache-2.0
"""Furnish a room the way people do: one recipe for each kind of room.

Each recipe places the large things first and goes on where something does not fit. Colours are
drawn evenly for every class, so that no class gives its colour away.
Next: rooms.py, which turns the result into boxes, objects and lights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vidllm_ros.data.synthrooms import fixtures, furniture
from vidllm_ros.data.synthrooms.clutter import TABLE_CLUTTER, build_ceiling_lamp, build_rug
from vidllm_ros.data.synthrooms.layout import Layout, Placement
from vidllm_ros.data.synthrooms.parts import Model, pick
from vidllm_ros.data.synthrooms.vocabulary import COLORS

ROOM_KINDS = ("bedroom", "living room", "kitchen", "office", "bathroom", "studio")
ROOM_SIZES = {  # shorter and longer edge of the floor, m
    "bedroom": (3.2, 4.8),
    "living room": (3.8, 6.5),
    "kitchen": (3.3, 5.5),
    "office": (3.6, 6.5),
    "bathroom": (3.0, 4.4),
    "studio": (4.4, 7.0),
}
Maker = Callable[[np.random.Generator, str], Model]


def furnish(layout: Layout, kind: str) -> None:
    """Put doors, windows, furniture and clutter of this kind of room into an empty layout."""
    add_openings(layout, kind)
    RECIPES[kind](layout)
    add_trash_cans(layout, kind)
    add_pictures(layout)
    add_clutter(layout, kind)


def make(layout: Layout, maker: Maker) -> Model:
    """Build a model in a colour drawn evenly."""
    return maker(layout.rng, pick(layout.rng, COLORS))


def chance(layout: Layout, probability: float) -> bool:
    return bool(layout.rng.random() < probability)


def add_openings(layout: Layout, kind: str) -> None:
    """Add one or two doors with free floor before them, windows, curtains at some."""
    for _ in range(1 + chance(layout, 0.25)):
        door = layout.against_wall(make(layout, fixtures.build_door), hung=True)
        if door is not None:
            x, y = door.point(0.0, 0.45)
            layout.kept_free.append((x, y, 0.5, 0.45, door.yaw_rad))
    chances = (0.6, 0.1) if kind == "bathroom" else (0.85, 0.45)
    for _ in range(sum(chance(layout, p) for p in chances)):
        frame = pick(layout.rng, ("white", "white", "brown", "black", "gray"))
        window = layout.against_wall(fixtures.build_window(layout.rng, frame), hung=True)
        if window is not None and chance(layout, 0.6):
            color = pick(layout.rng, COLORS)
            width = window.model.size[0] - 0.1
            curtain = fixtures.build_curtain(layout.rng, color, width)
            c, s = np.cos(window.yaw_rad), np.sin(window.yaw_rad)
            along = float(c * window.x + s * window.y)
            layout.try_place(layout.at_wall(curtain, window.wall, along, None), margin=0.0)


def add_chairs(
    layout: Layout, table: Placement, most: int, maker: Maker = furniture.build_dining_chair
) -> None:
    """Seat chairs around a table, half of the time all in one colour."""
    width, depth = table.model.size[0], table.model.size[1]
    seats = [(side, 0.0) for side in (1, 3)] if width > 1.0 else []
    offsets = (-width / 4, width / 4) if width > 1.15 else (0.0,)
    seats += [(side, along) for side in (0, 2) for along in offsets]
    color = pick(layout.rng, COLORS) if chance(layout, 0.5) else ""
    count = 0
    for index in layout.rng.permutation(len(seats)):
        if count == most:
            return
        side, along = seats[index]
        chair = maker(layout.rng, color or pick(layout.rng, COLORS))
        limit = (width if side % 2 == 0 else depth) / 2 - chair.size[0] / 2
        along = float(np.clip(along + layout.rng.normal(0, 0.03), -abs(limit), abs(limit)))
        gap = 0.03 + float(layout.rng.exponential(0.08))
        turn = float(layout.rng.normal(0, 0.12))
        count += layout.in_front(chair, table, int(side), along, min(gap, 0.45), turn) is not None


def add_dining(layout: Layout, most: int) -> None:
    """Add a dining table in the open with chairs."""
    table = layout.free_standing(make(layout, furniture.build_dining_table), clear=0.55)
    if table is None:
        table = layout.against_wall(make(layout, furniture.build_dining_table))
    if table is not None:
        add_chairs(layout, table, most)


def add_desk(layout: Layout) -> None:
    """Add a desk at a wall with a chair."""
    desk = layout.against_wall(make(layout, furniture.build_desk))
    if desk is None:
        return
    makers = (
        furniture.build_office_chair,
        furniture.build_office_chair,
        furniture.build_dining_chair,
    )
    if chance(layout, 0.9):
        chair = make(layout, makers[int(layout.rng.integers(3))])
        along = float(layout.rng.uniform(-0.2, 0.2))
        gap = float(layout.rng.uniform(0.03, 0.3))
        layout.in_front(chair, desk, 0, along, gap, float(layout.rng.normal(0, 0.3)))
    if chance(layout, 0.4):
        layout.beside(make(layout, furniture.build_trash_can), desk, 0.08)


def add_seating(layout: Layout) -> None:
    """Add a sofa with a coffee table before it and perhaps an armchair or a second sofa."""
    sofa = layout.against_wall(make(layout, furniture.build_sofa))
    if sofa is None:
        return
    if chance(layout, 0.8):
        low = make(layout, furniture.build_coffee_table)
        layout.in_front(low, sofa, 0, 0.0, float(layout.rng.uniform(0.3, 0.5)))
    for _ in range(int(layout.rng.integers(0, 3))):
        layout.against_wall(make(layout, furniture.build_armchair))
    if chance(layout, 0.3):
        layout.against_wall(make(layout, furniture.build_sofa))


def add_along_walls(layout: Layout, makers: dict[Maker, float]) -> None:
    """Add each kind of furniture with its chance, in random order; a chance above 1 adds more."""
    order = list(makers)
    for index in layout.rng.permutation(len(order)):
        expected = makers[order[index]]
        for _ in range(int(expected) + chance(layout, expected % 1.0)):
            layout.against_wall(make(layout, order[index]))


def cabinet(kind: str) -> Maker:
    """Return the maker of one kind of cabinet."""
    return lambda rng, color: furniture.build_cabinet_of(rng, color, kind)


def arrange_bedroom(layout: Layout) -> None:
    for _ in range(1 + chance(layout, 0.3)):
        bed = layout.against_wall(make(layout, furniture.build_bed), tries=30)
        for _ in range(int(layout.rng.integers(0, 3)) if bed is not None else 0):
            layout.beside(make(layout, cabinet("nightstand")), bed, 0.04)  # type: ignore[arg-type]
    add_along_walls(layout, {cabinet("wardrobe"): 0.7, furniture.build_bookshelf: 0.5})
    if chance(layout, 0.6):
        add_desk(layout)
    add_along_walls(layout, {furniture.build_armchair: 0.3, cabinet("sideboard"): 0.4})


def arrange_living_room(layout: Layout) -> None:
    add_seating(layout)
    if chance(layout, 0.4):
        add_dining(layout, int(layout.rng.integers(2, 7)))
    add_along_walls(layout, {furniture.build_bookshelf: 1.1, cabinet("sideboard"): 1.0})
    if chance(layout, 0.3):
        add_desk(layout)


def arrange_kitchen(layout: Layout) -> None:
    counter: Placement | None = None
    for _ in range(int(layout.rng.integers(1, 3))):
        counter = layout.against_wall(make(layout, fixtures.build_counter), tries=30) or counter
    for _ in range(1 + chance(layout, 0.15)):
        fridge = make(layout, fixtures.build_refrigerator)
        if counter is None or layout.beside(fridge, counter, 0.03) is None:
            layout.against_wall(fridge, tries=30)
    if counter is not None and chance(layout, 0.75):
        sink = fixtures.build_counter_sink(
            layout.rng, pick(layout.rng, COLORS), counter.top + 0.015
        )
        along = float(layout.rng.uniform(-0.5, 0.5)) * (counter.model.size[0] - sink.size[0] - 0.1)
        x, y = counter.point(along, 0.0)
        layout.try_place(Placement(sink, x, y, counter.yaw_rad))
    if chance(layout, 0.85):
        add_dining(layout, int(layout.rng.integers(1, 7)))
    add_along_walls(layout, {cabinet("sideboard"): 0.6, cabinet("wardrobe"): 0.3})


def arrange_office(layout: Layout) -> None:
    for _ in range(int(layout.rng.integers(1, 4))):
        add_desk(layout)
    if chance(layout, 0.4):
        add_dining(layout, int(layout.rng.integers(2, 7)))
    add_along_walls(
        layout,
        {
            furniture.build_bookshelf: 1.2,
            cabinet("sideboard"): 0.6,
            cabinet("wardrobe"): 0.5,
            furniture.build_sofa: 0.3,
            furniture.build_armchair: 0.3,
        },
    )


def arrange_bathroom(layout: Layout) -> None:
    tub = layout.against_wall(make(layout, fixtures.build_bathtub), tries=30)
    if tub is not None and chance(layout, 0.75):
        cloth = make(layout, fixtures.build_shower_curtain)
        room = max((tub.model.size[0] - cloth.size[0]) / 2, 0.0)
        x = float(layout.rng.uniform(-room, room))
        x, y = tub.point(x, tub.model.high[1] + 0.03 - cloth.low[1])
        layout.try_place(Placement(cloth, x, y, tub.yaw_rad), margin=0.01)
    for maker, chance_of_two in ((fixtures.build_toilet, 0.2), (fixtures.build_sink, 0.45)):
        for _ in range(1 + chance(layout, chance_of_two)):
            layout.against_wall(make(layout, maker), tries=24)
    add_along_walls(
        layout,
        {
            cabinet("wardrobe"): 0.3,
            cabinet("nightstand"): 0.6,
            cabinet("sideboard"): 0.4,
            furniture.build_dining_chair: 0.4,
            furniture.build_trash_can: 0.4,
        },
    )


def arrange_studio(layout: Layout) -> None:
    """Half of everything in one large room."""
    parts: list[Callable[[], None]] = [
        lambda: add_desk(layout),
        lambda: add_seating(layout),
        lambda: add_dining(layout, int(layout.rng.integers(1, 5))),
        lambda: add_along_walls(layout, {furniture.build_bed: 1.0}),
        lambda: add_along_walls(
            layout, {fixtures.build_counter: 1.0, fixtures.build_refrigerator: 1.0}
        ),
        lambda: add_along_walls(
            layout, {furniture.build_bookshelf: 1.5, furniture.build_cabinet: 1.0}
        ),
        lambda: add_along_walls(layout, {fixtures.build_sink: 0.8, fixtures.build_toilet: 0.5}),
    ]
    for index in layout.rng.permutation(len(parts))[: int(layout.rng.integers(3, 5))]:
        parts[index]()


RECIPES: dict[str, Callable[[Layout], None]] = {
    "bedroom": arrange_bedroom,
    "living room": arrange_living_room,
    "kitchen": arrange_kitchen,
    "office": arrange_office,
    "bathroom": arrange_bathroom,
    "studio": arrange_studio,
}


def add_trash_cans(layout: Layout, kind: str) -> None:
    """Add a bin beside something at a wall, or at any wall."""
    hosts = [p for p in layout.placed if p.wall >= 0 and p.bottom < 0.05]
    for _ in range(int(chance(layout, 0.55)) + chance(layout, 0.15)):
        bin_model = make(layout, furniture.build_trash_can)
        host = hosts[int(layout.rng.integers(len(hosts)))] if hosts else None
        if host is None or layout.beside(bin_model, host, 0.06) is None:
            layout.against_wall(bin_model)


def add_pictures(layout: Layout) -> None:
    """Hang up to three pictures; more where the room is still bare."""
    wanted = int(layout.rng.integers(0, 3)) + max(0, 6 - len(layout.placed))
    for _ in range(wanted):
        layout.against_wall(make(layout, fixtures.build_picture), tries=12, hung=True)


def add_clutter(layout: Layout, kind: str) -> None:
    """Put things on tables, desks, counters and cabinets; a rug; a lamp under the ceiling."""
    for host in list(layout.placed):
        if host.model.kind in ("wardrobe", "refrigerator"):
            continue
        if host.model.label in ("table", "desk", "counter", "cabinet"):
            for _ in range(int(layout.rng.integers(0, 3))):
                thing = pick(layout.rng, tuple(TABLE_CLUTTER))
                layout.on_top(TABLE_CLUTTER[thing](layout.rng), host)
    if chance(layout, 0.4):
        x, y = (float(layout.rng.uniform(-0.2, 0.2)) * layout.size[i] for i in (0, 1))
        yaw = float(layout.rng.choice([0.0, np.pi / 2]))
        layout.clutter.append(Placement(build_rug(layout.rng), x, y, yaw))
    lamps = 2 if max(layout.size[:2]) > 5.0 else 1
    for i in range(lamps):
        x = (i - (lamps - 1) / 2) * layout.size[0] / 2
        lamp = Placement(build_ceiling_lamp(layout.rng), x, 0.0, 0.0, layout.size[2])
        layout.clutter.append(lamp)
