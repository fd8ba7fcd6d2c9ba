"""A file of the editor as checked objects: its graphs, their nodes, slots and links."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError
from ..graph import HOW_TO_EXPORT
from .widgets import Widget

MUTED, BYPASSED = 2, 4
INPUT_NODE, OUTPUT_NODE = "-10", "-20"
"""The ids of the two ends of a subgraph in its links."""
MAX_NODES, MAX_DEPTH = 100_000, 100
"""Of a file with its subgraphs taken apart: a small one can ask for exponentially many nodes."""


@dataclass
class InputSlot:
    """An input socket. `widget` names the widget that it feeds, if it feeds one."""

    name: str
    type: str
    link: str | None = None
    widget: str | None = None


@dataclass
class OutputSlot:
    """An output socket, with the ids of its links as the file lists them."""

    name: str
    type: str
    links: list[str] = field(default_factory=list)


@dataclass
class Link:
    """A connection from an output to an input of one graph; of a subgraph's ends as well."""

    id: str
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass
class Node:
    """A node as the file holds it; sockets and widgets are completed from its class.

    Attributes:
        values: of its widgets, in their order or by name; None if the file has none.
        named: the values by name, which files of 2026 hold as well.
        subgraph: what it stands for, if it is an instance of a subgraph.
    """

    id: str
    kind: str
    mode: int
    title: str
    inputs: list[InputSlot]
    outputs: list[OutputSlot]
    values: list[Any] | dict[str, Any] | None
    named: dict[str, Any] | None
    properties: dict[str, Any]
    widgets: list[Widget] = field(default_factory=list)
    subgraph: Scene | None = None

    @property
    def active(self) -> bool:
        return self.mode not in (MUTED, BYPASSED)

    def widget(self, name: str | None) -> Widget | None:
        return next((w for w in self.widgets if w.name == name), None) if name else None


@dataclass
class End:
    """An input or output of a subgraph, with the ids of its links inside."""

    name: str
    type: str
    links: list[str]


@dataclass
class Scene:
    """One graph: the file's own, or that of a subgraph with its inputs and outputs."""

    id: str
    name: str
    nodes: dict[str, Node]
    links: dict[str, Link]
    inputs: list[End] = field(default_factory=list)
    outputs: list[End] = field(default_factory=list)


@dataclass
class Document:
    """A file: its own graph, and its subgraphs with those first that others contain."""

    root: Scene
    subgraphs: list[Scene]
    in_file_order: list[Scene]
    source: str

    @property
    def scenes(self) -> list[Scene]:
        return [*self.subgraphs, self.root]


def refusal(source: str, reason: str) -> UserError:
    """The error for a file that cannot be converted, in one line."""
    return UserError(f"{source}: {reason}; {HOW_TO_EXPORT}")


def named(node: Node) -> str:
    """The node for messages."""
    return f"node {node.id} ({node.kind})"


def read_document(data: dict[str, Any], source: str) -> Document:
    """The graphs of a file; `UserError` when it is damaged or a subgraph contains itself."""
    try:
        definitions = data.get("definitions") or {}
        subgraphs = {s.id: s for s in map(read_scene, definitions.get("subgraphs") or [])}
        root = read_scene(data)
        for scene in (root, *subgraphs.values()):
            for node in scene.nodes.values():
                node.subgraph = subgraphs.get(node.kind)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise refusal(source, f"nodes or links are damaged ({error!r})") from None
    ordered = innermost_first(subgraphs.values(), source)
    document = Document(root, ordered, list(subgraphs.values()), source)
    check_size(document)
    return document


def read_scene(data: dict[str, Any]) -> Scene:
    nodes = [read_node(node) for node in data["nodes"]]
    links = [read_link(link) for link in data.get("links") or [] if link is not None]
    return Scene(
        str(data.get("id", "")),
        text(data.get("name", "")),
        {node.id: node for node in nodes},
        {link.id: link for link in links},
        [read_end(end) for end in data.get("inputs") or []],
        [read_end(end) for end in data.get("outputs") or []],
    )


def read_node(data: dict[str, Any]) -> Node:
    values = data.get("widgets_values")
    if not (values is None or isinstance(values, (list, dict))):
        raise TypeError(f"the widget values of node {data['id']} are {values!r}")
    properties, by_name = data.get("properties"), data.get("widgets_values_named")
    return Node(
        identifier(data["id"]),
        text(data["type"]),
        int(data.get("mode") or 0),
        text(data.get("title") or ""),
        [read_input(slot) for slot in data.get("inputs") or []],
        [read_output(slot) for slot in data.get("outputs") or []],
        values,
        by_name if isinstance(by_name, dict) and by_name else None,
        properties if isinstance(properties, dict) else {},
    )


def read_input(data: dict[str, Any]) -> InputSlot:
    widget = data.get("widget")
    return InputSlot(
        text(data.get("name") or ""),
        slot_type(data.get("type")),
        None if data.get("link") is None else identifier(data["link"]),
        text(widget["name"]) if isinstance(widget, dict) and "name" in widget else None,
    )


def read_output(data: dict[str, Any]) -> OutputSlot:
    links = [identifier(link) for link in data.get("links") or [] if link is not None]
    return OutputSlot(text(data.get("name") or ""), slot_type(data.get("type")), links)


def read_end(data: dict[str, Any]) -> End:
    links = [identifier(link) for link in data.get("linkIds") or []]
    return End(text(data["name"]), slot_type(data.get("type")), links)


def read_link(data: Any) -> Link:
    """A link as a list or, as in newer files and in subgraphs, as an object."""
    if isinstance(data, dict):
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        data = [data[key] for key in keys]
    link, origin, origin_slot, target, target_slot = data[:5]
    return Link(
        identifier(link),
        identifier(origin),
        int(origin_slot),
        identifier(target),
        -1 if target_slot is None else int(target_slot),
    )


def identifier(value: Any) -> str:
    """An id of a node or link; a number and its text are one id."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is no id")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def slot_type(value: Any) -> str:
    """The type of a socket; a list of choices, 0 and nothing are the types COMBO and any."""
    if isinstance(value, list):
        return "COMBO"
    return str(value) if value not in (None, 0, -1, "") else "*"


def innermost_first(scenes: Iterable[Scene], source: str) -> list[Scene]:
    """The subgraphs, each behind those that it contains; `UserError` for one that holds itself."""
    waiting, ordered, done = list(scenes), [], set[str]()
    while waiting:
        ready = [
            scene
            for scene in waiting
            if all(n.subgraph is None or n.subgraph.id in done for n in scene.nodes.values())
        ]
        if not ready:
            names = ", ".join(repr(scene.name or scene.id) for scene in waiting)
            raise refusal(source, f"subgraphs that contain themselves: {names}")
        ordered += ready
        done |= {scene.id for scene in ready}
        waiting = [scene for scene in waiting if scene.id not in done]
    return ordered


def check_size(document: Document) -> None:
    """Refuses a file whose subgraphs, taken apart, are too many nodes or lie too deep."""
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}
    for scene in document.scenes:
        inner = [node.subgraph.id for node in scene.nodes.values() if node.subgraph]
        size = len(scene.nodes) + sum(sizes[name] for name in inner)
        depth = 1 + max((depths[name] for name in inner), default=0)
        if size > MAX_NODES or depth > MAX_DEPTH:
            raise refusal(
                document.source,
                f"more than {MAX_NODES} nodes, or {MAX_DEPTH} subgraphs inside each other",
            )
        if scene is not document.root:
            sizes[scene.id], depths[scene.id] = size, depth
