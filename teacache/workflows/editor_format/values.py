"""The values of a file for the widgets of a node: in their order, or by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .scene import Node
from .widgets import CHOOSING, MISSING, SEEDS, Widget

AFTER_RUN = ("fixed", "increment", "decrement", "randomize", "increment-wrap")


def place(widgets: Sequence[Widget], values: Sequence[Any] | dict[str, Any]) -> None:
    """Sets widgets to values, in their order or by name; a choice may add widgets behind itself.

    Widgets without a value keep theirs, and surplus values are left out.
    """
    if isinstance(values, dict):
        for widget in widgets:
            if widget.name in values and widget.saved:
                widget.set(values[widget.name])
        return
    waiting = iter(values)
    for widget in widgets:
        if widget.saved:
            value = next(waiting, MISSING)
            if value is MISSING:
                return
            widget.set(value)


def misplaced(widgets: Iterable[Widget]) -> bool:
    """Whether a value can't belong to its widget: the class has other widgets than the file."""
    return any(not fitting(widget) for widget in widgets if widget.queued)


def fitting(widget: Widget) -> bool:
    value = widget.value
    if value is MISSING or value is None:
        return True
    if widget.type in ("INT", "FLOAT"):
        return is_number(value, widget)
    if widget.type == "BOOLEAN":
        return isinstance(value, bool)
    if widget.type == "STRING":
        return isinstance(value, str)
    choices = widget.options.get("options") or ()
    if widget.type == CHOOSING:
        return value in choices
    texts = isinstance(choices, (list, tuple)) and all(isinstance(c, str) for c in choices)
    return not (widget.type == "COMBO" and choices and texts) or isinstance(value, str)


def is_number(value: Any, widget: Widget) -> bool:
    """Whether a value is a number in the range of the widget, without fraction for an INT."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    low, high = widget.options.get("min", value), widget.options.get("max", value)
    return bool(low <= value <= high) and (widget.type == "FLOAT" or value % 1 == 0)


def by_name(node: Node) -> dict[str, Any] | None:
    """The values of a node by the names of its widgets, if the file tells the names."""
    if node.named is not None:
        return node.named
    if not isinstance(node.values, list):
        return None
    names = [slot.widget for slot in node.inputs if slot.widget is not None]
    values, position = {}, 0
    for name in names:
        if position >= len(node.values):
            return None
        values[name] = node.values[position]
        position += 1
        after = node.values[position : position + 1]
        if name.split(".")[-1] in SEEDS and after and after[0] in AFTER_RUN:
            position += 1
    return values if position == len(node.values) else None
