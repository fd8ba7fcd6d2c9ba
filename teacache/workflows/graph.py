"""Graphs in API format: read from files, checked, and searched for nodes. Needs no ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError, listing, nearest
from .media import is_media, read_media

Graph = dict[str, dict[str, Any]]
"""{node id: {"class_type": …, "inputs": {name: value or Link}}}"""
Link = list[Any]
"""[node id, output slot]"""
MAX_DEPTH = 100
HOW_TO_EXPORT = "export it in the editor: Workflow menu > Export (API)"


def read_workflow(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or in the metadata of a picture, film or sound there.

    Raises:
        UserError: there is no file, or it holds no such object.
    """
    try:
        with path.open("rb") as file:
            start = file.read(12)
            text = "" if is_media(start) else (start + file.read()).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    try:
        data = read_media(path, start) if is_media(start) else json.loads(text)
    except RecursionError:
        raise UserError(f"{path}: lists and objects lie too deep inside each other") from None
    except json.JSONDecodeError as error:
        state = "is empty" if not text.strip() else "is not complete JSON"
        raise UserError(f"{path} {state}: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a workflow is a JSON object, not a {type(data).__name__}")
    if too_deep(data):
        raise UserError(f"{path}: lists and objects lie too deep inside each other")
    return data


def too_deep(data: Any) -> bool:
    """Whether lists and objects lie more than `MAX_DEPTH` deep inside each other."""
    level = [data]
    for _ in range(MAX_DEPTH):
        parts = [p.values() if isinstance(p, dict) else p for p in level]
        level = [part for p in parts for part in p if isinstance(part, (dict, list))]
        if not level:
            return False
    return True


def is_editor_format(data: dict[str, Any]) -> bool:
    """Whether `data` was saved by the editor with its layout, not exported for execution."""
    return isinstance(data.get("nodes"), list) and "links" in data


def as_graph(data: dict[str, Any], source: str) -> Graph:
    """`data` as an API graph with inputs, links and titles checked; `UserError` otherwise.

    A request body of `POST /prompt` ({"prompt": graph}) is accepted as well.
    """
    if "class_type" not in data and isinstance(data.get("prompt"), dict):
        data = data["prompt"]
    if not data:
        raise UserError(f"{source}: the workflow has no nodes")
    for node_id, node in data.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise UserError(
                f"{source}: {node_id!r} is no node of an API-format workflow (it has no "
                f"class_type); {HOW_TO_EXPORT}"
            )
        if not isinstance(node.setdefault("inputs", {}), dict):
            raise UserError(f"{source}: node {describe(data, node_id)}: inputs must be an object")
    check_links(data, source)
    return data


def is_link(value: object) -> bool:
    """Whether an input's value is [node id, output slot]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


def check_links(graph: Graph, source: str) -> None:
    """Refuses links to missing nodes, and cycles."""
    sources: dict[str, list[str]] = {}
    for node_id, node in graph.items():
        links = [(name, value) for name, value in node["inputs"].items() if is_link(value)]
        for name, value in links:
            if value[0] not in graph:
                raise UserError(
                    f"{source}: node {describe(graph, node_id)}, input {name}: linked to node "
                    f"{value[0]}, which is not in the workflow"
                )
        sources[node_id] = [value[0] for _, value in links]
    while sources:
        ready = [node for node, after in sources.items() if not any(s in sources for s in after)]
        if not ready:
            names = listing(describe(graph, node) for node in sources)
            raise UserError(f"{source}: nodes linked in a circle: {names}")
        for done in ready:
            del sources[done]


def upstream(graph: Graph, node_ids: Iterable[str]) -> set[str]:
    """These nodes and all that they depend on."""
    needed: set[str] = set()
    waiting = list(node_ids)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += [value[0] for value in graph[node]["inputs"].values() if is_link(value)]
    return needed


def downstream(graph: Graph, node_ids: Iterable[str]) -> set[str]:
    """These nodes and all that depend on them."""
    named = set(node_ids)
    return {node for node in graph if upstream(graph, [node]) & named}


def title(graph: Graph, node_id: str) -> str:
    """The node's title, or its class when it has none."""
    meta = graph[node_id].get("_meta")
    named = meta.get("title") if isinstance(meta, dict) else None
    return str(named or graph[node_id]["class_type"])


def describe(graph: Graph, node_id: str) -> str:
    """The node for messages: id, class, and the title where it differs."""
    kind = graph[node_id]["class_type"]
    name = title(graph, node_id)
    return f"{node_id} ({kind})" if name == kind else f"{node_id} ({kind}, {name!r})"


def find_node(graph: Graph, name: str) -> str:
    """The id of the node called `name`: an id, a title, or a class that occurs once."""
    if name in graph:
        return name
    for field in ("title", "class_type"):
        if field == "title":
            matches = [node for node in graph if title(graph, node) == name]
        else:
            matches = [node for node in graph if graph[node]["class_type"] == name]
        if len(matches) > 1:
            raise UserError(
                f"{name!r} names {len(matches)} nodes ({listing(matches)}): use an id instead"
            )
        if matches:
            return matches[0]
    names = [title(graph, node) for node in graph]
    known = {*graph, *names, *(node["class_type"] for node in graph.values())}
    hint = nearest(name, known) or f". Nodes: {listing(names, 20)}"
    raise UserError(f"no node {name!r} in the workflow{hint}")
