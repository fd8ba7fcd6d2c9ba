"""Apply TeaCache put into a graph, on every model that is sampled."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import DEFAULT_THRESHOLD, TeaCacheConfig
from ..errors import UserError, listing
from .definitions import Definitions, NodeKind, input_specs
from .graph import Graph, describe, is_link
from .model_lines import APPLY_TO, adds_cache, line_type, node_kind, samples
from .selection import APPLY

Settings = dict[str, Any]
"""{widget: value} of Apply TeaCache."""
TITLES = {"ApplyTeaCache": "Apply TeaCache", "ApplyTeaCacheDiffusers": "Apply TeaCache (diffusers)"}
"""{class: the name that the editor shows}."""


@dataclass(frozen=True)
class Insertion:
    """One Apply TeaCache that was put into a graph.

    Attributes:
        node: its id.
        class_type: its class.
        source: the node whose output it takes.
        consumers: the nodes that take its output.
        subgraph: the name of the subgraph that it is in; empty for the graph itself.
    """

    node: str
    class_type: str
    source: str
    consumers: tuple[str, ...]
    subgraph: str = ""

    def __str__(self) -> str:
        place = f", in subgraph {self.subgraph!r}" if self.subgraph else ""
        return (
            f"{TITLES[self.class_type]} put in as node {self.node}, between {self.source} and "
            f"{listing(self.consumers)}{place}"
        )


@dataclass(frozen=True)
class Outcome:
    """What came of putting Apply TeaCache into a graph.

    Attributes:
        insertions: the nodes that were put in.
        present: the caches that the graph had, for which it was left as it is.
    """

    insertions: tuple[Insertion, ...] = ()
    present: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.insertions or self.present)

    def lines(self) -> list[str]:
        """What was done, for the user."""
        if self.present:
            return [f"the workflow has its cache and is left as it is: {listing(self.present)}"]
        return [str(insertion) for insertion in self.insertions]

    def to_json(self) -> dict[str, Any]:
        """The entry of a report."""
        made = [dataclasses.asdict(insertion) for insertion in self.insertions]
        return {"inserted": made, "present": list(self.present)}


def insert_cache(graph: Graph, config: TeaCacheConfig, definitions: Definitions) -> Outcome:
    """Puts one Apply TeaCache behind every output that a node samples from.

    It is the last patch before the sampler. Nodes that only read the model's settings, such as
    schedulers, keep their links.

    Args:
        graph: changed in place, unless it has a cache: this pack's, or another one's.
        config: the settings of the inserted nodes; a threshold of None is the recommended one.
        definitions: of every node class.

    Returns:
        What was put in: nothing where no node samples a model.

    Raises:
        UserError: the node class is unknown, or lacks a setting.
    """
    present = [node for node in graph if adds_cache(graph[node]["class_type"])]
    if present:
        return Outcome(present=tuple(describe(graph, node) for node in present))
    lines = model_lines(graph, definitions)
    kinds = {apply: widgets(apply, config, definitions) for apply, _ in lines.values()}
    number = next_id(graph)
    insertions = []
    for (origin, slot), (apply, consumers) in lines.items():
        inserted, number = str(number), number + 1
        insertions.append(
            Insertion(
                inserted,
                apply,
                describe(graph, origin),
                tuple(dict.fromkeys(describe(graph, node) for node, _ in consumers)),
            )
        )
        for node, name in consumers:
            graph[node]["inputs"][name] = [inserted, 0]
        graph[inserted] = {
            "class_type": apply,
            "inputs": {APPLY[apply]: [origin, slot], **kinds[apply]},
            "_meta": {"title": TITLES[apply]},
        }
    return Outcome(tuple(insertions))


Lines = dict[tuple[str, int], tuple[str, list[tuple[str, str]]]]
"""{(node, output slot): (class that adds the cache, [(sampling node, input)])}."""


def model_lines(graph: Graph, definitions: Definitions) -> Lines:
    """The outputs that nodes sample from, with these nodes; none that is cached further up."""
    kinds = {node: node_kind(definitions, graph[node]["class_type"]) for node in graph}
    sampling = {
        node
        for node, kind in kinds.items()
        if samples(graph[node]["class_type"], kind.inputs, kind.outputs)
    }
    lines: Lines = {}
    for node in graph:
        for name, link in line_inputs(graph, node, kinds) if node in sampling else ():
            kind = line_type(type_of(kinds, node, name, link)) or ""
            if not returned_by_sampler(graph, link[0], kinds, sampling):
                apply = APPLY_TO[kind]
                lines.setdefault((link[0], link[1]), (apply, []))[1].append((node, name))
    return lines


def line_inputs(
    graph: Graph, node: str, kinds: Mapping[str, NodeKind]
) -> list[tuple[str, list[Any]]]:
    """The inputs of a node through which it gets models or pipelines, with their links."""
    return [
        (name, value)
        for name, value in graph[node]["inputs"].items()
        if is_link(value) and line_type(type_of(kinds, node, name, value))
    ]


def type_of(kinds: Mapping[str, NodeKind], node: str, name: str, link: list[Any]) -> str:
    """The type of an input; that of the linked output where the class does not name the input."""
    if name in kinds[node].inputs:
        return kinds[node].inputs[name]
    outputs = kinds[link[0]].outputs
    return outputs[link[1]] if link[1] < len(outputs) else ""


def returned_by_sampler(
    graph: Graph, node: str, kinds: Mapping[str, NodeKind], sampling: set[str]
) -> bool:
    """Whether a model comes out of a node that samples it, where it has its cache already."""
    waiting = [node]
    for seen in waiting:
        if seen in sampling:
            return True
        further = [link[0] for _, link in line_inputs(graph, seen, kinds)]
        waiting += [other for other in further if other not in waiting]
    return False


def widgets(apply: str, config: TeaCacheConfig, definitions: Definitions) -> Settings:
    """The value of every widget of the class `apply`, in the order of its definition.

    Raises:
        UserError: the class is unknown, or has no widget for a setting of `config`.
    """
    if apply not in definitions:
        raise UserError(f"no node type {apply!r} in this ComfyUI: install this pack there")
    specs = input_specs(definitions[apply]["input"])
    defaults = {name: default_of(kind, options) for name, (kind, options) in specs.items()}
    defaults.pop(APPLY[apply])
    wanted = settings_of(config)
    usual = settings_of(TeaCacheConfig(rel_l1_thresh=None))
    for name, value in wanted.items():
        if name not in defaults and value != usual[name]:
            raise UserError(f"{name}: {TITLES[apply]} has no such widget; it has {list(defaults)}")
    return defaults | {name: value for name, value in wanted.items() if name in defaults}


def default_of(kind: Any, options: Mapping[str, Any]) -> Any:
    """The value of a new widget."""
    choices = kind if isinstance(kind, list) else options.get("options")
    return options.get("default", choices[0] if choices else None)


def settings_of(config: TeaCacheConfig) -> Settings:
    """The widgets' values for a config: without a threshold, auto_threshold is on."""
    values = dataclasses.asdict(config)
    del values["coefficients"]
    recommended = config.rel_l1_thresh is None
    values["auto_threshold"] = recommended
    if recommended:
        values["rel_l1_thresh"] = DEFAULT_THRESHOLD
    return values


def next_id(graph: Graph) -> int:
    """The first number above those in all ids: 117 where there is a node 116:104."""
    numbers = [int(part) for node in graph for part in re.findall(r"\d+", node)]
    return max(numbers, default=0) + 1
