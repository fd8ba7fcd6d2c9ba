"""Progress bars: for the nodes of a running graph, and others like them."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

LOG_INTERVAL = 10.0  # seconds between updates where standard error is no terminal


def new_bar(total: float, name: str, **options: Any) -> tqdm[Any]:
    """A bar on standard error, of steps unless `options` (tqdm's) say otherwise."""
    return tqdm(
        total=total,
        desc=name,
        unit="step",
        mininterval=0.1 if sys.stderr.isatty() else LOG_INTERVAL,
        file=sys.stderr,
        dynamic_ncols=True,
        **options,
    )


class Step(Protocol):
    """Progress of one node, as the headless host reports it."""

    @property
    def node(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def total(self) -> float: ...


class Bars:
    """One tqdm bar per node that reports more than one step; to be used as a context manager.

    label: the bar's name, else the node's title.
    """

    def __init__(self, label: str | None = None) -> None:
        self.label = label
        self.bars: dict[str, tqdm[Any]] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for bar in self.bars.values():
            bar.close()

    def __call__(self, step: Step) -> None:
        if step.total <= 1:
            return
        if step.node not in self.bars:
            self.bars[step.node] = new_bar(step.total, self.label or step.title)
        bar = self.bars[step.node]
        bar.total = step.total
        bar.update(step.value - bar.n)
