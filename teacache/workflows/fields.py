"""Which inputs of a graph are its prompt, size, seed and the like: recognised, or told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, listing, nearest
from .assignments import is_target, parse_target
from .definitions import NodeKind
from .graph import Graph, Link, describe, downstream, is_link, upstream
from .selection import prompt_fields

FIELDS: dict[str, tuple[str, ...]] = {
    "prompt": ("STRING",),
    "negative_prompt": ("STRING",),
    "seed": ("INT",),
    "width": ("INT",),
    "height": ("INT",),
    "n": ("INT",),
    "num_inference_steps": ("INT",),
    "guidance_scale": ("FLOAT",),
    "image": ("COMBO", "STRING"),
    "strength": ("FLOAT",),
}
"""{field: the types of inputs that it may set}."""
SEEDS = ("seed", "noise_seed")
COUNTS = ("batch_size", "batch")
Input = tuple[str, str]
"""(node id, input)"""


@dataclass(frozen=True)
class GraphFields:
    """The inputs that each field of `FIELDS` sets; a field that the graph lacks is not in it."""

    inputs: Mapping[str, tuple[Input, ...]]

    def __contains__(self, field: str) -> bool:
        return field in self.inputs

    def put(self, graph: Graph, values: Mapping[str, Any]) -> None:
        """Sets the inputs in `graph`, which is changed in place; None leaves a field as it is."""
        for field, value in values.items():
            for node, name in self.inputs.get(field, ()) if value is not None else ():
                graph[node]["inputs"][name] = value

    def nodes(self) -> list[str]:
        """The nodes that have such inputs."""
        return [node for inputs in self.inputs.values() for node, _ in inputs]

    def describe(self, graph: Graph) -> list[str]:
        """A line for each field: where it is set."""
        return [
            f"{field}: {', '.join(f'{describe(graph, node)}.{name}' for node, name in inputs)}"
            for field, inputs in self.inputs.items()
        ]


def parse_map(graph: Graph, arguments: Iterable[str]) -> dict[str, tuple[Input, ...]]:
    """`--map FIELD=NODE.INPUT`, repeated for several inputs of a field.

    Raises:
        UserError: there is no such field or node, or the form is another one.
    """
    told: dict[str, tuple[Input, ...]] = {}
    for argument in arguments:
        field, equals, target = argument.partition("=")
        if not equals or not is_target(target):
            raise UserError(f"--map {argument}: write FIELD=NODE.INPUT, such as prompt=Prompt.text")
        if field not in FIELDS:
            hint = nearest(field, FIELDS) or "."
            raise UserError(f"--map {argument}: unknown field{hint} Fields: {', '.join(FIELDS)}")
        try:
            told[field] = (*told.get(field, ()), parse_target(graph, target))
        except UserError as error:
            raise UserError(f"--map {argument}: {error}") from None
    return told


def graph_fields(
    graph: Graph,
    picture: Link,
    told: Mapping[str, tuple[Input, ...]],
    kind: Callable[[str], NodeKind],
) -> GraphFields:
    """The fields that `told` names, and those of the others that are clear from the graph.

    Args:
        graph: the workflow.
        picture: the link to its pictures.
        told: by `--map`.
        kind: the inputs and outputs of a node class.

    Raises:
        UserError: the prompt is not clear, or an input that was told has another type.
    """
    needed = upstream(graph, [picture[0]])
    for field, inputs in told.items():
        for node, name in inputs:
            check_type(graph, field, node, name, kind(graph[node]["class_type"]))
            if node not in needed:
                where = f"--map {field}: node {describe(graph, node)}"
                raise UserError(f"{where}: the pictures do not depend on it")
    found = {**recognised(graph, needed, told), **told}
    if "prompt" not in found:
        texts = listing(describe(graph, node) for node, _ in prompt_fields(graph))
        raise UserError(
            f"the prompt must be one text, and these are possible: {texts}; tell it with "
            "--map prompt=NODE.INPUT"
        )
    return GraphFields({field: found[field] for field in FIELDS if field in found})


def check_type(graph: Graph, field: str, node: str, name: str, kind: NodeKind) -> None:
    """`UserError` unless the input is there and takes what `field` holds."""
    where = f"--map {field}: node {describe(graph, node)}"
    if name not in kind.inputs:
        hint = nearest(name, kind.inputs) or f". Inputs: {listing(kind.inputs, 20)}"
        raise UserError(f"{where} has no input {name!r}{hint}")
    if kind.inputs[name] not in FIELDS[field]:
        raise UserError(
            f"{where}: the input {name} is of type {kind.inputs[name]}; it must be "
            f"{' or '.join(FIELDS[field])}"
        )


def recognised(
    graph: Graph, needed: Collection[str], told: Mapping[str, tuple[Input, ...]]
) -> dict[str, tuple[Input, ...]]:
    """What is clear from the names of the inputs of the nodes that the pictures need."""

    def numbers(*names: str) -> list[Input]:
        return [
            (node, name)
            for node in graph
            for name in names
            if node in needed and is_number(graph[node]["inputs"].get(name))
        ]

    found: dict[str, tuple[Input, ...]] = {}

    def only(field: str, inputs: Iterable[Input]) -> None:
        every = tuple(inputs)
        if len(every) == 1 and field not in found:
            found[field] = every

    only("prompt", (place for place in prompt_fields(graph) if place[0] in needed))
    prompt = told.get("prompt") or found.get("prompt", ())
    only("negative_prompt", negatives(graph, needed, prompt))
    if seeds := numbers(*SEEDS):
        found["seed"] = tuple(seeds)
    sized = {node for node, _ in numbers("width")} & {node for node, _ in numbers("height")}
    for side in ("width", "height"):
        only(side, ((node, side) for node in sized))
    only("n", numbers(*COUNTS))
    only("num_inference_steps", numbers("steps"))
    only("guidance_scale", numbers("guidance"))
    only("guidance_scale", numbers("cfg"))
    loaders = [node for node in graph if graph[node]["class_type"] == "LoadImage"]
    only("image", ((node, "image") for node in loaders if node in needed))
    if "image" in found or "image" in told:
        only("strength", numbers("strength") or numbers("denoise"))
    return found


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def negatives(graph: Graph, needed: Collection[str], prompt: tuple[Input, ...]) -> list[Input]:
    """The texts that only lead to inputs called `negative`, and inputs of such names with one."""
    written = [
        (node, name)
        for node in graph
        for name in ("negative", "negative_prompt")
        if node in needed and isinstance(graph[node]["inputs"].get(name), str)
    ]
    origins = [
        graph[node]["inputs"]["negative"][0]
        for node in graph
        if node in needed and is_link(graph[node]["inputs"].get("negative"))
    ]
    behind = upstream(graph, origins) - {node for node, _ in prompt}
    texts = [
        (node, "text") for node in graph
        if node in behind and isinstance(graph[node]["inputs"].get("text"), str)
    ]  # fmt: skip
    return written + texts


def unaffected(graph: Graph, nodes: Iterable[str]) -> list[str]:
    """The nodes whose results stay the same when inputs of `nodes` change."""
    after = downstream(graph, nodes)
    return [node for node in graph if node not in after]
