"""A workflow cut down to one picture, and its variants: other settings, no cache, few steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from ..comparison.axes import Point
from ..errors import UserError, listing, nearest
from .definitions import NodeKind
from .graph import Graph, describe, downstream, find_node, is_link, upstream

APPLY = {"ApplyTeaCache": "model", "ApplyTeaCacheDiffusers": "pipeline"}
"""Classes that put the cache on what comes in by this input."""
DISPLAYS = ("TeaCacheReport", "TeaCacheCompareImages", "TeaCacheSweep")
"""Classes whose pictures are about a run, not of it."""
PICTURE = "sweep_picture"
UNTOUCHED_THRESHOLD = 0.2
WARM_UP_STEPS = 3
NO_PROMPT = ("negative", "model", "vae", "clip")
"""Inputs by which no positive conditioning comes."""
Link = list[object]  # [node id, output slot]


def apply_nodes(graph: Graph, named: Sequence[str], source: str) -> list[str]:
    """The nodes to vary: those `named`, else the only Apply TeaCache; `UserError` otherwise."""
    every = [node for node in graph if graph[node]["class_type"] in APPLY]
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


def find_picture(
    graph: Graph, applied: Sequence[str], kind: Callable[[str], NodeKind], named: str | None
) -> Link:
    """The link whose pictures are compared: what is saved or shown of the cached sampling.

    named: a node that saves, shows or gives it. Raises `UserError` when there is no such link, or
    more than one.
    """
    after = downstream(graph, applied)
    about = [node for node in graph if graph[node]["class_type"] in DISPLAYS]
    of_runs = after - downstream(graph, about)
    found: dict[str, Link] = {}
    for node in graph:
        at = kind(graph[node]["class_type"])
        ends = at.shows or set(at.outputs) <= {"VIDEO"} or node in about
        for name, value in graph[node]["inputs"].items():
            typed = is_link(value) and at.inputs.get(name) == "IMAGE"
            if typed and value[0] in of_runs and (ends or named is not None):
                found.setdefault(node, value)
    if named is not None:
        chosen = find_node(graph, named)
        outputs = kind(graph[chosen]["class_type"]).outputs
        if chosen in of_runs and "IMAGE" in outputs:
            return [chosen, outputs.index("IMAGE")]
        if chosen not in found:
            raise UserError(
                f"--picture {named}: node {describe(graph, chosen)} has no picture of the cached "
                f"sampling; these have: {listing(describe(graph, node) for node in found)}"
            )
        return found[chosen]
    distinct = {str(link): node for node, link in reversed(found.items())}
    if not distinct:
        nodes = listing(describe(graph, node) for node in applied)
        raise UserError(
            f"no picture is saved or shown of what is sampled with {nodes}: add SaveImage or "
            "PreviewImage, or name a node that gives it with --picture NODE"
        )
    if len(distinct) > 1:
        nodes = listing(describe(graph, node) for node in reversed(distinct.values()))
        raise UserError(f"several pictures come out: {nodes}; choose with --picture NODE")
    return found[next(iter(distinct.values()))]


def only_picture(graph: Graph, link: Link) -> Graph:
    """What `link` needs, and a node `PICTURE` that writes its pictures."""
    needed = upstream(graph, [str(link[0])])
    cut = {node: copy.deepcopy(graph[node]) for node in graph if node in needed}
    return cut | {PICTURE: {"class_type": "PreviewImage", "inputs": {"images": link}}}


def uncached(graph: Graph) -> Graph:
    """Every Apply TeaCache taken out: what came in by its input goes where its output went."""
    graph = copy.deepcopy(graph)
    for node in [node for node in graph if graph[node]["class_type"] in APPLY]:
        source = graph[node]["inputs"][APPLY[graph[node]["class_type"]]]
        for other in graph.values():
            for name, value in other["inputs"].items():
                if is_link(value) and value[0] == node:
                    other["inputs"][name] = list(source)
        del graph[node]
    return graph


def with_settings(
    graph: Graph, nodes: Sequence[str], point: Point, kind: Callable[[str], NodeKind]
) -> Graph:
    """The settings of `point` on these Apply TeaCache nodes, a threshold exactly as it is."""
    graph = copy.deepcopy(graph)
    for node in nodes:
        inputs = graph[node]["inputs"]
        known = kind(graph[node]["class_type"]).inputs
        for setting, _ in point.settings:
            if setting not in known:
                hint = nearest(setting, known) or f"; it has {listing(known, 20)}"
                raise UserError(f"node {describe(graph, node)} has no widget {setting!r}{hint}")
        inputs |= {key: value for key, value in point.implied.items() if key in known}
        inputs |= dict(point.settings)
        if "rel_l1_thresh" in {**point.implied, **dict(point.settings)}:
            recommended = inputs["rel_l1_thresh"] is None
            inputs["auto_threshold"] = recommended
            if recommended:
                inputs["rel_l1_thresh"] = UNTOUCHED_THRESHOLD
    return graph


def shortened(graph: Graph) -> Graph:
    """The same in a few steps, where no node counts them from elsewhere."""
    graph = copy.deepcopy(graph)
    every = [node["inputs"] for node in graph.values()]
    if any("start_at_step" in inputs or "step" in inputs for inputs in every):
        return graph
    for inputs in every:
        steps = inputs.get("steps")
        if isinstance(steps, int):
            inputs["steps"] = min(steps, WARM_UP_STEPS)
    return graph


def set_prompt(graph: Graph, text: str) -> None:
    """Puts `text` where the positive conditioning comes from; `UserError` if that is not one."""
    node, name = prompt_field(graph)
    graph[node]["inputs"][name] = text


def prompt_field(graph: Graph) -> tuple[str, str]:
    """The node and input that hold the prompt; `UserError` if there is not one."""
    reached = prompting(graph)
    fields = [
        (node, name)
        for node in graph
        if node in reached
        for name in ("text", "prompt")
        if isinstance(graph[node]["inputs"].get(name), str)
    ]
    if len(fields) != 1:
        nodes = listing(describe(graph, node) for node, _ in fields)
        raise UserError(
            f"--prompt: the prompt must be one text, not {len(fields)} ({nodes}); use --set "
            "NODE.INPUT=TEXT"
        )
    return fields[0]


def prompting(graph: Graph) -> set[str]:
    """The nodes that positive conditioning comes from; all of them where samplers take texts."""
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


def set_seed(graph: Graph, seed: int) -> None:
    """Puts `seed` into every node that has one; `UserError` if none has."""
    places = [
        (node, name)
        for node in graph
        for name in ("seed", "noise_seed")
        if isinstance(graph[node]["inputs"].get(name), int)
    ]
    if not places:
        raise UserError("--seed: no node of the workflow has an input seed or noise_seed")
    for node, name in places:
        graph[node]["inputs"][name] = seed
