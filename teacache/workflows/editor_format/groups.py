"""Group nodes of older editors (`workflow>NAME`): taken apart into a subgraph each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..definitions import Definitions
from .classes import count_widgets, ordered_specs
from .page_only import PRIMITIVE, REROUTE
from .scene import (
    INPUT_NODE,
    OUTPUT_NODE,
    Document,
    End,
    InputSlot,
    Link,
    Node,
    Scene,
    read_node,
    refusal,
)

PREFIXES = ("workflow>", "workflow/")


def expand_groups(document: Document, data: dict[str, Any], definitions: Definitions) -> None:
    """Makes every group node an instance of a subgraph of its own, with its values inside.

    The inner nodes get the ids GROUP:INDEX, as older editors queue them.
    """
    extra = data.get("extra")
    groups = extra.get("groupNodes") if isinstance(extra, dict) else None
    for node in document.root.nodes.values():
        if not node.kind.startswith(PREFIXES):
            continue
        name = node.kind[len(PREFIXES[0]) :]
        if not isinstance(groups, dict) or not isinstance(groups.get(name), dict):
            raise refusal(document.source, f"node {node.id}: the file lacks group node {name!r}")
        try:
            scene = Group(node, groups[name], definitions).scene()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"group node {name!r} is damaged ({error!r})"
            raise refusal(document.source, reason) from None
        node.subgraph, node.values, node.named = scene, None, None
        document.subgraphs.append(scene)


class Group:
    """One group node.

    Args:
        host: the group node.
        data: what the file says of its group: nodes, links between them by index, and `config`
            with other names and hidden sockets.
    """

    def __init__(self, host: Node, data: Mapping[str, Any], definitions: Definitions) -> None:
        self.host, self.definitions = host, definitions
        self.nodes = [
            read_node({**node, "id": number}) for number, node in enumerate(data["nodes"])
        ]
        self.config = data.get("config") or {}
        self.outside = {
            (int(node["index"] if isinstance(node, dict) else node), int(slot))
            for node, slot, *_ in data.get("external") or []
            if node is not None
        }
        self.links = [
            [int(part) for part in link[:4]]
            for link in data.get("links") or []
            if all(part is not None for part in link[:4])
        ]
        self.used: dict[str, int] = {}

    def scene(self) -> Scene:
        """The group as the graph of a subgraph."""
        nodes = {node.id: node for node in self.nodes}
        scene = Scene(f"group {self.host.id}", self.host.title or self.host.kind, nodes, {})
        for number, (origin, slot, target, target_slot) in enumerate(self.links):
            link = Link(f"inner {number}", str(origin), slot, str(target), target_slot)
            scene.links[link.id] = link
            self.nodes[target].inputs[target_slot].link = link.id
            self.nodes[origin].outputs[slot].links.append(link.id)
        values = iter(self.host.values if isinstance(self.host.values, list) else [])
        for number, node in enumerate(self.nodes):
            self.take_values(node, values)
            self.add_widget_names(number, node)
            self.add_inputs(scene, number, node, [s for s in node.inputs if s.widget is None])
        for number, node in enumerate(self.nodes):
            self.add_inputs(scene, number, node, [s for s in node.inputs if s.widget is not None])
            self.add_outputs(scene, number, node)
        return scene

    def take_values(self, node: Node, values: Iterator[Any]) -> None:
        """Gives an inner node its part of the group node's values; linked widgets keep theirs."""
        own = node.values if isinstance(node.values, list) else []
        if node.kind == PRIMITIVE:
            node.values = [next(values, value) for value in own]
            return
        linked = {slot.widget for slot in node.inputs if slot.widget}
        taken: list[Any] = []
        for name, spec in ordered_specs(self.definitions.get(node.kind, {})).items():
            for _ in range(count_widgets(name, spec)):
                old = own[len(taken)] if len(taken) < len(own) else None
                taken.append(old if name in linked else next(values, old))
        node.values, node.named = taken, None

    def settings(self, number: int, side: str, name: str) -> Mapping[str, Any]:
        """What the file says of a socket: another name, or that it is hidden."""
        return ((self.config.get(str(number)) or {}).get(side) or {}).get(name) or {}

    def add_widget_names(self, number: int, node: Node) -> None:
        """Widgets take names too, which sockets behind them can't have."""
        linked = {slot.widget for slot in node.inputs if slot.widget}
        for name, spec in ordered_specs(self.definitions.get(node.kind, {})).items():
            if name not in linked and count_widgets(name, spec):
                self.unique(self.settings(number, "input", name).get("name") or name, node)

    def add_inputs(self, scene: Scene, number: int, node: Node, slots: list[InputSlot]) -> None:
        """An input of the group for each socket of an inner node that no other fills."""
        for slot in slots:
            if slot.link is not None:
                continue
            own = slot.name if node.kind != REROUTE else self.reroute_type(node)
            settings = self.settings(number, "input", own)
            name = self.unique(settings.get("name") or own, node)
            if settings.get("visible") is False:
                continue
            link = Link(f"in {name}", INPUT_NODE, len(scene.inputs), node.id, -1)
            scene.links[link.id] = link
            scene.inputs.append(End(name, slot.type, [link.id]))
            slot.link = link.id

    def reroute_type(self, node: Node) -> str:
        """The type that a reroute hands on, which is the name of its input."""
        for origin, _, target, slot in self.links:
            if str(origin) == node.id and self.nodes[target].inputs[slot].type != "*":
                return self.nodes[target].inputs[slot].type
        return "*"

    def unique(self, name: str, node: Node) -> str:
        """The name of an input of the group: with the node's title before it if it is taken."""
        if name in self.used or (node.kind == PRIMITIVE and node.title):
            named = f"{node.title or node.kind} {name}"
            full = (
                named
                if named not in self.used
                else f"{node.title or node.kind} " + (f"{self.used[named]} {name}")
            )
        else:
            named = full = name
        self.used[named] = self.used.get(named, 1) + 1
        return full

    def add_outputs(self, scene: Scene, number: int, node: Node) -> None:
        """An output of the group for each of an inner node that only the outside reads."""
        for slot, output in enumerate(node.outputs):
            inner = bool(output.links) and (number, slot) not in self.outside
            visible = self.settings(number, "output", str(slot)).get("visible")
            if not (visible if visible is not None else not inner):
                continue
            link = Link(f"out {number} {slot}", node.id, slot, OUTPUT_NODE, len(scene.outputs))
            scene.links[link.id] = link
            scene.outputs.append(End(output.name, output.type, [link.id]))
