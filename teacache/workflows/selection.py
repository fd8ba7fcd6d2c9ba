"""The nodes of a graph that a command works on: caches, sampler, compared picture, prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import UserError, listing
from .definitions import NodeKind
from .graph import Graph, Link, describe, downstream, find_node, is_link

APPLY = {"ApplyTeaCache": "model", "ApplyTeaCacheDiffusers": "pipeline"}
"""{class: the input that the class adds the cache to}."""
DISPLAYS = ("TeaCacheReport", "TeaCacheCompareImages", "TeaCacheSweep")
"""Classes whose pictures show the course of a run, and are not sampled by it."""
SAMPLERS = ("KSampler",)
"""Classes that can be calibrated for."""
NO_PROMPT = ("negative", "model", "vae", "clip")
"""Inputs that carry no positive conditioning."""


def caches_in(graph: Graph) -> list[str]:
    """The nodes that add this pack's cache."""
    return [node for node in graph if graph[node]["class_type"] in APPLY]


def apply_nodes(graph: Graph, named: Sequence[str], source: str) -> list[str]:
    """The Apply TeaCache nodes to vary.

    Args:
        graph: the workflow.
        named: ids, titles or classes; empty for the only such node.
        source: the workflow's name for messages.

    Raises:
        UserError: there is no such node, a named one is of another class, none is named of
            several, or one has nothing to add the cache to.
    """
    every = caches_in(graph)
    if not every:
        raise UserError(
            f"{source}: no Apply TeaCache in the workflow: put one between the model loader and "
            "the sampler"
        )
    chosen = [find_node(graph, name) for name in named]
    for node in chosen:
        if node not in every:
            raise UserError(
                f"--node {node}: {describe(graph, node)} is no Apply TeaCache; there is "
                f"{listing(describe(graph, other) for other in every)}"
            )
    if not chosen and len(every) > 1:
        raise UserError(
            f"{source}: {len(every)} nodes Apply TeaCache: "
            f"{listing(describe(graph, node) for node in every)}; choose with --node ID, repeated "
            "for several"
        )
    for node in every:
        if not is_link(graph[node]["inputs"].get(APPLY[graph[node]["class_type"]])):
            name = APPLY[graph[node]["class_type"]]
            raise UserError(f"node {describe(graph, node)}, input {name}: is required and not set")
    return chosen or every


def find_sampler(graph: Graph, source: str) -> str:
    """The KSampler to calibrate for; `UserError` unless there is exactly one."""
    samplers = [node for node in graph if graph[node]["class_type"] in SAMPLERS]
    if len(samplers) != 1:
        nodes = listing(describe(graph, node) for node in samplers)
        raise UserError(
            f"{source}: one KSampler is needed, whose settings are calibrated for; there are "
            f"{len(samplers)} ({nodes}). With other samplers put Calibrate TeaCache into the graph"
        )
    return samplers[0]


def find_picture(
    graph: Graph, applied: Sequence[str], kind: Callable[[str], NodeKind], named: str | None
) -> Link:
    """The link to the pictures to compare: those of cached sampling that are saved or shown.

    Args:
        graph: the workflow.
        applied: the Apply TeaCache nodes.
        kind: the inputs and outputs of a node class.
        named: a node that saves, shows or outputs the pictures; None if only one does.

    Raises:
        UserError: there is no such link, or more than one.
    """
    after = downstream(graph, applied)
    about = [node for node in graph if graph[node]["class_type"] in DISPLAYS]
    of_runs = after - downstream(graph, about)
    links: dict[str, Link] = {}
    for node in graph:
        at = kind(graph[node]["class_type"])
        ends = at.shows or set(at.outputs) <= {"VIDEO"} or node in about
        for name, value in graph[node]["inputs"].items():
            typed = is_link(value) and at.inputs.get(name) == "IMAGE"
            if typed and value[0] in of_runs and (ends or named is not None):
                links.setdefault(node, value)
    if named is not None:
        chosen = find_node(graph, named)
        outputs = kind(graph[chosen]["class_type"]).outputs
        if chosen in of_runs and "IMAGE" in outputs:
            return [chosen, outputs.index("IMAGE")]
        if chosen not in links:
            raise UserError(
                f"--picture {named}: node {describe(graph, chosen)} has no picture of the cached "
                f"sampling; these have: {listing(describe(graph, node) for node in links)}"
            )
        return links[chosen]
    distinct = {str(link): node for node, link in reversed(links.items())}
    if not distinct:
        nodes = listing(describe(graph, node) for node in applied)
        raise UserError(
            f"no picture is saved or shown of what is sampled with {nodes}: add SaveImage or "
            "PreviewImage, or name a node that gives it with --picture NODE"
        )
    if len(distinct) > 1:
        nodes = listing(describe(graph, node) for node in reversed(distinct.values()))
        raise UserError(f"several pictures come out: {nodes}; choose with --picture NODE")
    return links[next(iter(distinct.values()))]


def prompt_field(graph: Graph) -> tuple[str, str]:
    """The node and the input with the prompt; `UserError` unless there is exactly one."""
    fields = prompt_fields(graph)
    if len(fields) != 1:
        nodes = listing(describe(graph, node) for node, _ in fields)
        raise UserError(
            f"--prompt: the prompt must be one text, not {len(fields)} ({nodes}); use --set "
            "NODE.INPUT=TEXT"
        )
    return fields[0]


def prompt_fields(graph: Graph) -> list[tuple[str, str]]:
    """The nodes and inputs that may hold the prompt."""
    reached = prompting(graph)
    return [
        (node, name)
        for node in graph
        if node in reached
        for name in ("text", "prompt")
        if isinstance(graph[node]["inputs"].get(name), str)
    ]


def prompting(graph: Graph) -> set[str]:
    """The nodes upstream of the positive conditioning; all nodes if samplers take texts."""
    links = {
        name: [n["inputs"][name][0] for n in graph.values() if is_link(n["inputs"].get(name))]
        for name in ("positive", "conditioning")
    }
    waiting = links["positive"] or links["conditioning"]
    if not waiting:
        return set(graph)
    reached: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            inputs = graph[node]["inputs"].items()
            waiting += [v[0] for name, v in inputs if is_link(v) and name not in NO_PROMPT]
    return reached
