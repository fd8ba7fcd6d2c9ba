"""The inputs that node classes declare, and whether values can be theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Definitions = dict[str, dict[str, Any]]
Specs = dict[str, Any]
"""{input: [type, options]}; of hidden inputs, the type alone."""


def declared(node: dict[str, Any], definitions: Definitions) -> Specs:
    """The inputs that a node's class declares, those of the choices that the node makes included.

    Args:
        node: in the API format.
        definitions: of every node class, as the server answers `GET /object_info`.
    """
    return dict(expanded(definitions[node["class_type"]]["input"], node["inputs"], ""))


def expanded(
    groups: dict[str, Specs], inputs: dict[str, Any], prefix: str
) -> Iterator[tuple[str, Any]]:
    for name, spec in (pair for specs in groups.values() for pair in specs.items()):
        full = f"{prefix}{name}"
        yield full, spec
        if spec[0] == "COMFY_DYNAMICCOMBO_V3":
            for option in spec[1]["options"]:
                if option["key"] == inputs.get(full):
                    yield from expanded(option["inputs"], inputs, f"{full}.")


def is_declared(name: str, specs: Specs) -> bool:
    """Whether an input is one of `specs`, or one that grew from one of them: GROWING.PART."""
    grown = specs.get(name.rpartition(".")[0], ())
    return name in specs or grown[:1] == ["COMFY_AUTOGROW_V3"]


def is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def misplaced(node: dict[str, Any], definitions: Definitions) -> set[str]:
    """The inputs with values that can't be theirs, so that the server refuses them or takes them
    for something else."""
    values = node["inputs"]
    return {
        name
        for name, spec in declared(node, definitions).items()
        if name in values
        and not is_link(values[name])
        and is_foreign(values[name], spec, complete="." in name)
    }


def is_foreign(value: Any, spec: Any, complete: bool) -> bool:
    """Whether a value can't be that of an input.

    Args:
        spec: Of the input.
        complete: Whether a choice is among those that are declared, whatever files there are.
    """
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if value is None:
        return False
    if kind in ("INT", "FLOAT"):
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            return True
        whole = kind == "FLOAT" or number.is_integer()
        return not whole or not options.get("min", number) <= number <= options.get("max", number)
    if kind == "COMBO" or isinstance(kind, list):
        choices = kind if isinstance(kind, list) else options.get("options") or []
        return value not in choices and (not isinstance(value, str) or (complete and choices != []))
    expected = {"STRING": str, "BOOLEAN": bool}.get(kind if isinstance(kind, str) else "", object)
    return not isinstance(value, expected)
