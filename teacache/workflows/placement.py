"""Where a new node is drawn in the editor: between the nodes it links, beside all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

Point = tuple[float, float]
"""x and y on the canvas: to the right and down."""
TITLE = 30.0
"""Height of a node's title bar, which is above the node's position."""
FIRST_SLOT, SLOT = 14.0, 20.0
"""Where a node's first slot is below its position, and each further one below that."""
GAP = 30.0
"""Least distance to other nodes."""
BACKWARDS = 3.0
"""How much longer a wire counts that runs to the left."""
FOREIGN_GROUP, GROUP_BORDER = 400.0, 250.0
"""Length of wire that is better than a place in a group of other nodes, or across its border."""


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas, such as a node with its title bar, or a group."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def of_node(cls, at: Point, size: Point) -> Box:
        """The box of a node at `at`, with its title bar."""
        return cls(at[0], at[1] - TITLE, size[0], size[1] + TITLE)

    def grown(self, by: float) -> Box:
        """This box with a margin around it."""
        return Box(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def holds(self, x: float, y: float) -> bool:
        """Whether a point is inside."""
        return self.x <= x <= self.x + self.width and self.y <= y <= self.y + self.height

    def contains(self, other: Box) -> bool:
        """Whether the other is wholly inside."""
        end = (other.x + other.width, other.y + other.height)
        return self.holds(other.x, other.y) and self.holds(*end)


@dataclass(frozen=True)
class Surroundings:
    """What a new node is placed among.

    Attributes:
        start: the output slot that it is linked to.
        ends: the input slots that it is linked to.
        nodes: all nodes.
        groups: all groups.
    """

    start: Point
    ends: Sequence[Point]
    nodes: Sequence[Box]
    groups: Sequence[Box] = ()


def place(size: Point, around: Surroundings) -> Point:
    """The position for a new node: overlapping none, with short wires that run to the right.

    Candidates are the middle between both sides, and the places beside every node.
    """
    middle = (
        (around.start[0] + mean([x for x, _ in around.ends]) - size[0]) / 2,
        (around.start[1] + mean([y for _, y in around.ends])) / 2 - FIRST_SLOT,
    )
    columns, rows = {middle[0]}, {middle[1]}
    for box in around.nodes:
        columns |= {box.x, box.x - GAP - size[0], box.x + box.width + GAP}
        rows |= {box.y + TITLE, box.y - GAP - size[1], box.y + box.height + GAP + TITLE}
    taken = [box.grown(GAP - 1) for box in around.nodes]
    candidates = sorted(product(columns, rows), key=lambda at: (cost(at, size, around), at))
    for at in candidates:
        box = Box.of_node(at, size)
        if not any(box.meets(other) for other in taken):
            return (math.floor(at[0] + 0.5), math.floor(at[1] + 0.5))
    return middle


def cost(at: Point, size: Point, around: Surroundings) -> float:
    """How far a position is from a good one, as length of wire."""
    input_slot = (at[0], at[1] + FIRST_SLOT)
    output_slot = (at[0] + size[0], at[1] + FIRST_SLOT)
    wires = wire(around.start, input_slot) + mean([wire(output_slot, end) for end in around.ends])
    box = Box.of_node(at, size)
    for group in around.groups:
        if group.contains(box):
            linked = any(group.holds(*slot) for slot in (around.start, *around.ends))
            wires += 0 if linked else FOREIGN_GROUP
        elif group.meets(box):
            wires += GROUP_BORDER
    return wires


def wire(start: Point, end: Point) -> float:
    """The length of a wire; longer where it runs to the left."""
    right, down = end[0] - start[0], end[1] - start[1]
    return math.hypot(right if right >= 0 else BACKWARDS * right, down)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)
