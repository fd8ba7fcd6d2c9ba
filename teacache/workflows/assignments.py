"""`--set NODE.INPUT=VALUE`: parsed on a graph, then applied with the types of the inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, listing, nearest
from .graph import Graph, describe, find_node, is_link, title

InputTypes = Callable[[str], dict[str, str] | None]
"""{input: type} of a node class; None for an unknown class."""


@dataclass(frozen=True)
class Assignment:
    """One `--set NODE.INPUT=VALUE`; `node` is the node's id, `text` the value as written."""

    node: str
    input: str
    text: str


GraphWithSettings = tuple[Graph, list[Assignment]]


def parse_assignment(graph: Graph, argument: str) -> Assignment:
    """`NODE.INPUT=VALUE` with NODE looked up in `graph`; `UserError` when it has another form."""
    target, equals, text = argument.partition("=")
    if not equals or not is_target(target):
        raise UserError(f"--set {argument}: write NODE.INPUT=VALUE, such as KSampler.seed=7")
    return Assignment(*parse_target(graph, target), text)


def is_target(text: str) -> bool:
    """Whether `text` has the form NODE.INPUT."""
    return "." in text and not text.startswith(".") and not text.endswith(".")


def parse_target(graph: Graph, target: str) -> tuple[str, str]:
    """The node's id and the input that NODE.INPUT names; `UserError` for an unknown node."""
    dots = [i for i, letter in enumerate(target) if letter == "."]
    for dot in dots:  # a title or an input's name may contain dots
        node, name = target[:dot], target[dot + 1 :]
        known = {title(graph, i) for i in graph} | {n["class_type"] for n in graph.values()}
        if node in graph or node in known:
            return find_node(graph, node), name
    return find_node(graph, target[: dots[-1]]), target[dots[-1] + 1 :]


def parse_assignments(graph: Graph, arguments: Iterable[str]) -> list[Assignment]:
    """Every one of `arguments` parsed; `UserError` for the first that is wrong."""
    return [parse_assignment(graph, argument) for argument in arguments]


def apply_assignments(
    graph: Graph,
    assignments: Iterable[Assignment],
    input_types: InputTypes,
    source: str = "--set",
) -> None:
    """Puts the values into `graph`. A node of an unknown class is left as it is.

    Args:
        source: where they come from, for messages.
    """
    for assignment in assignments:
        types = input_types(graph[assignment.node]["class_type"])
        if types is not None:
            assign(graph, assignment, types, source)


def assign(
    graph: Graph, assignment: Assignment, input_types: dict[str, str], source: str = "--set"
) -> None:
    """Puts the assignment's value into `graph`.

    Args:
        graph: changed in place.
        assignment: the node, its input and the value as text.
        input_types: every input of the node's class and its type, such as {"seed": "INT"}.
        source: where it comes from, for messages.

    Raises:
        UserError: the class has no such input, or the value is not of its type.
    """
    node, name = assignment.node, assignment.input
    if name not in input_types:
        raise UserError(
            f"{source}: node {describe(graph, node)} has no input {name!r}"
            f"{nearest(name, input_types) or '. Inputs: ' + listing(input_types, 20)}"
        )
    try:
        graph[node]["inputs"][name] = parse_value(assignment.text, input_types[name])
    except ValueError as error:
        raise UserError(f"{source}: node {describe(graph, node)}, input {name}: {error}") from None


def parse_value(text: str, input_type: str) -> Any:
    """`text` as the value of an input of `input_type`: JSON, else the text itself."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if input_type == "STRING":
        return value if isinstance(value, str) else text
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_link(value):
        return value
    if input_type == "BOOLEAN" and not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {text!r}")
    if input_type == "INT" and not (number and value % 1 == 0):
        raise ValueError(f"must be a whole number, not {text!r}")
    if input_type == "FLOAT" and not (number and abs(value) != float("inf") and value == value):
        raise ValueError(f"must be a finite number, not {text!r}")
    if input_type == "INT":
        return int(value)
    return value
