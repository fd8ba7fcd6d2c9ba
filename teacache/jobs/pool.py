"""Pools of workers as the scheduler sees them, and the one in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..progress import Progress
from .job import Failure, Job, Worker, WorkerLost, WorkerSpec

OnSlotProgress = Callable[[int, Progress], None]


@dataclass(frozen=True)
class Started:
    """The worker of a slot waits for its first job."""

    slot: int
    worker: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """The worker of a slot cannot start, by an error of its own."""

    slot: int
    failure: Failure


@dataclass(frozen=True)
class Ended:
    """The worker of a slot has ended its job."""

    slot: int
    seconds: float
    result: Any
    failure: Failure | None


@dataclass(frozen=True)
class Lost:
    """The worker of a slot is gone, with its job if it had one."""

    slot: int
    reason: str


Event = Started | Refused | Ended | Lost


class Pool(Protocol):
    """A fixed number of slots, each with at most one worker.

    Attributes:
        slots: how many there are, counted from 0.
    """

    slots: int

    def start(self, slot: int) -> None:
        """Begins to start a worker, instead of one that is gone if there was one."""

    def submit(self, slot: int, job: Job) -> None:
        """Gives a job to a worker that has none."""

    def wait(self, on_progress: OnSlotProgress) -> list[Event]:
        """Waits until something happens, or a while; what has happened."""

    def close(self) -> None:
        """Ends every worker within seconds."""


class LocalPool:
    """A `Pool` of one worker in this process; everything runs within `wait`."""

    slots = 1

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None
        self._job: Job | None = None

    def start(self, slot: int) -> None:
        self.close()

    def submit(self, slot: int, job: Job) -> None:
        self._job = job

    def wait(self, on_progress: OnSlotProgress) -> list[Event]:
        if self._worker is None:
            try:
                self._worker = self._spec.start()
            except Exception as error:
                return [Refused(0, Failure.of(error))]
            return [Started(0, self._spec.name, self._worker.about)]
        if self._job is None:
            return []
        job, self._job = self._job, None
        started = time.perf_counter()
        result, failure = None, None
        try:
            result = self._worker.run(job, lambda progress: on_progress(0, progress))
        except WorkerLost as error:
            return [Lost(0, str(error))]
        except Exception as error:
            failure = Failure.of(error)
        return [Ended(0, time.perf_counter() - started, result, failure)]

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class _KeptPool:
    """Another pool whose workers stay when the scheduler has no more jobs for them."""

    def __init__(self, pool: Pool) -> None:
        self.slots = pool.slots
        self._pool = pool
        self._started: dict[int, Started] = {}
        self._again: list[Event] = []
        self._starting: set[int] = set()
        self._busy: set[int] = set()

    def start(self, slot: int) -> None:
        if slot in self._started:
            self._again.append(self._started[slot])
        elif slot not in self._starting:
            self._starting.add(slot)
            self._pool.start(slot)

    def submit(self, slot: int, job: Job) -> None:
        self._busy.add(slot)
        self._pool.submit(slot, job)

    def wait(self, on_progress: OnSlotProgress) -> list[Event]:
        if self._again:
            events, self._again = self._again, []
            return events
        events = self._pool.wait(on_progress)
        for event in events:
            self._starting.discard(event.slot)
            if isinstance(event, Started):
                self._started[event.slot] = event
            else:
                self._busy.discard(event.slot)
                if not isinstance(event, Ended):
                    self._started.pop(event.slot, None)
        return events

    def close(self) -> None:
        if self._busy:  # ended by an error: what still runs must not be taken for the next round's
            self._pool.close()
            for slots in (self._started, self._starting, self._busy):
                slots.clear()


@contextmanager
def kept_open(pool: Pool) -> Iterator[Pool]:
    """`pool` for several rounds of jobs, one after the other: workers keep what they have loaded
    until the context ends."""
    try:
        yield _KeptPool(pool)
    finally:
        pool.close()
