"""Primitive nodes: their value goes to the widgets that they are linked to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .scene import Node, Scene
from .subgraphs import first_output, target
from .widgets import MISSING, TYPED_VALUES, rounded

REPLACING = "Run widget replace on values"


def apply_primitive(primitive: Node, scene: Scene, replaced: Callable[[str], str]) -> None:
    """Sets the widgets behind a primitive node, muted or not, as the editor does when it queues.

    Args:
        primitive: the node.
        scene: its graph.
        replaced: fills in the tokens of a text, for a node that wants it.
    """
    links = [scene.links[i] for i in first_output(primitive).links if i in scene.links]
    targets = [target(scene, link) for link in links]
    if not targets or targets[0] is None:
        return
    node, slot = targets[0]
    if slot.widget is None and slot.type not in (*TYPED_VALUES, "COMBO"):
        return
    value = primitive_value(primitive, node, slot.widget)
    if isinstance(value, str) and primitive.properties.get(REPLACING):
        value = replaced(value)
    for found in targets:
        widget = found[0].widget(found[1].widget) if found else None
        if widget is not None and value is not MISSING:
            widget.set(rounded(value, widget.type, widget.options))


def primitive_value(primitive: Node, node: Node, widget: str | None) -> Any:
    """The saved value; without one that of the widget which the primitive was made for."""
    if isinstance(primitive.values, list) and primitive.values:
        return primitive.values[0]
    source = node.widget(widget)
    return source.value if source is not None else MISSING
