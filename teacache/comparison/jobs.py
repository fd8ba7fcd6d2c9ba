"""Parts of a comparison as jobs of a pool: each worker is a process with its own reference."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..jobs import Job, Outcome, Pool, Watcher, outcomes
from ..jobs.job import OnProgress
from ..progress import Progress, TimeLeft
from .axes import Point
from .runner import REFUSALS, Comparison, PicturesListener, SamplingBackend, refusals
from .shared import Bench, Measured, Part, sample_in_parts


@dataclass(frozen=True)
class BenchDescription:
    """What a worker tells of itself.

    Args:
        refusals: of each point, why it is clear without sampling that it cannot run.
        what: is timed, in words.
        about: further entries of the report.
    """

    refusals: list[Exception | None]
    what: str
    about: dict[str, Any]


BENCH = "bench"
"""The entry of `about` with a `BenchDescription`."""
IDLE_SECONDS = 0.2
"""How long a job without a part takes."""
START_SECONDS = 120.0
"""So long the first workers wait for the last ones."""


class BenchWorker:
    """A `jobs.Worker` that samples a `Part` for each job; it waits where the job has none.

    Args:
        backend: on which everything is sampled.
        points, repeats: of the comparison.
        what, about: as in `BenchDescription`.
        close: frees the model.
    """

    def __init__(
        self,
        backend: SamplingBackend,
        points: Sequence[Point],
        repeats: int,
        what: str,
        about: dict[str, Any],
        close: Callable[[], None],
    ) -> None:
        described = BenchDescription(refusals(backend, points), what, about)
        self.about: dict[str, Any] = {BENCH: described}
        self._bench = Bench(f"{socket.gethostname()}:{os.getpid()}", backend, points, repeats)
        self._stopped = threading.Event()
        self._close = close

    def run(self, job: Job, on_progress: OnProgress) -> Measured | Exception | None:
        """The results; what the reference raises, which ends the comparison, is a result as well,
        unlike a failure of the worker."""
        if job.payload is None:
            self._stopped.wait(IDLE_SECONDS)
            return None

        def tell(progress: Progress) -> None:
            if self._stopped.is_set():
                raise KeyboardInterrupt
            on_progress(progress)

        try:
            return self._bench.sample(job.payload, tell)
        except REFUSALS as error:
            return error

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._close()


class SharedComparison:
    """A comparison's runs on the workers of a pool.

    Args:
        rounds: workers that stay between rounds (`jobs.kept_open`).
        retries: how often a part is tried again after its worker was lost.
        watcher: is told what happens.
    """

    def __init__(self, rounds: Pool, retries: int, watcher: Watcher) -> None:
        self._rounds = rounds
        self._retries = retries
        self._watcher = watcher
        self._described: BenchDescription | None = None
        self._started: set[int] = set()

    def describe(self) -> BenchDescription:
        """The model, as the first worker has it.

        Raises:
            UserError, ExecutionError: no worker can load it.
        """
        if self._described is None:
            watcher = _StartWatcher(self._started, self._watcher)
            for outcome in self._outcomes([None], watcher):
                if outcome.failure is not None:
                    raise outcome.failure.error()
        assert self._described is not None
        return self._described

    def check(self, comparison: Comparison) -> None:
        """Mark the points that cannot run; raise the first one's error if none can."""
        comparison.refuse(self.describe().refusals)

    def run(
        self,
        comparison: Comparison,
        on_progress: Callable[[Progress], None],
        on_pictures: PicturesListener,
    ) -> None:
        """Sample everything, as `sample_in_parts` does, once every worker has started."""
        watcher = _PartsWatcher(on_progress, self._watcher)
        on_progress(Progress(0.0, 1.0, "starting the workers"))
        self._start_workers(sum(not variant.failure for variant in comparison.variants))

        def parts(wanted: Sequence[Part]) -> Iterator[tuple[Part, Measured | Exception]]:
            watcher.expect(len(wanted))
            for outcome in self._outcomes(wanted, watcher):
                if outcome.failure is not None:
                    yield outcome.job.payload, outcome.failure.error()
                elif isinstance(outcome.result, Exception):
                    raise outcome.result
                else:
                    yield outcome.job.payload, outcome.result

        sample_in_parts(comparison, parts, self._rounds.slots, on_pictures)

    def _start_workers(self, most: int) -> None:
        """Waits until they have loaded the model, which slows down what is timed beside it.

        Args:
            most: how many there is work for.
        """
        wanted = min(most, self._rounds.slots)
        ends = time.monotonic() + START_SECONDS
        while len(self._started) < wanted and time.monotonic() < ends:
            for _ in self._outcomes([None] * wanted, _StartWatcher(self._started, self._watcher)):
                pass

    def _outcomes(self, payloads: Sequence[Part | None], watcher: Watcher) -> Iterator[Outcome]:
        jobs = [Job(number, payload) for number, payload in enumerate(payloads, 1)]
        ended = outcomes(
            self._rounds, jobs, retries=self._retries, watcher=watcher, admit=self._admit
        )
        with contextlib.closing(ended):
            yield from ended

    def _admit(self, about: dict[str, Any]) -> None:
        if self._described is None:
            self._described = about[BENCH]


class _StartWatcher(Watcher):
    """Notes which workers have started."""

    def __init__(self, started: set[int], other: Watcher) -> None:
        self._started = started
        self._other = other

    def started(self, slot: int, worker: str) -> None:
        self._started.add(slot)
        self._other.started(slot, worker)

    def notice(self, sentence: str) -> None:
        self._other.notice(sentence)


class _PartsWatcher(Watcher):
    """Progress over all parts, those that run now by their share, beside `other`."""

    def __init__(self, on_progress: Callable[[Progress], None], other: Watcher) -> None:
        self._on_progress = on_progress
        self._other = other
        self._time_left = TimeLeft()
        self._total = self._ended = 0
        self._shares: dict[int, float] = {}

    def expect(self, parts: int) -> None:
        """There are so many more."""
        self._total += parts
        self._tell("waiting for workers")

    def started(self, slot: int, worker: str) -> None:
        self._other.started(slot, worker)

    def notice(self, sentence: str) -> None:
        self._other.notice(sentence)

    def assigned(self, slot: int, job: Job) -> None:
        self._shares[slot] = 0.0
        self._other.assigned(slot, job)

    def progressed(self, slot: int, job: Job, progress: Progress) -> None:
        self._shares[slot] = progress.done / progress.total if progress.total else 0.0
        self._other.progressed(slot, job, progress)
        self._tell(progress.stage)

    def ended(self, slot: int | None, outcome: Outcome) -> None:
        self._ended += 1
        if slot is not None:
            self._shares.pop(slot, None)
        self._other.ended(slot, outcome)
        self._tell("sampled")

    def _tell(self, what: str) -> None:
        done = self._ended + sum(self._shares.values())
        stage = f"{self._ended} of {self._total} points: {what}"
        left = self._time_left(done, self._total)
        self._on_progress(Progress(done, self._total, stage, left))
