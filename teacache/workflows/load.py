"""A workflow file on its way from the shell to a graph: read once, refused as early as possible."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .definitions import Catalog
from .editor_format import to_graph
from .graph import Graph, as_graph, is_editor_format, read_workflow

Prepared = TypeVar("Prepared")
Completion = Callable[[Callable[[], Catalog]], Prepared]
"""From a function that returns the node classes, called only for files of the editor."""


@dataclass(frozen=True)
class WorkflowFile:
    """What a workflow file holds, to be made a graph in another process.

    Attributes:
        source: the file's name, for messages.
        seed: of what is chosen at random, so that every process makes the same graph.
    """

    data: dict[str, Any]
    source: str
    seed: int = field(default_factory=lambda: random.getrandbits(64))

    @classmethod
    def read(cls, path: Path) -> WorkflowFile:
        """`UserError` where `path` is no workflow."""
        return cls(read_workflow(path), path.name)

    @property
    def is_graph(self) -> bool:
        """Whether it is one as it is; else the node definitions are needed."""
        return not is_editor_format(self.data)

    def graph_here(self) -> Graph | None:
        """A checked graph of its own; None where the node definitions are needed for it."""
        return as_graph(copy.deepcopy(self.data), self.source) if self.is_graph else None

    def graph(self, catalog: Callable[[], Catalog]) -> Graph:
        """A checked graph of its own; `UserError` where the file cannot be converted."""
        data = copy.deepcopy(self.data)
        if self.is_graph:
            return as_graph(data, self.source)
        return converted(data, catalog(), self.source, random.Random(self.seed).choice)


def load_workflow(path: Path, prepare: Callable[[Graph, str], Prepared]) -> Completion[Prepared]:
    """Reads a workflow file and has `prepare` check its graph and derive from it what is needed.

    A graph in API format is prepared here, before ComfyUI is loaded. A file saved by the editor is
    converted and prepared by the returned function, when the node definitions are at hand.

    Args:
        path: the file.
        prepare: called once with the graph and the file's name for messages.

    Returns:
        A function that returns what `prepare` returned, and that raises `UserError` for a file of
        the editor that cannot be converted or is refused.

    Raises:
        UserError: the file is no workflow, or `prepare` refuses its graph.
    """
    return prepare_workflow(read_workflow(path), path.name, prepare)


def prepare_workflow(
    data: dict[str, Any], source: str, prepare: Callable[[Graph, str], Prepared]
) -> Completion[Prepared]:
    """`load_workflow` of what was read from the file `source`."""
    if is_editor_format(data):
        return lambda catalog: prepare(converted(data, catalog(), source), source)
    prepared = prepare(as_graph(data, source), source)
    return lambda catalog: prepared


def converted(
    data: dict[str, Any],
    catalog: Catalog,
    source: str,
    choose: Callable[[Sequence[str]], str] = random.choice,
) -> Graph:
    """A file of the editor as a checked graph; `choose` chooses in dynamic prompts."""
    graph = to_graph(data, catalog.classes, source, catalog.replacements, choose)
    return as_graph(graph, source)
