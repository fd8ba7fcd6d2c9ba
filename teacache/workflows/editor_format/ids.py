"""Ids of nodes: one for each node of a file, its subgraphs included, as the editor gives them."""

from __future__ import annotations

from typing import Any

from .scene import Document, Scene


def renumber(document: Document, data: dict[str, Any]) -> None:
    """Gives nodes in subgraphs whose id is taken the next free number.

    The editor does so when it opens a file, since early 2026. Prompts from it have these ids.
    """
    state = data.get("state")
    last = state.get("lastNodeId") if isinstance(state, dict) else data.get("last_node_id")
    last = last if isinstance(last, int) else 0
    taken = set(document.root.nodes)
    reserved = {int(node_id) for node_id in taken if is_number(node_id)}
    changed: dict[str, dict[str, str]] = {}
    for scene in document.in_file_order:
        new: dict[str, str] = {}
        for node_id in scene.nodes:
            if node_id in taken:
                last += 1
                while last in reserved:
                    last += 1
                new[node_id] = str(last)
            elif is_number(node_id):
                last = max(last, int(node_id))
            taken.add(new.get(node_id, node_id))
            if is_number(new.get(node_id, node_id)):
                reserved.add(int(new.get(node_id, node_id)))
        if new:
            rename(scene, new)
            changed[scene.id] = new
    for scene in document.scenes:
        for node in scene.nodes.values():
            shown = node.properties.get("proxyWidgets")
            if node.kind in changed and isinstance(shown, list):
                names = changed[node.kind]
                entries = [
                    [names.get(str(entry[0]), entry[0]), *entry[1:]]
                    if isinstance(entry, list) and entry
                    else entry
                    for entry in shown
                ]
                node.properties = node.properties | {"proxyWidgets": entries}


def rename(scene: Scene, new: dict[str, str]) -> None:
    """Gives nodes of one graph new ids, in its links as well."""
    for node in scene.nodes.values():
        node.id = new.get(node.id, node.id)
    scene.nodes = {node.id: node for node in scene.nodes.values()}
    for link in scene.links.values():
        link.origin = new.get(link.origin, link.origin)
        link.target = new.get(link.target, link.target)


def is_number(node_id: str) -> bool:
    return node_id.isascii() and node_id.isdigit() and len(node_id) < 16
