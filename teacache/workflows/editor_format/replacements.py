"""Nodes of missing classes: what a pack has registered to stand in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..definitions import Definitions, Replacements
from .scene import Document, InputSlot, Node, OutputSlot, Scene
from .values import by_name


def replace_missing(
    document: Document, definitions: Definitions, replacements: Replacements
) -> None:
    """Gives nodes whose class is missing the first registered class that is there."""
    for scene in document.scenes:
        for node in scene.nodes.values():
            if node.kind not in definitions and node.subgraph is None:
                for entry in replacements.get(node.kind, ()):
                    if entry["new_node_id"] in definitions:
                        replace_node(node, scene, entry)
                        break


def replace_node(node: Node, scene: Scene, entry: Mapping[str, Any]) -> None:
    """Makes a node one of the new class: its links, values and outputs under their new names."""
    old_values = old_values_of(node, entry.get("old_widget_ids") or ())
    old_slots = {slot.name: slot for slot in node.inputs}
    mapping = entry.get("input_mapping")
    if mapping is None:
        names = [*old_slots, *old_values]
        mapping = [{"new_id": name, "old_id": name} for name in dict.fromkeys(names)]
    values: dict[str, Any] = {}
    inputs: list[InputSlot] = []
    for part in mapping:
        new = part["new_id"]
        if "set_value" in part:
            values[new] = part["set_value"]
            continue
        if part["old_id"] in old_values:
            values[new] = old_values[part["old_id"]]
        slot = old_slots.get(part["old_id"])
        if slot is not None:
            inputs.append(replace(slot, name=new, widget=new if slot.widget else None))
    moved = {part["old_idx"]: part["new_idx"] for part in entry.get("output_mapping") or ()}
    for link in scene.links.values():
        if link.origin == node.id:
            link.origin_slot = moved.get(link.origin_slot, link.origin_slot)
    size = 1 + max(moved.values(), default=len(node.outputs) - 1)
    outputs = [OutputSlot("", "*") for _ in range(size)]
    for number, output in enumerate(node.outputs):
        if moved.get(number, number) < size:
            outputs[moved.get(number, number)] = output
    node.kind, node.inputs, node.outputs = entry["new_node_id"], inputs, outputs
    node.values, node.named = values, None


def old_values_of(node: Node, names: Sequence[str]) -> dict[str, Any]:
    """The values of a node by the names that the replacement tells for their positions."""
    if isinstance(node.values, dict):
        return node.values
    if names and node.values:
        return dict(zip(names, node.values, strict=False))
    return by_name(node) or {}
