"""Progress of many jobs on the terminal: a bar over all of them, and a line for each worker."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..jobs import Job, Outcome, Watcher
from ..progress import Progress
from .progress import new_bar

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_LINES = 16
LINE = "{desc}: {percentage:3.0f}%|{bar:20}| {n:g}/{total:g}"
ALL = "jobs: {percentage:3.0f}%|{bar:24}| {n}/{total} [{elapsed}<{remaining}]{postfix}"


class WorkerLines(Watcher):
    """A line for each worker, on a terminal, as a context manager; sentences go between them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lines: dict[int, tqdm[Any]] = {}
        self._names: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def say(self, sentence: str) -> None:
        """Prints a line on standard error."""
        tqdm.write(sentence, file=sys.stderr)
        sys.stderr.flush()

    # --- what the scheduler tells ----------------------------------------------------------------

    def started(self, slot: int, worker: str) -> None:
        self._names[slot] = worker

    def assigned(self, slot: int, job: Job) -> None:
        self._line(slot, f"{self._names[slot]}, job {job.number}", 0, 1)

    def progressed(self, slot: int, job: Job, progress: Progress) -> None:
        name = f"{self._names[slot]}, job {job.number}, {progress.stage}"
        self._line(slot, name, progress.done, progress.total)

    def ended(self, slot: int | None, outcome: Outcome) -> None:
        if slot is not None:
            self._line(slot, f"{self._names[slot]}, idle", 0, 1)

    def notice(self, sentence: str) -> None:
        self.say(sentence)

    def _line(self, slot: int, name: str, done: float, total: float) -> None:
        if slot >= MOST_LINES or not sys.stderr.isatty():
            return
        if slot not in self._lines:
            bar = new_bar(total, "", bar_format=LINE, position=slot + 1, leave=False)
            self._lines[slot] = self._stack.enter_context(bar)
        bar = self._lines[slot]
        bar.total, bar.n = total, done
        bar.set_description_str(name)


class JobBars(WorkerLines):
    """Bars of the jobs that run, with the lines of the workers.

    On what is no terminal the bar over all jobs is alone. One job alone has a bar for each stage
    instead.

    Args:
        total: the jobs.
        done: how many of them were finished before.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        super().__init__()
        self._total = total
        self._stages: dict[str, tqdm[Any]] = {}
        self._done = done
        self._failed = 0
        self._all: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        if self._total > 1:
            bar = new_bar(self._total, "jobs", bar_format=ALL, initial=self._done, position=0)
            self._all = self._stack.enter_context(bar)
        return self

    def show(self, text: str) -> None:
        """Prints results on standard output."""
        tqdm.write(text, file=sys.stdout)

    def progressed(self, slot: int, job: Job, progress: Progress) -> None:
        if self._all is None:
            self._stage(progress)
        super().progressed(slot, job, progress)

    def ended(self, slot: int | None, outcome: Outcome) -> None:
        self._failed += outcome.failure is not None
        if self._all is not None:
            if self._failed:
                self._all.set_postfix_str(f"{self._failed} failed", refresh=False)
            self._all.update()
        super().ended(slot, outcome)

    def _stage(self, progress: Progress) -> None:
        if progress.stage not in self._stages:
            bar = self._stack.enter_context(new_bar(progress.total, progress.stage))
            self._stages[progress.stage] = bar
        bar = self._stages[progress.stage]
        bar.total = progress.total
        bar.update(progress.done - bar.n)

    def _line(self, slot: int, name: str, done: float, total: float) -> None:
        if self._all is not None:
            super()._line(slot, name, done, total)
