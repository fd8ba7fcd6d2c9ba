"""Widgets that the page code of well-known packs makes, beside those of the node's class."""

from __future__ import annotations

from .scene import Node
from .widgets import Widget

LORAS = "Power Lora Loader (rgthree)"


def pack_widgets(node: Node, known: set[str]) -> list[Widget]:
    """The widgets whose values a file holds under names of their own or as objects.

    Args:
        node: the node.
        known: the names of the widgets of its class.
    """
    if node.kind == LORAS and isinstance(node.values, list):
        loras = [v for v in node.values if isinstance(v, dict) and isinstance(v.get("lora"), str)]
        return [Widget(f"lora_{number}", value=lora) for number, lora in enumerate(loras, start=1)]
    if isinstance(node.values, dict):  # the class takes what its page code adds
        plain = {name: v for name, v in node.values.items() if not isinstance(v, (dict, list))}
        return [Widget(name, value=v) for name, v in plain.items() if name not in known]
    return []


def unread_values(node: Node, known: int) -> bool:
    """Whether values beyond those of the class are objects, which its page code would read."""
    if not isinstance(node.values, list) or node.kind == LORAS:
        return False
    return any(isinstance(value, dict) and value for value in node.values[known:])
