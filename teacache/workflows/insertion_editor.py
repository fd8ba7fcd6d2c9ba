"""Apply TeaCache put into a file of the editor, and taken out of it, with the layout kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..config import TeaCacheConfig
from .definitions import Definitions, input_specs
from .editor_scope import Data, Scope, checked, get, put
from .insertion import Insertion, Outcome, Settings, widgets
from .model_lines import APPLY_TO, adds_cache, line_type, node_kind, samples
from .placement import Surroundings, place
from .selection import APPLY

REGISTRY_NAME = "teacache-studio"
"""Of this pack, which the editor's manager installs where a node is missing."""
OUTPUTS = {"ApplyTeaCache": "MODEL", "ApplyTeaCacheDiffusers": "pipeline"}
"""{class: the name of its output}."""
SIZE = (300.0, 298.0)
"""Of the node in the editor, with the widgets folded that are folded there."""
MUTED, BYPASSED = 2, 4
"""Modes of nodes that do not run."""
OPTIONAL = 7
"""The shape of an optional input's slot."""


@dataclass
class Line:
    """One output of a graph that nodes sample from, and the links of these nodes.

    Attributes:
        apply: the class that adds the cache.
        origin, slot: the node and its output.
        shared: the reroutes at the start of the links that other links run through as well.
        links: the ids of the links.
    """

    apply: str
    origin: int
    slot: int
    shared: tuple[int, ...]
    links: list[int] = field(default_factory=list)


def insert_into_file(
    data: Data, config: TeaCacheConfig, definitions: Definitions, source: str
) -> Outcome:
    """Puts one Apply TeaCache behind every output that a node samples from, in subgraphs too.

    Links keep their ids and reroutes; no node is moved. A node whose samplers are all muted, or
    all bypassed, is so too.

    Args:
        data: the file's JSON, changed in place, unless it has an Apply TeaCache, or another
            pack's cache that is neither muted nor bypassed.
        config: the settings of the inserted nodes; a threshold of None is the recommended one.
        definitions: of every node class; the slots of others are taken from the file.
        source: the file's name for messages.

    Raises:
        UserError: the file is damaged, or the node class is unknown or lacks a setting.
    """
    scopes = checked(data, source)
    present = present_nodes(scopes, is_present)
    if present:
        return Outcome(present=present)
    insertions = []
    values: dict[str, Settings] = {}
    for scope in scopes:
        for line in model_lines(scope, definitions):
            if line.apply not in values:
                values[line.apply] = widgets(line.apply, config, definitions)
            insertions.append(insert(scope, line, definitions, values[line.apply]))
    return Outcome(tuple(insertions))


def remove_from_file(data: Data, source: str) -> tuple[str, ...]:
    """Takes every Apply TeaCache out; what it was linked to is linked directly.

    Args:
        data: the file's JSON, changed in place.
        source: the file's name for messages.

    Returns:
        The removed nodes.

    Raises:
        UserError: the file is damaged.
    """
    scopes = checked(data, source)
    removed = present_nodes(scopes, is_ours)
    for scope in scopes:
        for node in [node for node in scope.nodes.values() if is_ours(node)][::-1]:
            remove(scope, node)
    return removed


def is_ours(node: Data) -> bool:
    """Whether a node is Apply TeaCache."""
    return node["type"] in APPLY


def is_present(node: Data) -> bool:
    """Whether a node is Apply TeaCache, or a cache of another pack that is in use."""
    in_use = node.get("mode") not in (MUTED, BYPASSED)
    return is_ours(node) or (in_use and adds_cache(node["type"]))


def present_nodes(scopes: list[Scope], wanted: Callable[[Data], bool]) -> tuple[str, ...]:
    """The nodes that are `wanted`, for messages."""
    return tuple(
        scope.describe(node) + (f" in subgraph {scope.name!r}" if scope.name else "")
        for scope in scopes
        for node in scope.nodes
        if wanted(scope.nodes[node])
    )


def model_lines(scope: Scope, definitions: Definitions) -> list[Line]:
    """The outputs of a graph that its nodes sample from; none that is cached further up."""
    sampling = {
        node_id for node_id, node in scope.nodes.items() if is_sampling(scope, node, definitions)
    }
    moved = {
        get(link, "id"): line_type(slot["type"]) or ""
        for node_id in sampling
        for slot, link in scope.incoming(scope.nodes[node_id])
        if line_type(slot["type"])
        and not returned_by_sampler(scope, get(link, "origin_id"), sampling)
    }
    lines: dict[tuple[Any, ...], Line] = {}
    for link_id in sorted(moved):
        link = scope.links[link_id]
        line = Line(
            APPLY_TO[moved[link_id]],
            get(link, "origin_id"),
            get(link, "origin_slot"),
            shared_reroutes(scope, link_id, moved),
        )
        key = (line.origin, line.slot, line.shared)
        lines.setdefault(key, line).links.append(link_id)
    return list(lines.values())


def is_sampling(scope: Scope, node: Data, definitions: Definitions) -> bool:
    """Whether a node samples the model that it is linked to; no instance of a subgraph does."""
    if is_subgraph(scope, node["type"]):
        return False
    slots = {slot["name"]: str(slot["type"]) for slot in node.get("inputs") or []}
    kind = node_kind(definitions, node["type"])
    outputs = kind.outputs or [str(slot["type"]) for slot in node.get("outputs") or []]
    return samples(node["type"], kind.inputs | slots, outputs)


def is_subgraph(scope: Scope, kind: str) -> bool:
    """Whether a node's type is a subgraph of the file."""
    subgraphs = (scope.root.get("definitions") or {}).get("subgraphs") or []
    return any(subgraph["id"] == kind for subgraph in subgraphs)


def returned_by_sampler(scope: Scope, node_id: int, sampling: set[int]) -> bool:
    """Whether a model comes out of a node that samples it, where it has its cache already."""
    waiting = [node_id]
    for seen in waiting:
        if seen in sampling:
            return True
        for slot, link in scope.incoming(scope.nodes[seen]) if seen in scope.nodes else ():
            if line_type(slot["type"]) and get(link, "origin_id") not in waiting:
                waiting.append(get(link, "origin_id"))
    return False


def shared_reroutes(scope: Scope, link_id: int, moved: Mapping[int, str]) -> tuple[int, ...]:
    """The reroutes at the start of a link up to the last that a link which stays runs through."""
    known, chain = scope.reroutes(), scope.chain(link_id)
    shared = [
        number
        for number, reroute in enumerate(chain, 1)
        if any(other not in moved for other in known[reroute].get("linkIds") or [])
    ]
    return tuple(chain[: max(shared, default=0)])


def insert(scope: Scope, line: Line, definitions: Definitions, values: Settings) -> Insertion:
    """Puts one node into a graph: a new link leads to it, those to the samplers start at it."""
    node_id, link_id = scope.new_id("node"), scope.new_id("link")
    targets = [scope.links[link] for link in line.links]
    ends = [scope.input_at(get(link, "target_id"), get(link, "target_slot")) for link in targets]
    around = Surroundings(
        scope.output_at(line.origin, line.slot), ends, scope.boxes(), scope.groups()
    )
    modes = {scope.nodes[get(link, "target_id")].get("mode", 0) for link in targets}
    node = {
        "id": node_id,
        "type": line.apply,
        "pos": list(place(SIZE, around)),
        "size": list(SIZE),
        "flags": {},
        "order": len(scope.nodes),
        "mode": modes.pop() if len(modes) == 1 else 0,
        "inputs": slots(line.apply, definitions, values, link_id),
        "outputs": [slot(OUTPUTS[line.apply], type_of(line.apply), {"links": [*line.links]})],
        "properties": {
            "cnr_id": REGISTRY_NAME,
            "ver": __version__,
            "Node name for S&R": line.apply,
        },
        "widgets_values": [*values.values()],
    }
    outgoing = scope.outgoing(line.origin, line.slot)
    staying = [link for link in outgoing if link not in line.links]
    scope.set_outgoing(line.origin, line.slot, [*staying, link_id])
    scope.add_node(node)
    scope.add_link(link_id, line.origin, line.slot, node_id, 0, type_of(line.apply))
    move_reroutes(scope, line.shared, line.links, [link_id])
    for link in targets:
        put(link, "origin_id", node_id)
        put(link, "origin_slot", 0)
    return Insertion(
        str(node_id),
        line.apply,
        scope.describe(line.origin),
        tuple(dict.fromkeys(scope.describe(get(link, "target_id")) for link in targets)),
        scope.name,
    )


def type_of(apply: str) -> str:
    """The type that a class adds the cache to."""
    return next(kind for kind, name in APPLY_TO.items() if name == apply)


def slot(name: str, kind: str, rest: Mapping[str, Any]) -> Data:
    """A slot as the editor saves it."""
    return {"localized_name": name, "name": name, "type": kind, **rest}


def slots(apply: str, definitions: Definitions, values: Settings, link_id: int) -> list[Data]:
    """The inputs of a new node: the linked one, and one for each widget."""
    inputs = definitions[apply]["input"]
    found = [slot(APPLY[apply], type_of(apply), {"link": link_id})]
    for name, (kind, _) in input_specs(inputs).items():
        if name in values:
            shape = {"shape": OPTIONAL} if name in inputs.get("optional", {}) else {}
            shown = "COMBO" if isinstance(kind, list) else kind
            found.append(slot(name, shown, {**shape, "widget": {"name": name}, "link": None}))
    return found


def move_reroutes(
    scope: Scope, reroutes: tuple[int, ...], origins: list[int], targets: list[int]
) -> None:
    """Hands the reroutes at the start of some links to other links, and the rest its new start.

    Args:
        scope: the graph.
        reroutes: from the links' origin on.
        origins: the ids of the links that run through them.
        targets: the ids of those that shall.
    """
    if not reroutes:
        return
    known = scope.reroutes()
    for reroute in known.values():
        follows = reroute["id"] not in reroutes and reroute.get("parentId") == reroutes[-1]
        if follows and set(reroute.get("linkIds") or []) & set(origins):
            del reroute["parentId"]
    for link in origins:
        if scope.chain(link) == list(reroutes):
            scope.set_parent(link, None)
    for reroute_id in reroutes:
        ids = [link for link in known[reroute_id].get("linkIds") or [] if link not in origins]
        known[reroute_id]["linkIds"] = ids + targets
    for link in targets:
        scope.set_parent(link, reroutes[-1])


def remove(scope: Scope, node: Data) -> None:
    """Takes one Apply TeaCache out of a graph."""
    apply = node["type"]
    incoming = [link for entry, link in scope.incoming(node) if entry["name"] == APPLY[apply]]
    followers = [link for link in scope.outgoing(node["id"], 0) if link in scope.links]
    for _, link in list(scope.incoming(node)):
        origin, slot_index = get(link, "origin_id"), get(link, "origin_slot")
        replaced = followers if link in incoming else []
        prepend_reroutes(scope, scope.chain(get(link, "id")), get(link, "id"), replaced)
        staying = [each for each in scope.outgoing(origin, slot_index) if each != get(link, "id")]
        scope.set_outgoing(origin, slot_index, staying + replaced)
        for follower in replaced:
            put(scope.links[follower], "origin_id", origin)
            put(scope.links[follower], "origin_slot", slot_index)
        scope.remove_link(get(link, "id"))
    if not incoming:
        for follower in followers:
            cut(scope, follower)
    scope.remove_node(node["id"])


def prepend_reroutes(scope: Scope, chain: list[int], link_id: int, followers: list[int]) -> None:
    """Puts the reroutes of the link to a removed node before those of the links from it."""
    known = scope.reroutes()
    for follower in followers if chain else ():
        own = scope.chain(follower)
        if own:
            known[own[0]]["parentId"] = chain[-1]
        else:
            scope.set_parent(follower, chain[-1])
    for reroute in chain:
        ids = [link for link in known[reroute].get("linkIds") or [] if link != link_id]
        known[reroute]["linkIds"] = ids + followers


def cut(scope: Scope, link_id: int) -> None:
    """Removes a link that starts nowhere."""
    link = scope.links[link_id]
    target = scope.nodes.get(get(link, "target_id"))
    for entry in (target or {}).get("inputs") or []:
        if entry.get("link") == link_id:
            entry["link"] = None
    scope.remove_link(link_id)
