"""Changed graphs: cut down to one picture, without the cache, with other settings, calibrating."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..comparison.axes import Point
from ..comparison.runner import WARM_UP_STEPS
from ..config import DEFAULT_THRESHOLD
from ..errors import UserError, listing, nearest
from .definitions import NodeKind
from .graph import Graph, Link, describe, downstream, find_node, is_link, upstream
from .selection import APPLY, caches_in, find_sampler, prompt_field

PICTURE = "sweep_picture"
CALIBRATE, CALIBRATION = "TeaCacheCalibrate", "calibration"
"""The class of the node that calibrates, and its id in `calibration_graph`."""
SAMPLING = ("model", "positive", "negative", "latent_image", "seed", "steps", "cfg",
            "sampler_name", "scheduler")  # fmt: skip
"""The inputs of a sampler that Calibrate TeaCache has as well."""


def only_picture(graph: Graph, link: Link) -> Graph:
    """The nodes that `link` needs, and a node `PICTURE` that writes its pictures."""
    needed = upstream(graph, [str(link[0])])
    cut = {node: copy.deepcopy(graph[node]) for node in graph if node in needed}
    return cut | {PICTURE: {"class_type": "PreviewImage", "inputs": {"images": link}}}


def uncached(graph: Graph) -> Graph:
    """The graph without Apply TeaCache: the links to it lead to its input's origin instead."""
    graph = copy.deepcopy(graph)
    for node in caches_in(graph):
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
    """The graph with the settings of `point` on the Apply TeaCache nodes `nodes`.

    A threshold turns auto_threshold off, so that it holds exactly; None turns it on.

    Raises:
        UserError: a node has no widget for a setting.
    """
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
                inputs["rel_l1_thresh"] = DEFAULT_THRESHOLD
    return graph


def shortened(graph: Graph) -> Graph:
    """The graph with few steps; unchanged if a node splits the steps between samplers."""
    graph = copy.deepcopy(graph)
    every = [node["inputs"] for node in graph.values()]
    if any("start_at_step" in inputs or "step" in inputs for inputs in every):
        return graph
    for inputs in every:
        steps = inputs.get("steps")
        if isinstance(steps, int):
            inputs["steps"] = min(steps, WARM_UP_STEPS)
    return graph


def with_steps(graph: Graph, steps: int) -> Graph:
    """The graph with another number of sampling steps; `UserError` unless one input sets it."""
    graph = copy.deepcopy(graph)
    every = [node["inputs"] for node in graph.values()]
    counts = [inputs for inputs in every if isinstance(inputs.get("steps"), int)]
    if len(counts) != 1 or any("start_at_step" in i or "step" in i for i in every):
        raise UserError(
            f"the steps are set by {len(counts)} nodes, or split between samplers: fewer steps "
            "without the cache cannot be compared"
        )
    counts[0]["steps"] = steps
    return graph


def set_prompt(graph: Graph, text: str) -> None:
    """Sets the prompt in `graph`; `UserError` unless exactly one input holds it."""
    node, name = prompt_field(graph)
    graph[node]["inputs"][name] = text


def set_seed(graph: Graph, seed: int) -> None:
    """Sets every seed in `graph`; `UserError` if no node has one."""
    inputs = [
        (node, name)
        for node in graph
        for name in ("seed", "noise_seed")
        if isinstance(graph[node]["inputs"].get(name), int)
    ]
    if not inputs:
        raise UserError("--seed: no node of the workflow has an input seed or noise_seed")
    for node, name in inputs:
        graph[node]["inputs"][name] = seed


def set_inputs(graph: Graph, values: Iterable[tuple[str, str, Any]]) -> None:
    """Sets inputs in `graph`.

    Args:
        graph: changed in place.
        values: node (an id, a title or a class), input and value; None leaves an input as it is.
    """
    for node, name, value in values:
        if value is not None:
            graph[find_node(graph, node)]["inputs"][name] = value


def calibration_graph(
    graph: Graph, source: str, prompts: Sequence[str], settings: Mapping[str, Any]
) -> Graph:
    """The graph with Calibrate TeaCache for its KSampler, and without the nodes after it.

    Args:
        graph: left as it is.
        source: the workflow's name for messages.
        prompts: to calibrate with; empty for the workflow's own.
        settings: inputs of Calibrate TeaCache beside those of the sampler.

    Raises:
        UserError: there is not one KSampler, it lacks an input, or there is not one prompt.
    """
    sampler = find_sampler(graph, source)
    graph = uncached(graph)
    inputs = graph[sampler]["inputs"]
    missing = [name for name in SAMPLING if name not in inputs]
    if missing:
        raise UserError(f"node {describe(graph, sampler)}: {', '.join(missing)} is not set")
    node: dict[str, Any] = {name: copy.deepcopy(inputs[name]) for name in SAMPLING}
    node |= settings
    copies: Graph = {}
    for number, prompt in enumerate(prompts, 1):
        link, made = with_prompt(graph, inputs["positive"], prompt, f"prompt {number}:")
        copies |= made
        node["positive" if number == 1 else f"positive_{number}"] = link
    behind = downstream(graph, [sampler])
    kept = {name: graph[name] for name in graph if name not in behind}
    return {**kept, **copies, CALIBRATION: {"class_type": CALIBRATE, "inputs": node}}


def with_prompt(graph: Graph, positive: Link, text: str, prefix: str) -> tuple[Link, Graph]:
    """Copies the nodes that make the positive conditioning, with another prompt.

    Args:
        graph: left as it is.
        positive: the link to the positive conditioning.
        text: the prompt.
        prefix: of the ids of the copies.

    Returns:
        The link to the conditioning of `text`, and the copied nodes.
    """
    field, name = prompt_field(graph)
    changed = downstream(graph, [field]) & upstream(graph, [positive[0]])
    made: Graph = {}
    for node in changed:
        copied = copy.deepcopy(graph[node])
        for key, value in copied["inputs"].items():
            if is_link(value) and value[0] in changed:
                copied["inputs"][key] = [prefix + value[0], value[1]]
        made[prefix + node] = copied
    made[prefix + field]["inputs"][name] = text
    return [prefix + positive[0], positive[1]], made
