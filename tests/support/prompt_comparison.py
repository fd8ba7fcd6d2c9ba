"""Whether two prompts in the API format execute alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Prompt = dict[str, dict[str, Any]]
Definitions = dict[str, dict[str, Any]]
RENDERED = ("image", "mask", "normal")
"""Pictures that the page takes of a 3D view and uploads when a prompt is queued: in no file."""
DATED = re.compile(r"%(?:date:[^%]*|year|month|day|hour|minute|second)%")


def differences(page: Prompt, ours: Prompt, definitions: Definitions, dated: bool) -> list[str]:
    """What the execution of two prompts would hand to nodes differently, a line each.

    Only nodes that are executed count: the output nodes and what they read, directly or not. Where
    a prompt has no output node (a blueprint), the nodes that no other reads are taken for them.

    Args:
        definitions: of every node class, as the server answers `GET /object_info`.
        dated: whether the file writes dates into its values; digits in texts then do not count.
    """
    lines = []
    executed = {*reached(page, definitions), *reached(ours, definitions)}
    for node_id in sorted(executed):
        if node_id not in page or node_id not in ours:
            lines.append(f"{node_id}: only in the {'page' if node_id in page else 'conversion'}")
            continue
        kind, other = page[node_id]["class_type"], ours[node_id]["class_type"]
        if kind != other:
            lines.append(f"{node_id}: {kind} in the page, {other} in the conversion")
            continue
        wanted, got = (passed(prompt[node_id], definitions[kind], dated) for prompt in (page, ours))
        lines += [
            f"{node_id} ({kind}).{name}: {shown(wanted, name)} in the page, {shown(got, name)} in"
            " the conversion"
            for name in sorted(wanted.keys() | got.keys())
            if name not in wanted or name not in got or not same(wanted[name], got[name])
        ]
    return lines


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
        if node_id not in found:
            found.add(node_id)
            waiting += sources.get(node_id, ())
    return found


def passed(node: dict[str, Any], definition: dict[str, Any], dated: bool) -> dict[str, Any]:
    """The inputs that reach a node: all links, and the values of inputs that its class declares.

    An input that grew or that depends on a choice is called NAME.PART after the declared NAME.
    """
    declared = {
        name: spec for group in definition["input"].values() for name, spec in group.items()
    }
    values = {
        name: masked(value) if dated else value
        for name, value in node["inputs"].items()
        if is_link(value) or name in declared or name.split(".")[0] in declared
    }
    for name, value in values.items():
        if isinstance(value, dict) and declared.get(name, ())[:1] == ["LOAD_3D"]:
            values[name] = {key: value[key] for key in value.keys() - RENDERED}
    return values


def is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def masked(value: Any) -> Any:
    return re.sub(r"\d", "0", DATED.sub("0", value)) if isinstance(value, str) else value


def same(first: Any, second: Any) -> bool:
    """Equality in which true is not 1, and 1 is 1.0: JavaScript writes both alike."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


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
