"""A workflow file on its way from the shell to a graph: read once, refused as early as possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .definitions import Definitions
from .editor_format import to_graph
from .graph import Graph, as_graph, is_editor_format, read_workflow

Prepared = TypeVar("Prepared")
Completion = Callable[[Callable[[], Definitions]], Prepared]
"""Takes what gives the node definitions, which it calls for a file saved by the editor only."""


def load_workflow(path: Path, prepare: Callable[[Graph, str], Prepared]) -> Completion[Prepared]:
    """Reads a workflow file and has `prepare` check its graph and derive from it what is needed.

    A graph in API format is prepared here, before ComfyUI is loaded. A file saved by the editor
    becomes a graph, and is prepared, once the function that is returned gets the definitions.

    Args:
        path: the file.
        prepare: called once with the graph and the file's name, which stands in messages.

    Returns:
        A function from the node definitions to what `prepare` returned.

    Raises:
        UserError: the file is no workflow, or `prepare` refuses its graph; so does the function.
    """
    data, source = read_workflow(path), path.name
    if is_editor_format(data):
        return lambda definitions: prepare(
            as_graph(to_graph(data, definitions(), source), source), source
        )
    prepared = prepare(as_graph(data, source), source)
    return lambda definitions: prepared
