"""Instances of subgraphs: their sockets, and the widgets of inner nodes that they show."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .page_only import PRIMITIVE
from .scene import INPUT_NODE, Document, End, InputSlot, Link, Node, OutputSlot, Scene
from .values import misplaced, place
from .widgets import MISSING, Widget

OUTER = "-1"
"""In place of an inner node's id: the widget of an input that the subgraph has."""
LEGACY_NAME = re.compile(r"\s*(\d+)\s*:\s*(.+)", re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """An entry of `proxyWidgets`: an inner node's widget, and the value of this instance."""

    node: str
    widget: str
    value: Any


def is_value(value: Any) -> bool:
    """Whether a value of an instance counts; null leaves the inner node's value."""
    return value is not MISSING and value is not None


class Instances:
    """The instances of subgraphs in a file, completed one after another.

    Args:
        document: the file. Subgraphs get an input for each widget that instances show.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.completed: dict[str, list[Node]] = {scene.id: [] for scene in document.subgraphs}

    def complete(self, node: Node, scene: Scene) -> None:
        """Gives an instance the sockets of its subgraph, their widgets, and its own values."""
        saved = {slot.name: slot.link for slot in node.inputs}
        node.inputs = [InputSlot(end.name, end.type, saved.get(end.name)) for end in scene.inputs]
        ends = [OutputSlot(end.name, end.type) for end in scene.outputs]
        for output, old in zip(ends, node.outputs, strict=False):
            output.links = old.links
        node.outputs = ends
        node.title = node.title or scene.name
        for slot, end in zip(node.inputs, scene.inputs, strict=True):
            show(node, slot, scene, end)
        first = [widget.value for widget in node.widgets]
        place(node.widgets, node.values or [])
        if node.named is not None and misplaced(node.widgets):
            for widget, value in zip(node.widgets, first, strict=True):
                widget.set(value)
            place(node.widgets, node.named)
        place(node.widgets, quarantined_values(node.properties))
        self.completed[scene.id].append(node)

    def show_widgets(self, node: Node, scene: Scene) -> None:
        """Shows the widgets that `proxyWidgets` lists, with the values of this instance."""
        values = node.values if isinstance(node.values, list) else []
        cohort: dict[str, list[Shown]] = {}
        for number, entry in enumerate(proxy_entries(node.properties)):
            value = values[number] if number < len(values) else MISSING
            shown = Shown(*self.source(scene, entry), value if is_value(value) else MISSING)
            inner = scene.nodes.get(shown.node)
            if shown.node == OUTER:
                give(node.widget(shown.widget), shown.value)
            elif (end := self.existing(scene, shown)) is not None:
                give(node.widget(end.name), shown.value)
            elif inner is not None and inner.kind == PRIMITIVE:
                cohort.setdefault(inner.id, []).append(shown)
            elif inner is not None:
                self.add_input(node, scene, inner, shown)
        for primitive, entries in cohort.items():
            self.replace_primitive(node, scene, scene.nodes[primitive], entries)

    @staticmethod
    def source(scene: Scene, entry: list[str]) -> tuple[str, str]:
        """The inner node and the name of its widget; older files prefix names with ids."""
        node_id, name = entry[0], entry[1]
        inner = scene.nodes.get(node_id)
        while inner is not None and inner.widget(name) is None:
            match = LEGACY_NAME.fullmatch(name)
            if match is None:
                break
            name = match[2]
        return node_id, name

    @staticmethod
    def existing(scene: Scene, shown: Shown) -> End | None:
        """The subgraph's input that is linked to the widget."""
        for end in scene.inputs:
            source = linked_widget(scene, end)
            if source is not None and (source[0].id, source[1].name) == (shown.node, shown.widget):
                return end
        return None

    def add_input(self, node: Node, scene: Scene, inner: Node, shown: Shown) -> None:
        """A new input of the subgraph for an inner node's widget."""
        slot = next((s for s in inner.inputs if s.widget == shown.widget), None)
        if slot is not None and inner.widget(shown.widget) is not None:
            end = self.new_end(scene, shown.widget, slot.type, [(inner, slot)])
            give(node.widget(end.name), shown.value)

    def replace_primitive(
        self, node: Node, scene: Scene, primitive: Node, entries: list[Shown]
    ) -> None:
        """A new input of the subgraph in place of a primitive node that the instance shows."""
        links = [scene.links[i] for i in first_output(primitive).links if i in scene.links]
        targets = [found for link in links if (found := target(scene, link)) is not None]
        if not targets or len(targets) != len(links):
            return
        renamed = primitive.title not in ("", PRIMITIVE, "Primitive")
        name = primitive.title if renamed else entries[0].widget
        end = self.new_end(scene, name, targets[0][1].type, targets)
        own = (
            primitive.values[0]
            if isinstance(primitive.values, list) and primitive.values
            else (MISSING)
        )
        first_output(primitive).links = []
        given = [entry.value for entry in entries if is_value(entry.value)]
        give(node.widget(end.name), given[0] if given else own)

    def new_end(
        self, scene: Scene, name: str, type_: str, targets: list[tuple[Node, InputSlot]]
    ) -> End:
        """A new input of a subgraph, linked to `targets`; every instance of it gets it."""
        names = {end.name for end in scene.inputs}
        unique, number = name, 0
        while unique in names:
            number += 1
            unique = f"{name}_{number}"
        end = End(unique, type_, [])
        for inner, slot in targets:
            link = Link(f"{unique}:{inner.id}", INPUT_NODE, len(scene.inputs), inner.id, -1)
            scene.links[link.id] = link
            end.links.append(link.id)
            slot.link = link.id
        scene.inputs.append(end)
        for instance in self.completed[scene.id]:
            slot = InputSlot(end.name, end.type)
            instance.inputs.append(slot)
            show(instance, slot, scene, end)
        return end


def show(node: Node, slot: InputSlot, scene: Scene, end: End) -> None:
    """Gives an instance the widget of the inner input that the end is linked to, if it has one."""
    source = linked_widget(scene, end)
    if source is not None:
        widget = source[1]
        node.widgets.append(Widget(slot.name, widget.type, widget.value, options=widget.options))
        slot.widget = slot.name


def linked_widget(scene: Scene, end: End) -> tuple[Node, Widget] | None:
    """The inner node and the widget that an input of a subgraph sets."""
    for link_id in end.links:
        found = target(scene, scene.links[link_id]) if link_id in scene.links else None
        widget = found[0].widget(found[1].widget) if found else None
        if found is not None and widget is not None:
            return found[0], widget
    return None


def target(scene: Scene, link: Link) -> tuple[Node, InputSlot] | None:
    """The node and the input that a link leads to."""
    node = scene.nodes.get(link.target)
    slot = next((s for s in node.inputs if s.link == link.id), None) if node else None
    return (node, slot) if node is not None and slot is not None else None


def first_output(node: Node) -> OutputSlot:
    return node.outputs[0] if node.outputs else OutputSlot("", "*")


def give(widget: Widget | None, value: Any) -> None:
    if widget is not None and is_value(value):
        widget.set(value)


def proxy_entries(properties: Mapping[str, Any]) -> list[list[str]]:
    """The entries of `proxyWidgets`, as a list or as its JSON; none if one of them is damaged."""
    entries = parsed(properties.get("proxyWidgets"))
    sound = all(
        isinstance(entry, list)
        and len(entry) in (2, 3)
        and all(isinstance(part, str) for part in entry)
        for entry in entries
    )
    return entries if sound else []


def quarantined_values(properties: Mapping[str, Any]) -> dict[str, Any]:
    """{input: value} that the editor could not assign to a widget when it last opened the file."""
    values = {}
    for entry in reversed(parsed(properties.get("proxyWidgetErrorQuarantine"))):
        if isinstance(entry, dict) and is_value(entry.get("hostValue")):
            original = entry.get("originalEntry")
            if isinstance(original, list) and len(original) >= 2 and original[0] == OUTER:
                values[str(original[1])] = entry["hostValue"]
    return values


def parsed(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []
