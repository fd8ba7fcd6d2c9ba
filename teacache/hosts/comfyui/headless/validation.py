"""ComfyUI's own check of a graph, its errors as one line that names node, input and remedy."""

from __future__ import annotations

import asyncio
import copy
import importlib
import math
from dataclasses import dataclass, field
from typing import Any

from ....errors import UserError, listing, nearest
from ....workflows.definitions import input_specs
from ....workflows.graph import Graph, as_graph, describe
from .boot import Comfy

CLIENT = "teacache-headless"
REQUEST_DATA: dict[str, Any] = {"extra_pnginfo": {}, "client_id": CLIENT}
"""What goes with a graph to the executor, where no pack changes it."""


def input_kinds(comfy: Comfy, class_type: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every input of a known node class: its type (a list for a choice) and its options."""
    return input_specs(comfy.nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES())


@dataclass(frozen=True)
class ValidGraph:
    """A graph that passed the check, its values as ComfyUI converts them.

    Attributes:
        outputs: its output nodes.
        extra_data: what goes with it to the executor.
    """

    graph: Graph
    outputs: list[str]
    extra_data: dict[str, Any] = field(default_factory=lambda: REQUEST_DATA)


def validated(comfy: Comfy, graph: Graph) -> ValidGraph:
    """A copy of `graph` that passed the check.

    Stricter than the server in two ways: one bad output fails the graph, and NaN is no number.

    Raises:
        UserError: the first thing wrong: an unknown class, a value, a link, no output node.
    """
    graph, extra_data = handled(comfy, copy.deepcopy(graph))
    replace_missing_nodes(comfy, graph)
    known = comfy.nodes.NODE_CLASS_MAPPINGS
    for node in graph:
        kind = graph[node]["class_type"]
        if kind not in known:
            hint = nearest(kind, known) or "."
            raise UserError(
                f"node {node}: no node type {kind!r} in this ComfyUI{hint} Other packs are "
                "loaded with --custom-nodes"
            )
    for node in graph:
        check_values(comfy, graph, node)
    valid, error, outputs, node_errors = asyncio.run(
        comfy.execution.validate_prompt("check", graph, None)
    )
    for node, entry in node_errors.items():
        raise UserError(node_message(comfy, graph, node, entry["errors"][0]))
    if not valid:
        if error["type"] == "prompt_no_outputs":
            raise UserError("the workflow has no output node: end it in one such as SaveImage")
        raise UserError(f"{error['message']} {error['details']}".strip())
    return ValidGraph(graph, sorted(outputs), extra_data)


def handled(comfy: Comfy, graph: Graph) -> tuple[Graph, dict[str, Any]]:
    """`graph` and what goes with it, once the prompt handlers of packs have changed them."""
    if not comfy.server.on_prompt_handlers:
        return graph, REQUEST_DATA

    async def trigger() -> Any:
        request = {"prompt": graph, "client_id": CLIENT, "extra_data": {"extra_pnginfo": {}}}
        return comfy.server.trigger_on_prompt(request)

    changed = comfy.server.call(trigger())
    if not isinstance(changed, dict) or not isinstance(changed.get("prompt"), dict):
        raise UserError("a prompt handler of another pack returned no workflow")
    extra_data = {**(changed.get("extra_data") or {}), "client_id": CLIENT}
    return as_graph(changed["prompt"], "the workflow of a pack's prompt handler"), extra_data


def replace_missing_nodes(comfy: Comfy, graph: Graph) -> None:
    """Puts the replacements that packs have registered into `graph`, as newer servers do."""
    if not hasattr(comfy.server, "node_replace_manager"):
        return
    for node in graph.values():
        node.setdefault("_meta", {})
    try:
        comfy.server.node_replace_manager.apply_replacements(graph)
    except KeyError as missing:
        raise UserError(
            f"a pack's replacement of a missing node takes its input {missing}, which is not set"
        ) from None


def check_values(comfy: Comfy, graph: Graph, node: str) -> None:
    """Refuses values that ComfyUI's check accepts: NaN, fractions for INT, unknown choices."""
    inputs = graph[node]["inputs"]
    where = f"node {describe(graph, node)}, input "
    own = checks_itself(comfy.nodes.NODE_CLASS_MAPPINGS[graph[node]["class_type"]])
    for name, (kind, options) in input_kinds(comfy, graph[node]["class_type"]).items():
        if name not in inputs or isinstance(inputs[name], (list, dict)):
            continue
        value = inputs[name]
        if kind in ("FLOAT", "INT"):
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise UserError(f"{where}{name}: must be a number, not {value!r}") from None
            if not math.isfinite(number):
                raise UserError(f"{where}{name}: must be a finite number, not {value}")
            if kind == "INT" and number % 1:
                raise UserError(f"{where}{name}: must be a whole number, not {value}")
        choices = options.get("options")
        if kind == "COMBO" and isinstance(choices, list) and value not in choices and not own:
            raise UserError(where + choice_message(name, value, choices))


def checks_itself(node_class: Any) -> bool:
    """Whether the class has a check of its own, which replaces the check of choices."""
    internal = importlib.import_module("comfy_api.internal")
    if issubclass(node_class, internal._ComfyNodeInternal):
        return internal.first_real_override(node_class, "validate_inputs") is not None
    return hasattr(node_class, "VALIDATE_INPUTS")


def choice_message(name: str, value: object, choices: list[Any]) -> str:
    names = [str(choice) for choice in choices]
    hint = nearest(str(value), names) or "."
    return f"{name}: {str(value)!r} is not available{hint} Available: {listing(names)}"


def node_message(comfy: Comfy, graph: Graph, node: str, error: dict[str, Any]) -> str:
    """An error of ComfyUI's check in one line."""
    where = f"node {describe(graph, node)}"
    details = " ".join(str(error["details"]).split())
    name = error.get("extra_info", {}).get("input_name")
    if name is None:
        return f"{where}: {error['message']}: {details}"
    if error["type"] == "custom_validation_failed" and " - " in details:
        return f"{where}: {details.partition(' - ')[2]}"  # it may name any of the inputs
    where += ", input "
    kind, options = input_kinds(comfy, graph[node]["class_type"]).get(name, ("", {}))
    value = graph[node]["inputs"].get(name)
    match error["type"]:
        case "required_input_missing":
            return f"{where}{name}: is required and not set"
        case "value_not_in_list":
            return where + choice_message(name, value, kind)
        case "value_smaller_than_min":
            return f"{where}{name}: {value} is below the smallest allowed value {options['min']}"
        case "value_bigger_than_max":
            return f"{where}{name}: {value} is above the largest allowed value {options['max']}"
        case "return_type_mismatch":
            received = error["extra_info"]["received_type"]
            return f"{where}{name}: needs {kind}, but node {value[0]} gives {received} there"
    return f"{where}{name}: {error['message']}: {details}"
