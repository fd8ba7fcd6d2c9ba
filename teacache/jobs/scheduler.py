"""Which worker gets which job, and what happens when a worker is lost."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..progress import Progress
from .job import Failure, Job, Outcome
from .pool import Ended, Event, Lost, Pool, Refused, Started

RETRIES = 2
AHEAD = 4
"""Jobs that are read ahead for each slot, to choose from."""
PATIENCE = 64
"""How many jobs may be preferred to the oldest one, for the models that a worker has loaded."""
MOST_LOSSES = 5
"""After so many lost workers in a row that ended no job, a slot is given up."""


class Watcher:
    """Is told what happens; to be overridden."""

    def started(self, slot: int, worker: str) -> None:
        """A worker has loaded what it needs."""

    def assigned(self, slot: int, job: Job) -> None:
        """A worker got a job."""

    def progressed(self, slot: int, job: Job, progress: Progress) -> None:
        """A job has come further."""

    def ended(self, slot: int | None, outcome: Outcome) -> None:
        """A job has its outcome; on no slot if no worker was left for it."""

    def notice(self, sentence: str) -> None:
        """Something that the user should know: a lost worker, a job that is tried again."""


@dataclass
class _Waiting:
    """A job that waits, with the attempts so far and the slot of the last one."""

    job: Job
    attempts: int = 0
    lost_on: int | None = None
    passed_over: int = 0


@dataclass
class _Slot:
    """running: the job it has. idle: waits for one. losses: in a row. gone: given up."""

    name: str = ""
    started: bool = False
    idle: bool = False
    gone: bool = False
    losses: int = 0
    models: str | None = None
    running: _Waiting | None = None


@dataclass
class _Scheduler:
    pool: Pool
    source: Iterator[Job]
    retries: int
    watcher: Watcher
    admit: Callable[[dict[str, Any]], None]
    prepare: Callable[[Job], Job]
    slots: list[_Slot] = field(default_factory=list)
    waiting: deque[_Waiting] = field(default_factory=deque)
    exhausted: bool = False
    reason: Failure | None = None
    """Why the last slot was given up."""
    worked: bool = False
    """Whether a worker has ever started."""

    def outcomes(self) -> Generator[Outcome, None, None]:
        self.slots = [_Slot() for _ in range(self.pool.slots)]
        try:
            while True:
                self._read()
                if not self.waiting and not any(slot.running for slot in self.slots):
                    return
                if all(slot.gone for slot in self.slots):
                    yield from self._without_workers()
                    return
                self._start_workers()
                self._assign()
                for event in self.pool.wait(self._progressed):
                    outcome = self._handle(event)
                    if outcome is not None:
                        self.watcher.ended(event.slot, outcome)
                        yield outcome
        finally:
            self.pool.close()

    # --- what is to be done ----------------------------------------------------------------------

    def _read(self) -> None:
        room = AHEAD * len(self.slots) - len(self.waiting)
        if room > 0 and not self.exhausted:
            jobs = list(itertools.islice(self.source, room))
            self.exhausted = len(jobs) < room
            self.waiting.extend(map(_Waiting, jobs))

    def _start_workers(self) -> None:
        """As many as there are jobs for."""
        wanted = len(self.waiting) + sum(slot.running is not None for slot in self.slots)
        alive = sum(slot.started and not slot.gone for slot in self.slots)
        for number in sorted(range(len(self.slots)), key=lambda each: self.slots[each].losses):
            slot = self.slots[number]
            if alive < wanted and not slot.started and not slot.gone:
                slot.started = True
                alive += 1
                self.pool.start(number)

    def _assign(self) -> None:
        for number, slot in enumerate(self.slots):
            if not slot.idle:
                continue
            chosen = self._choose(number)
            if chosen is None:
                continue
            self.waiting.remove(chosen)
            chosen.attempts += 1
            slot.running, slot.idle, slot.models = chosen, False, chosen.job.models
            self.pool.submit(number, self.prepare(chosen.job))
            self.watcher.assigned(number, chosen.job)

    def _choose(self, number: int) -> _Waiting | None:
        """The job for an idle slot: one whose models it has, else one whose models nobody has,
        else the oldest; not one that was lost there, while there are other slots."""
        others = any(slot.started and not slot.gone for slot in self._others(number))
        allowed = [each for each in self.waiting if not (others and each.lost_on == number)]
        if not allowed:
            return None
        oldest = allowed[0]
        if oldest.passed_over >= PATIENCE:
            return oldest
        own = self.slots[number].models
        elsewhere = {slot.models for slot in self._others(number) if slot.started}
        chosen = next(
            (each for each in allowed if each.job.models == own),
            next((each for each in allowed if each.job.models not in elsewhere), oldest),
        )
        if chosen is not oldest:
            oldest.passed_over += 1
        return chosen

    def _others(self, number: int) -> list[_Slot]:
        return [slot for other, slot in enumerate(self.slots) if other != number]

    # --- what has happened -----------------------------------------------------------------------

    def _progressed(self, number: int, progress: Progress) -> None:
        running = self.slots[number].running
        if running is not None:
            self.watcher.progressed(number, running.job, progress)

    def _handle(self, event: Event) -> Outcome | None:
        slot = self.slots[event.slot]
        match event:
            case Started():
                self.admit(event.about)
                slot.name, slot.idle, self.worked = event.worker, True, True
                self.watcher.started(event.slot, event.worker)
            case Ended():
                assert slot.running is not None
                waiting, slot.running, slot.idle, slot.losses = slot.running, None, True, 0
                return Outcome(
                    waiting.job,
                    slot.name,
                    event.seconds,
                    waiting.attempts,
                    event.result,
                    event.failure,
                )
            case Refused():
                self._give_up(slot, event.failure)
            case Lost():
                return self._lost(event, slot)
        return None

    def _lost(self, event: Lost, slot: _Slot) -> Outcome | None:
        slot.losses += 1
        running, slot.running, slot.idle, slot.models = slot.running, None, False, None
        slot.started = False  # another one is started where there is work for it
        if slot.losses >= MOST_LOSSES:
            self._give_up(slot, Failure(event.reason))
        if running is None:
            self.watcher.notice(f"a worker was lost before it was ready: {event.reason}")
            return None
        lost = f"{slot.name} was lost with job {running.job.number}: {event.reason}"
        if running.attempts <= self.retries:
            self.watcher.notice(f"{lost}; the job is tried again")
            running.lost_on = event.slot
            self.waiting.appendleft(running)
            return None
        self.watcher.notice(lost)
        times = f"{running.attempts} workers were" if running.attempts > 1 else "its worker was"
        failure = Failure(f"{times} lost: {event.reason}")
        return Outcome(running.job, slot.name, 0.0, running.attempts, failure=failure)

    def _give_up(self, slot: _Slot, failure: Failure) -> None:
        slot.gone, slot.started, slot.idle = True, False, False
        self.reason = failure
        left = sum(not slot.gone for slot in self.slots)
        if left or self.worked:
            self.watcher.notice(f"a worker is given up, {left} left: {failure.message}")

    def _without_workers(self) -> Iterator[Outcome]:
        """Every job that is left has failed; if no worker ever started, that is the error."""
        assert self.reason is not None
        if not self.worked:
            raise self.reason.error()
        failure = Failure(f"no worker is left: {self.reason.message}", self.reason.details)
        rest = itertools.chain(self.waiting, map(_Waiting, self.source))
        for waiting in rest:
            outcome = Outcome(waiting.job, "", 0.0, waiting.attempts, failure=failure)
            self.watcher.ended(None, outcome)
            yield outcome


def outcomes(
    pool: Pool,
    jobs: Iterable[Job],
    *,
    retries: int = RETRIES,
    watcher: Watcher | None = None,
    admit: Callable[[dict[str, Any]], None] = lambda about: None,
    prepare: Callable[[Job], Job] = lambda job: job,
) -> Generator[Outcome, None, None]:
    """Runs jobs on the workers of a pool.

    A worker that is lost is replaced, and its job goes to another one. Jobs are read as they are
    needed, a few for each worker ahead. The pool is closed when the iterator is, or has ended.

    Args:
        retries: how often a job is tried again after its worker was lost.
        watcher: is told what happens.
        admit: called with what each worker tells of itself, before it gets a job; what it raises
            ends everything.
        prepare: gives the job as a worker gets it, so that what is large, or depends on what a
            worker told, is there only while the job runs.

    Yields:
        One outcome for each job, as they end.

    Raises:
        UserError, ExecutionError: no worker could be started.
    """
    return _Scheduler(pool, iter(jobs), retries, watcher or Watcher(), admit, prepare).outcomes()


def results(pool: Pool, jobs: Iterable[Job], **options: Any) -> list[Any]:
    """The results of jobs in their order, for few jobs that all have to succeed.

    Args:
        options: of `outcomes`.

    Raises:
        UserError, ExecutionError: a job failed, or no worker could be started.
    """
    found: dict[int, Any] = {}
    with contextlib.closing(outcomes(pool, jobs, **options)) as ended:
        for outcome in ended:
            if outcome.failure is not None:
                raise outcome.failure.error()
            found[outcome.job.number] = outcome.result
    return [found[number] for number in sorted(found)]
