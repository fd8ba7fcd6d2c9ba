"""Node classes as ComfyUI defines them: their inputs, input types and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MATCHING = "COMFY_MATCHTYPE_V3"
"""Type of the inputs and outputs of a switch: that of what is linked to it."""
Definitions = dict[str, dict[str, Any]]
"""{class: {"input": INPUT_TYPES(), "output": …}}, as the server answers `GET /object_info`."""
Replacements = Mapping[str, Sequence[Mapping[str, Any]]]
"""{missing class: what can stand in}, as the server answers `GET /node_replacements`."""


@dataclass(frozen=True)
class Catalog:
    """What a ComfyUI knows of node classes.

    Attributes:
        classes: the definition of each.
        replacements: what packs have registered to stand in for classes that are missing.
    """

    classes: Definitions
    replacements: Replacements = field(default_factory=dict)


@dataclass(frozen=True)
class NodeKind:
    """A class of nodes: the type of every input and output; whether it shows or saves results."""

    inputs: dict[str, str]
    outputs: tuple[str, ...]
    shows: bool = False


def input_specs(inputs: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The type (a list for a choice) and the options of every input in an `INPUT_TYPES()`."""
    return {
        name: (spec[0], spec[1] if len(spec) > 1 else {})
        for group in ("required", "optional")
        for name, spec in inputs.get(group, {}).items()
    }


def input_types(inputs: dict[str, Any]) -> dict[str, str]:
    """The name of the type of every input in an `INPUT_TYPES()`: {"seed": "INT"}."""
    return {
        name: "COMBO" if isinstance(kind, list) else str(kind)
        for name, (kind, _) in input_specs(inputs).items()
    }
