"""What an input reads: links followed through reroutes, bypassed nodes and subgraphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .page_only import GETTERS, VIRTUAL
from .scene import BYPASSED, INPUT_NODE, MUTED, Document, Node, Scene, named, refusal


@dataclass(frozen=True)
class Source:
    """What an input reads: a node's output, or the value of a widget of a subgraph."""

    node: str = ""
    slot: int = 0
    value: Any = None


@dataclass(frozen=True)
class Placed:
    """A node where it runs: one of a subgraph occurs in each instance of it.

    Attributes:
        host: the instance that contains it; None in the file's own graph.
        virtual: whether it exists in the page only.
    """

    node: Node
    scene: Scene
    host: Placed | None = None
    virtual: bool = False

    @property
    def id(self) -> str:
        """Its id, behind those of the instances around it: 116:104."""
        return f"{self.host.id}:{self.node.id}" if self.host else self.node.id


class Placement:
    """Every node of a file where it runs, and what its inputs read.

    Args:
        document: the file, with completed nodes.
        known: the classes that the server has; a type that only the page has is virtual unless
            the server has it too.
    """

    def __init__(self, document: Document, known: set[str]) -> None:
        self.source, self.virtual = document.source, VIRTUAL - known
        self.places = {placed.id: placed for placed in self.inside(document.root, None)}

    def inside(self, scene: Scene, host: Placed | None) -> Iterator[Placed]:
        for node in scene.nodes.values():
            placed = Placed(node, scene, host, node.kind in self.virtual)
            yield placed
            if node.subgraph is not None and node.active:
                yield from self.inside(node.subgraph, placed)

    def running(self) -> list[Placed]:
        """The nodes that become nodes of the prompt."""
        return [
            placed
            for placed in self.places.values()
            if placed.node.active and placed.node.subgraph is None and not placed.virtual
        ]

    def inner(self, host: Placed | None, node_id: str) -> Placed | None:
        return self.places.get(f"{host.id}:{node_id}" if host else node_id)

    def read(self, reader: Placed, slot: int) -> Source | None:
        """What an input reads; None if there is nothing."""
        return Walk(self, reader).input(reader, slot, None)


class Walk:
    """One way from an input to its source."""

    def __init__(self, placement: Placement, reader: Placed) -> None:
        self.placement, self.reader = placement, reader
        self.seen: set[tuple[str, str, int]] = set()

    def step(self, placed: Placed, side: str, slot: int) -> None:
        if (placed.id, side, slot) in self.seen:
            raise self.refusal("is linked to itself")
        self.seen.add((placed.id, side, slot))

    def refusal(self, reason: str) -> Exception:
        where = f"{named(self.reader.node)[:-1]} in subgraph {self.reader.scene.name!r})"
        name = where if self.reader.host else named(self.reader.node)
        return refusal(self.placement.source, f"{name} {reason}")

    def input(self, placed: Placed, slot: int, type_: str | None) -> Source | None:
        while True:
            self.step(placed, "input", slot)
            if not 0 <= slot < len(placed.node.inputs):
                raise self.refusal("has a dangling link")
            entry = placed.node.inputs[slot]
            if entry.link is None:
                return None
            link = placed.scene.links.get(entry.link)
            if link is None:
                raise self.refusal("has a dangling link")
            if link.origin == INPUT_NODE and placed.host is not None:
                host = placed.host.node
                if not 0 <= link.origin_slot < len(host.inputs):
                    raise self.refusal("has a dangling link")
                outer = host.inputs[link.origin_slot]
                if outer.link is None:
                    widget = host.widget(outer.widget)
                    return Source(value=widget.value) if widget else None
                placed, slot, type_ = placed.host, link.origin_slot, None
                continue
            origin = self.placement.inner(placed.host, link.origin)
            if origin is None:
                raise self.refusal("has a dangling link")
            return self.output(origin, link.origin_slot, type_ or entry.type)

    def output(self, placed: Placed, slot: int, type_: str) -> Source | None:
        self.step(placed, "output", slot)
        node = placed.node
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            onward = bypass(node, slot, type_)
            return None if onward is None else self.input(placed, onward, None)
        if node.subgraph is not None:
            return self.subgraph(placed, node.subgraph, slot, type_)
        if not placed.virtual:
            if not 0 <= slot < len(node.outputs):
                raise self.refusal(f"is linked to output {slot} of {named(node)}, which has none")
            return Source(placed.id, slot)
        if node.kind in GETTERS:
            setter = self.setter(placed)
            return None if setter is None else self.input(setter, 0, type_)
        return self.input(placed, slot, type_) if slot < len(node.inputs) else None

    def subgraph(self, placed: Placed, scene: Scene, slot: int, type_: str) -> Source | None:
        if not 0 <= slot < len(scene.outputs):
            raise self.refusal("has a dangling link")
        links = [scene.links[i] for i in scene.outputs[slot].links if i in scene.links]
        if not links:
            return None
        if links[0].origin == INPUT_NODE:  # an input that is handed on as it is
            outer = links[0].origin_slot
            return self.input(placed, outer, type_) if outer < len(placed.node.inputs) else None
        origin = self.placement.inner(placed, links[0].origin)
        if origin is None:
            raise self.refusal("has a dangling link")
        return self.output(origin, links[0].origin_slot, type_)

    def setter(self, getter: Placed) -> Placed | None:
        """The node that set the name which a getter gets: in its graph, else in one around it."""
        name, kind = first_value(getter.node), GETTERS[getter.node.kind]
        scene, host = getter.scene, getter.host
        while True:
            for node in scene.nodes.values():
                if node.kind == kind and first_value(node) == name and node.inputs:
                    return self.placement.inner(host, node.id)
            if host is None:
                return None
            scene, host = host.scene, host.host


def first_value(node: Node) -> Any:
    return node.values[0] if isinstance(node.values, list) and node.values else None


def bypass(node: Node, slot: int, type_: str) -> int | None:
    """The input that stands in for an output of a bypassed node."""
    inputs = node.inputs
    given = node.outputs[slot].type if 0 <= slot < len(node.outputs) else "*"
    if type_ in ("*", ""):
        return slot if slot < len(inputs) else 0 if inputs else None
    if (
        0 <= slot < len(inputs)
        and fits(inputs[slot].type, given)
        and fits(inputs[slot].type, type_)
    ):
        return slot
    same = [number for number, entry in enumerate(inputs) if entry.type == type_]
    like = (n for n, e in enumerate(inputs) if fits(e.type, given) and fits(e.type, type_))
    return same[0] if same else next(like, None)


def fits(first: str, second: str) -> bool:
    """Whether sockets of two types can be linked; a type may list several."""
    if "*" in (first, second) or "" in (first, second) or first == second:
        return True
    return bool(set(first.lower().split(",")) & set(second.lower().split(",")))
