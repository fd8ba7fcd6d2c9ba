"""A file saved by the editor, graph by graph: nodes, links and reroutes in either notation.

The file's own graph holds links as lists and reroutes under `extra`; the definition of a subgraph
holds links as objects and has nodes of its own for its inputs (-10) and outputs (-20).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .placement import FIRST_SLOT, SLOT, Box, Point

FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
"""The entries of a link as a list, by their names in a link as an object."""
INPUT_NODE = -10
Data = dict[str, Any]


def scopes(data: Data) -> list[Scope]:
    """The file's own graph, and the definition of every subgraph that is used in it."""
    subgraphs = {
        each["id"]: each for each in (data.get("definitions") or {}).get("subgraphs") or []
    }
    found, waiting = [Scope(data, data)], [data]
    for graph in waiting:
        for node in graph["nodes"]:
            inner = subgraphs.pop(node["type"], None)
            if inner is not None:
                found.append(Scope(data, inner))
                waiting.append(inner)
    return found


class Scope:
    """One graph of a file; everything is read from the file's data and written to it.

    Args:
        root: the whole file.
        data: the graph: `root`, or the definition of a subgraph in it.
    """

    def __init__(self, root: Data, data: Data) -> None:
        self.root, self.data = root, data
        self.name: str = "" if data is root else data["name"]
        self.nodes: dict[int, Data] = {node["id"]: node for node in data["nodes"]}
        self.links: dict[int, Any] = {get(link, "id"): link for link in data["links"] or []}

    def describe(self, node_id: int) -> str:
        """A node for messages."""
        if node_id == INPUT_NODE:
            return "the subgraph's input"
        node = self.nodes[node_id]
        title, kind = node.get("title") or node["type"], node["type"]
        return f"{node_id} ({kind})" if title == kind else f"{node_id} ({kind}, {title!r})"

    def incoming(self, node: Data) -> Iterator[tuple[Data, Any]]:
        """The linked inputs of a node with their links."""
        for slot in node.get("inputs") or []:
            if slot.get("link") in self.links:
                yield slot, self.links[slot["link"]]

    def outgoing(self, node_id: int, slot: int) -> list[int]:
        """The ids of an output's links."""
        holder, key = self._output(node_id, slot)
        return [*(holder.get(key) or [])]

    def set_outgoing(self, node_id: int, slot: int, links: list[int]) -> None:
        """Sets the ids of an output's links."""
        holder, key = self._output(node_id, slot)
        holder[key] = links

    def _output(self, node_id: int, slot: int) -> tuple[Data, str]:
        if node_id == INPUT_NODE:
            return self.data["inputs"][slot], "linkIds"
        return self.nodes[node_id]["outputs"][slot], "links"

    def output_at(self, node_id: int, slot: int) -> Point:
        """Where an output is drawn."""
        if node_id == INPUT_NODE:
            x, y, width, height = self.data["inputNode"]["bounding"]
            return (x + width, min(y + FIRST_SLOT + SLOT * slot, y + height))
        box = box_of(self.nodes[node_id])
        at = position(self.nodes[node_id])
        return (box.x + box.width, at[1] + FIRST_SLOT + SLOT * slot)

    def input_at(self, node_id: int, slot: int) -> Point:
        """Where an input is drawn."""
        x, y = position(self.nodes[node_id])
        return (x, y + FIRST_SLOT + SLOT * slot)

    def boxes(self) -> list[Box]:
        """The boxes of all nodes, those of the subgraph's own inputs and outputs among them."""
        ends = [self.data[end]["bounding"] for end in ("inputNode", "outputNode") if self.name]
        return [*map(box_of, self.nodes.values()), *(Box(*bounding) for bounding in ends)]

    def groups(self) -> list[Box]:
        """The boxes of all groups."""
        return [Box(*group["bounding"]) for group in self.data.get("groups") or []]

    def add_node(self, node: Data) -> None:
        self.data["nodes"].append(node)
        self.nodes[node["id"]] = node
        self._count("node", node["id"])

    def remove_node(self, node_id: int) -> None:
        self.data["nodes"].remove(self.nodes.pop(node_id))
        self._uncount("node", node_id)

    def add_link(self, *values: Any) -> None:
        """Adds a link to the table; `values` are those of `FIELDS`."""
        link = list(values) if self.data is self.root else dict(zip(FIELDS, values, strict=True))
        self.data["links"].append(link)
        self.links[values[0]] = link
        self._count("link", values[0])

    def remove_link(self, link_id: int) -> None:
        self.set_parent(link_id, None)
        self.data["links"].remove(self.links.pop(link_id))
        self._uncount("link", link_id)

    def new_id(self, kind: str) -> int:
        """The id after the graph's last `node` or `link` that is unused in the whole file."""
        used: set[int] = set()
        for scope in scopes(self.root):
            used |= scope.nodes.keys() if kind == "node" else scope.links.keys()
        counter, key = self._counter(kind)
        new: int = max([counter.get(key, 0), *(self.nodes if kind == "node" else self.links)]) + 1
        while new in used:
            new += 1
        return new

    def _counter(self, kind: str) -> tuple[Data, str]:
        """Where the graph keeps the last id that it gave."""
        if self.data is self.root:
            return self.root, f"last_{kind}_id"
        return self.data.setdefault("state", {}), {"node": "lastNodeId", "link": "lastLinkId"}[kind]

    def _count(self, kind: str, new: int) -> None:
        counter, key = self._counter(kind)
        counter[key] = new

    def _uncount(self, kind: str, removed: int) -> None:
        """Gives the id back if it was the last one."""
        counter, key = self._counter(kind)
        if counter.get(key) == removed:
            counter[key] = removed - 1

    def reroutes(self) -> dict[int, Data]:
        """The reroutes on links."""
        holder = self.data if "reroutes" in self.data else self.data.get("extra") or {}
        return {reroute["id"]: reroute for reroute in holder.get("reroutes") or []}

    def chain(self, link_id: int) -> list[int]:
        """The reroutes that a link runs through, from its origin on."""
        known = self.reroutes()
        found: list[int] = []
        parent = self._parent(link_id)
        while parent in known and parent not in found:
            found.insert(0, parent)
            parent = known[parent].get("parentId")
        return found

    def _parent(self, link_id: int) -> int | None:
        link = self.links[link_id]
        if isinstance(link, dict):
            return link.get("parentId")
        return next((e["parentId"] for e in self._extensions() if e["id"] == link_id), None)

    def set_parent(self, link_id: int, reroute: int | None) -> None:
        """Sets the reroute that a link runs through last; None for none."""
        link = self.links[link_id]
        if isinstance(link, dict):
            link.pop("parentId", None)
            if reroute is not None:
                link["parentId"] = reroute
            return
        extensions = [each for each in self._extensions() if each["id"] != link_id]
        if reroute is not None:
            extensions.append({"id": link_id, "parentId": reroute})
        if extensions or self._extensions():
            self.data["extra"]["linkExtensions"] = extensions

    def _extensions(self) -> list[Data]:
        return (self.data.get("extra") or {}).get("linkExtensions") or []


def get(link: Any, name: str) -> Any:
    """A field of a link in either notation."""
    return link[name] if isinstance(link, dict) else link[FIELDS.index(name)]


def put(link: Any, name: str, value: Any) -> None:
    """Sets a field of a link in either notation."""
    link[name if isinstance(link, dict) else FIELDS.index(name)] = value


def position(node: Data) -> Point:
    """Where a node is drawn; its position is saved as a list or by index."""
    return pair(node["pos"])


def box_of(node: Data) -> Box:
    """The box of a node."""
    return Box.of_node(position(node), pair(node["size"]))


def pair(value: Any) -> Point:
    """Two numbers from a list, or from an object with the keys 0 and 1."""
    first, second = value.values() if isinstance(value, dict) else value
    return (float(first), float(second))


def checked(data: Data, source: str) -> list[Scope]:
    """The graphs of a file; `UserError` for one whose nodes or links are damaged."""
    try:
        found = scopes(data)
        for scope in found:
            scope.boxes()
            scope.groups()
            for node in scope.nodes.values():
                for slot, link in scope.incoming(node):
                    scope.outgoing(get(link, "origin_id"), get(link, "origin_slot"))
                    scope.input_at(get(link, "target_id"), get(link, "target_slot"))
                    _ = slot["name"], slot["type"]
        return found
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{source}: nodes or links are damaged ({error!r})") from None
