"""Whether two prompts in the API format execute alike."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from declared_inputs import Definitions, declared, is_declared, is_link, misplaced

Prompt = dict[str, dict[str, Any]]
RENDERED = ("image", "mask", "normal")
"""Pictures that the page takes of a 3D view and uploads when a prompt is queued: in no file."""
DATED = re.compile(r"%(?:date:[^%]*|year|month|day|hour|minute|second)%")


class Passed(NamedTuple):
    """A node's class, and the inputs that the execution hands to it."""

    kind: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """How two prompts differ.

    Attributes:
        lines: What the execution would hand to nodes differently, a line each.
        misplaced: Nodes whose values can't be theirs in the page. They are not compared.
    """

    lines: list[str]
    misplaced: list[str]


def compare(page: Prompt, ours: Prompt, definitions: Definitions, dated: bool) -> Comparison:
    """Compares what the execution of two prompts would hand to nodes.

    Only nodes that are executed count: the output nodes and what they read, directly or not. Where
    a prompt has no output node (a blueprint), the nodes that no other reads are taken for them.
    Nodes may have other ids: prompts are alike if their nodes are, each with all that it reads.

    A page that opens a file of another version can put values at the wrong widgets: a text for a
    number, a number for a choice. Such a node's values do not count, if `ours` has none like that.

    Args:
        definitions: of every node class, as the server answers `GET /object_info`.
        dated: whether the file writes dates into its values; digits in texts then do not count.
    """
    executed = reached(page, definitions) & ours.keys()
    wrong = [
        node_id
        for node_id in sorted(executed)
        if is_wrong(page[node_id], ours[node_id], definitions)
    ]
    first, second = (
        {
            node_id: passed(prompt[node_id], definitions, dated, node_id in wrong)
            for node_id in reached(prompt, definitions)
        }
        for prompt in (page, ours)
    )
    if Counter(signatures(first).values()) == Counter(signatures(second).values()):
        return Comparison([], wrong)
    return Comparison(list(described(first, second)), wrong)


def is_wrong(page: dict[str, Any], ours: dict[str, Any], definitions: Definitions) -> bool:
    """Whether the page has put a node's values at the wrong widgets, and the conversion has not."""
    if page["class_type"] != ours["class_type"]:
        return False
    wanted, got = page["inputs"], ours["inputs"]
    other = {name for name in wanted if name not in got or text(wanted[name]) != text(got[name])}
    other |= got.keys() - wanted.keys()
    return bool(misplaced(page, definitions) & other) and not misplaced(ours, definitions) & other


def described(page: dict[str, Passed], ours: dict[str, Passed]) -> Iterator[str]:
    """The differences of two prompts, node by node."""
    for node_id in sorted(page.keys() | ours.keys()):
        if node_id not in page or node_id not in ours:
            yield f"{node_id}: only in the {'page' if node_id in page else 'conversion'}"
            continue
        (kind, wanted), (other, got) = page[node_id], ours[node_id]
        if kind != other:
            yield f"{node_id}: {kind} in the page, {other} in the conversion"
            continue
        for name in sorted(wanted.keys() | got.keys()):
            if name not in wanted or name not in got or text(wanted[name]) != text(got[name]):
                yield (
                    f"{node_id} ({kind}).{name}: {shown(wanted, name)} in the page, "
                    f"{shown(got, name)} in the conversion"
                )


def signatures(nodes: dict[str, Passed]) -> dict[str, str]:
    """A digest of each node's class, values, and the digests of the nodes that it reads."""
    found: dict[str, str] = {}

    def of(node_id: str, readers: tuple[str, ...]) -> str:
        if node_id in readers or node_id not in nodes:
            return "a circle" if node_id in readers else "missing"
        if node_id not in found:
            kind, values = nodes[node_id]
            inputs = {
                name: [of(value[0], (*readers, node_id)), value[1]] if is_link(value) else value
                for name, value in values.items()
            }
            found[node_id] = hashlib.sha256(text([kind, inputs]).encode()).hexdigest()
        return found[node_id]

    for node_id in nodes:
        of(node_id, ())
    return found


def reached(prompt: Prompt, definitions: Definitions) -> set[str]:
    """The nodes that the execution of a prompt runs."""
    sources = {
        node_id: {value[0] for value in node["inputs"].values() if is_link(value)}
        for node_id, node in prompt.items()
    }
    ends = {
        node_id
        for node_id, node in prompt.items()
        if definitions.get(node["class_type"], {}).get("output_node")
    }
    waiting = list(ends or prompt.keys() - set().union(*sources.values()))
    found: set[str] = set()
    while waiting:
        node_id = waiting.pop()
        if node_id in prompt and node_id not in found:
            found.add(node_id)
            waiting += sources.get(node_id, ())
    return found


def passed(node: dict[str, Any], definitions: Definitions, dated: bool, only_links: bool) -> Passed:
    """The inputs that reach a node: links, and values that its class declares."""
    specs = declared(node, definitions)
    values = {
        name: masked(value) if dated else value
        for name, value in node["inputs"].items()
        if is_link(value) or (is_declared(name, specs) and not only_links)
    }
    for name, value in values.items():
        if isinstance(value, dict) and specs.get(name, ())[:1] == ["LOAD_3D"]:
            values[name] = {key: value[key] for key in value.keys() - RENDERED}
    return Passed(node["class_type"], values)


def masked(value: Any) -> Any:
    return re.sub(r"\d", "0", DATED.sub("0", value)) if isinstance(value, str) else value


def text(value: Any) -> str:
    """JSON in which 1 is 1.0, as JavaScript writes both alike, with 12 digits of a fraction: a 3D
    view computes its camera anew."""

    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: plain(entry) for name, entry in part.items()}
        if isinstance(part, list):
            return [plain(entry) for entry in part]
        if isinstance(part, float):
            return int(part) if part.is_integer() else float(f"{part:.12g}")
        return part

    return json.dumps(plain(value), sort_keys=True)


def shown(inputs: dict[str, Any], name: str) -> str:
    return repr(inputs[name])[:120] if name in inputs else "absent"


def has_dates(graph: dict[str, Any]) -> bool:
    """Whether a file in the editor's format names a date in the value of a widget."""
    return any(DATED.search(text) for text in texts(graph))


def texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)
