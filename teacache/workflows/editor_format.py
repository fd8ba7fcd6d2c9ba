"""Workflow files saved by the editor, converted to API graphs with the node definitions.

A file that cannot be converted exactly is refused; the message says how to export it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .definitions import Definitions
from .graph import HOW_TO_EXPORT, Graph

MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")


@dataclass(frozen=True)
class Source:
    """The origin of a link: a node's output, or the value of a primitive node."""

    node: str = ""
    slot: int = 0
    value: Any = None


@dataclass(frozen=True)
class Widget:
    """A value that the editor saves for a node; `name` is None if it belongs to no input."""

    name: str | None
    default: Any = None


def to_graph(data: dict[str, Any], definitions: Definitions, source: str) -> Graph:
    """The API graph of a file saved by the editor.

    Muted nodes are left out and bypassed ones are passed through, as in the editor.

    Args:
        data: the file's JSON.
        definitions: of every node class.
        source: the file's name for messages.

    Raises:
        UserError: the file uses subgraphs or a class that is not in `definitions`, is damaged, or
            holds values that do not match the widgets.
    """
    return Converter(data, definitions, source).graph()


class Converter:
    """Converts one file; the arguments are those of `to_graph`."""

    def __init__(self, data: dict[str, Any], definitions: Definitions, source: str) -> None:
        self.definitions, self.source = definitions, source
        if data.get("definitions", {}).get("subgraphs"):
            raise self.refusal("the file uses subgraphs")
        try:
            self.nodes = {node["id"]: node for node in data["nodes"]}
            self.links = dict(map(self.link, data["links"] or []))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self.refusal(f"nodes or links are damaged ({error!r})") from None

    @staticmethod
    def link(link: Any) -> tuple[int, tuple[Any, int]]:
        """A link's id, and its origin's node id and slot."""
        if isinstance(link, dict):
            return link["id"], (link["origin_id"], link["origin_slot"])
        return link[0], (link[1], link[2])

    def refusal(self, reason: str) -> UserError:
        return UserError(f"{self.source}: {reason}; {HOW_TO_EXPORT}")

    def graph(self) -> Graph:
        graph: Graph = {}
        for node_id, node in self.nodes.items():
            virtual = node["type"] in (*NOTES, REROUTE, PRIMITIVE)
            if virtual or node.get("mode") in (MUTED, BYPASSED):
                continue
            graph[str(node_id)] = {
                "class_type": node["type"],
                "inputs": self.inputs(node),
                "_meta": {"title": node.get("title") or node["type"]},
            }
        return graph

    def inputs(self, node: dict[str, Any]) -> dict[str, Any]:
        inputs = self.widget_values(node)
        for slot in node.get("inputs") or []:
            if slot.get("link") is None:
                continue
            source = self.resolve(slot["link"], node)
            if source is None:
                if "widget" not in slot:
                    inputs.pop(slot["name"], None)
            elif source.node:
                inputs[slot["name"]] = [source.node, source.slot]
            else:
                inputs[slot["name"]] = source.value
        return inputs

    def resolve(self, link_id: int, reader: dict[str, Any]) -> Source | None:
        """The source of a link, through reroutes and bypassed nodes; None when there is none."""
        for _ in range(len(self.nodes) + 1):
            if link_id not in self.links or self.links[link_id][0] not in self.nodes:
                raise self.refusal(f"node {reader['id']} ({reader['type']}) has a dangling link")
            node_id, slot = self.links[link_id]
            node = self.nodes[node_id]
            if node.get("mode") == MUTED:
                return None
            if node["type"] == PRIMITIVE:
                return Source(value=node["widgets_values"][0])
            if node["type"] == REROUTE:
                onward = node["inputs"][0].get("link")
            elif node.get("mode") == BYPASSED:
                onward = self.bypass(node, slot)
            else:
                return Source(str(node_id), slot)
            if onward is None:
                return None
            link_id = onward
        raise self.refusal(f"node {reader['id']} ({reader['type']}) is linked to itself")

    @staticmethod
    def bypass(node: dict[str, Any], slot: int) -> int | None:
        """The input link that replaces a bypassed node's output: same slot, else same type."""
        kind = node["outputs"][slot]["type"]
        inputs = node.get("inputs") or []
        same = [entry for entry in inputs if entry["type"] == kind]
        if slot < len(inputs) and inputs[slot]["type"] == kind:
            same.insert(0, inputs[slot])
        link: int | None = same[0].get("link") if same else None
        return link

    def widget_values(self, node: dict[str, Any]) -> dict[str, Any]:
        """The values of the node's widgets, by input."""
        saved = node.get("widgets_values") or []
        widgets = self.widgets(node)
        if isinstance(saved, dict):
            return {w.name: saved[w.name] for w in widgets if w.name and w.name in saved}
        if len(saved) > len(widgets):
            raise self.refusal(
                f"node {node['id']} ({node['type']}) holds {len(saved)} values where this "
                f"ComfyUI knows {len(widgets)}"
            )
        padded = [*saved, *(widget.default for widget in widgets[len(saved) :])]
        return {
            widget.name: {"__value__": value} if isinstance(value, list) else value
            for widget, value in zip(widgets, padded, strict=True)
            if widget.name is not None and value is not None
        }

    def widgets(self, node: dict[str, Any]) -> list[Widget]:
        """The node's widgets in the order in which the editor saves their values."""
        kind = node["type"]
        if kind not in self.definitions:
            raise UserError(
                f"{self.source}: node {node['id']}: no node type {kind!r} in this ComfyUI. "
                "Other packs are loaded with --custom-nodes"
            )
        inputs = self.definitions[kind]["input"]
        widgets: list[Widget] = []
        for group in ("required", "optional"):
            upload = False
            for name, spec in inputs.get(group, {}).items():
                options = spec[1] if len(spec) > 1 else {}
                input_type = "COMBO" if isinstance(spec[0], (list, tuple)) else spec[0]
                input_type = options.get("widgetType", input_type)
                if str(input_type).startswith(("COMFY_AUTOGROW", "COMFY_DYNAMIC")):
                    raise self.refusal(f"node {node['id']} ({kind}) has inputs that grow")
                if input_type not in WIDGET_TYPES or options.get("forceInput"):
                    continue
                widgets.append(Widget(name, default_of(spec[0], options)))
                control = options.get("control_after_generate", None)
                if control and input_type == "COMBO":
                    raise self.refusal(f"node {node['id']} ({kind}) changes {name} by itself")
                if control or (control is None and input_type == "INT" and name in SEEDS):
                    widgets.append(Widget(None))
                upload = upload or bool(options.get("image_upload"))
            if upload:
                widgets.append(Widget(None))
        return widgets


def default_of(kind: Any, options: dict[str, Any]) -> Any:
    """The value of a new widget in the editor."""
    choices = kind if isinstance(kind, (list, tuple)) else options.get("options")
    if "default" in options:
        return options["default"]
    if choices:
        return choices[0]
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(kind)
