"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

if TYPE_CHECKING:
    from ..comparison import RunProgress, StepListener
    from ..progress import Progress

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


@contextmanager
def task_bar() -> Iterator[Callable[[Progress], None]]:
    """One bar over a whole task, with its stage and the time left; gives its update function."""
    with new_bar(1.0, "", bar_format="{percentage:3.0f}%|{bar:24}| {desc}") as bar:

        def update(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_description_str(str(progress), refresh=False)
            bar.update(progress.done - bar.n)

        yield update


@contextmanager
def step_bar(steps: float, label: str) -> Iterator[StepListener]:
    """A bar over the steps of one run, named `label`; gives its update function.

    steps: how many are expected; the update function is given how many there are.
    """
    with new_bar(steps, f"{label:>8}") as bar:

        def update(step: float, steps: float) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        yield update


class RunBars:
    """A `step_bar` for each timed run of a comparison, one after the other."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._stage = ""
        self._update: StepListener = lambda step, steps: None

    def __enter__(self) -> RunBars:
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.close()

    def __call__(self, progress: RunProgress) -> None:
        if not progress.steps:
            return
        if progress.stage != self._stage:
            self._stack.close()
            self._stage = progress.stage
            self._update = self._stack.enter_context(step_bar(progress.steps, progress.variant))
        self._update(progress.step, progress.steps)


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
    """One bar per node that reports more than one step; to be used as a context manager.

    Args:
        label: the bars' name, else the node's title.
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
