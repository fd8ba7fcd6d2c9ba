"""Nodes called as ComfyUI's executor calls them."""

from __future__ import annotations

from typing import Any


def prepared(class_id: str, unique_id: str = "5", extra_data: dict[str, Any] | None = None) -> Any:
    """The clone of a node class that the executor makes for one call, with its hidden inputs.

    Args:
        unique_id: the node's id in the graph.
        extra_data: what came with the graph, such as `extra_pnginfo`.
    """
    import execution

    import nodes

    kind = nodes.NODE_CLASS_MAPPINGS[class_id]
    *_, hidden = execution.get_input_data({}, kind, unique_id, extra_data=extra_data or {})
    return kind.PREPARE_CLASS_CLONE(hidden)
